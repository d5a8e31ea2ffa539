"""Asking the model server of this installation, where it runs, for what a page would otherwise compute itself."""

import base64
import io
import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.scoring import Scored
from storage.errors import DamagedSecret
from storage.records import Model
from storage.settings import Settings
from tuning.serving.keys import own_key

logger = logging.getLogger(__name__)

SCORE_SECONDS = 30.0  # patience with a picture, the loading of a model included
ASK_SECONDS = 2.0  # patience with a question about the server itself
ABSENT_SECONDS = 10.0  # so long a server that did not answer is not asked again

_absent_until: dict[str, float] = {}


def score(settings: Settings, model: Model, data: bytes) -> Scored | None:
    """Score and anomaly map of an encoded picture from the server; None where it does not serve this very version."""
    dataset = urllib.parse.quote(model.dataset_name)
    answer = _ask(settings, f"/{dataset}/predict?map=npy&version={model.version}", SCORE_SECONDS, data=data)
    if answer is None:
        return None
    values = base64.b64decode(answer["map"]["base64"])
    return Scored(score=float(answer["score"]), anomaly_map=np.load(io.BytesIO(values), allow_pickle=False))


def stats(settings: Settings, dataset_name: str) -> Mapping[str, Any] | None:
    """The traffic of a dataset (`tuning.serving.answers.Stats`); None where the server does not answer."""
    return _ask(settings, f"/{urllib.parse.quote(dataset_name)}/stats", ASK_SECONDS)


def _ask(
    settings: Settings, path: str, seconds: float, *, data: bytes | None = None
) -> Mapping[str, Any] | None:
    base = settings.model_server_url
    if time.monotonic() < _absent_until.get(base, 0.0):
        return None
    try:
        headers = {"Authorization": f"Bearer {own_key(settings.home)}", "Content-Type": "image/*"}
        request = urllib.request.Request(f"{base}{path}", data, headers)  # noqa: S310 (an address of our settings)
        with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310
            found: dict[str, Any] = json.load(response)
            return found
    except (
        urllib.error.HTTPError
    ) as error:  # it runs, and says no: another champion, a full queue, a large picture
        with error:
            logger.debug("the model server answered %d: %s", error.code, error.read(1000))
        return None
    except (OSError, ValueError, DamagedSecret) as error:
        logger.debug("the model server does not answer: %s", error)
        _absent_until[base] = time.monotonic() + ABSENT_SECONDS
        return None
