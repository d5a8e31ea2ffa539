"""Where a backbone's weights come from: a file, the product itself, the hub's cache, the hub."""

from __future__ import annotations

import difflib
import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UnknownBackbone, WeightsUnavailable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)

SHIPPED = "drawnet"  # the backbone whose weights lie beside this file
STRONGEST = "wide_resnet50_2.tv_in1k"  # the paper's; "auto" takes it on a GPU where its weights can be had
HUB_SECONDS = (
    5.0  # how long the hub may take to answer; with the imports before it, a failure stays below 10 s
)

_SHIPPED_ORIGIN = "the product itself, trained on drawn pictures"
_SHIPPED_WEIGHTS = Path(__file__).with_name("drawnet.v1.safetensors")
# What to do without weights; the ways out stand in every message.
_REMEDY = (
    "Name a weights file (--weights FILE, or the setting SIMPLENET_WEIGHTS), "
    "or run once on a machine that reaches the hub and copy its cache, "
    f"or choose {SHIPPED}, which ships with the product."
)
_STRONGER = (
    f"Small and quick. A stronger one, resnet18.tv_in1k or on a GPU the paper's {STRONGEST}, needs its weights: "
    "a .safetensors file (--weights FILE, or the setting SIMPLENET_WEIGHTS), or a hub in reach and its name."
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a backbone's weights can be had, and what people are told about it."""

    name: str  # timm's
    origin: str  # one phrase, for instance "file resnet18.tv_in1k.safetensors"
    licence: str | None = None  # as timm states it
    weights: Path | None  # None: still on the hub
    hub_id: str | None = None

    @property
    def text(self) -> str:
        """Name, origin and licence in one phrase."""
        return f"{self.name} from {self.origin}, licence {self.licence or 'unknown'}"

    @property
    def stronger(self) -> str | None:
        """What a stronger backbone would need, in words, where this is the shipped one; else None."""
        return _STRONGER if self.weights == _SHIPPED_WEIGHTS else None


@dataclass(frozen=True, kw_only=True)
class Backbone(Source):
    """All that is needed to load a backbone, and to tell two of them apart."""

    weights: Path  # a safetensors file in timm's key names
    digest: str  # SHA-256 of that file, hex


def resolve_backbone(
    name: str,
    weights: Path | None = None,
    device: torch.device | None = None,
    *,
    on_download: Callable[[Source], None] | None = None,
) -> Backbone:
    """Find a backbone's weights, as `find_source` does, and fetch them from the hub if they are still there.

    Where "auto" found the paper's on the hub and the download fails, it is the shipped one.

    Args:
        on_download: called before a download, which has no end but the hub's own; what it raises passes through.
    Raises:
        UnknownBackbone, WeightsUnavailable: as `find_source`; or the download broke off.
    """
    source = find_source(name, weights, device)
    here = source.weights
    if here is None:
        assert source.hub_id is not None
        if on_download is not None:
            on_download(source)
        try:
            here = _download(source.hub_id)
        except WeightsUnavailable as error:
            if name != "auto":
                raise
            logger.warning("no weights of the paper's backbone", extra={"reason": str(error)})
            return resolve_backbone(SHIPPED)
    return Backbone(
        name=source.name,
        origin=source.origin,
        licence=source.licence,
        weights=here,
        hub_id=source.hub_id,
        digest=_file_digest(here),
    )


def find_source(name: str, weights: Path | None = None, device: torch.device | None = None) -> Source:
    """Find where a backbone's weights are: the file given, the product itself, the hub's cache, the hub.

    Args:
        name: a timm model or the shipped one, with or without a pretraining behind a dot; or "auto": what the
            file's name says before its first dot; without a file, on a GPU, the paper's WideResNet-50 where
            the hub's cache or the hub has it; else the shipped one.
        weights: a safetensors file, or None.
        device: where it will run, for "auto"; None is a CPU.
    Raises:
        UnknownBackbone: there is no such model.
        WeightsUnavailable: there is no such file, or none of the places has the weights; within 10 s when the
            hub does not answer.
    """
    if name == "auto" and weights is None:
        return _strongest_at_hand(device)
    source = at_hand(name, weights)
    if source.weights is None:
        _require_hub(name, source.hub_id)
    return source


def at_hand(name: str, weights: Path | None = None) -> Source:
    """Look on this machine only; what is not here has the hub as its source, which is not asked.

    Args:
        name: as for `find_source`, but "auto" only with a file.
    Raises:
        UnknownBackbone, WeightsUnavailable: as `find_source`.
    """
    if weights is not None:
        about = _check_file(weights)
        named_by_file = name == "auto"
        name = weights.name.split(".")[0] if named_by_file else name
        try:
            _published(name)  # refuses a name that timm does not know
        except UnknownBackbone as error:
            if not named_by_file:
                raise
            raise UnknownBackbone(
                f"The name of weights file '{weights.name}' says backbone {name!r} (up to its first dot), which is "
                "none. Name the backbone it belongs to as well (--backbone NAME)."
            ) from error
        licence = _licence_of_file(name, weights, about)
        return Source(name=name, weights=weights, origin=f"file {weights.name}", licence=licence)
    licence, hub_id = _published(name)
    if name.split(".")[0] == SHIPPED:
        return Source(name=name, weights=_SHIPPED_WEIGHTS, origin=_SHIPPED_ORIGIN, licence=licence)
    cached = _cached(hub_id)
    return Source(
        name=name,
        weights=cached,
        hub_id=hub_id,
        origin=f"hub{' cache' if cached else ''} {hub_id}",
        licence=licence,
    )


def _strongest_at_hand(device: torch.device | None) -> Source:
    if device is not None and device.type == "cuda":
        try:
            return find_source(STRONGEST)
        except WeightsUnavailable as error:
            logger.info("no weights of the paper's backbone", extra={"reason": str(error)})
    return find_source(SHIPPED)


def timm_with_ours() -> Any:
    """Give timm, our own backbones registered with it; imported here because it takes seconds."""
    import timm

    import engine.backbones.drawnet  # noqa: F401

    return timm


def build(name: str, state: Mapping[str, Tensor]) -> Any:
    """Build a backbone without a classifier, its weights still to be filled in from `state`."""
    from engine.backbones.drawnet import channels_of

    timm = timm_with_ours()
    if name.split(".")[0] == SHIPPED:
        return timm.create_model(name, num_classes=0, channels=channels_of(state))
    try:
        # Transformers that can stretch their position embedding take pictures of any size then.
        return timm.create_model(name, num_classes=0, dynamic_img_size=True)
    except TypeError:
        return timm.create_model(name, num_classes=0)


def _check_file(weights: Path) -> Mapping[str, str]:
    """Read the header of a weights file; answers its metadata."""
    from safetensors import SafetensorError, safe_open

    if not weights.is_file():
        raise WeightsUnavailable(f"Weights file '{weights}' does not exist. {_REMEDY}")
    if weights.suffix != ".safetensors":
        raise WeightsUnavailable(
            f"Weights file '{weights.name}' is not a .safetensors file; pickles can run code and are not read. "
            "Convert it with safetensors."
        )
    try:
        with safe_open(weights, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsUnavailable(
            f"Weights file '{weights}' ({weights.stat().st_size:,} bytes) can't be read ({error}); it is damaged "
            f"or was not copied to its end. Copy it again. {_REMEDY}"
        ) from error


def _licence_of_file(name: str, weights: Path, about: Mapping[str, str]) -> str | None:
    """What the file says; else that of the pretraining it is named after; else nobody knows."""
    if "licence" in about:
        return about["licence"]
    pretraining = weights.name.removesuffix(".safetensors")
    if "." not in pretraining or pretraining.split(".")[0] != name.split(".")[0]:
        return None
    try:
        return _published(pretraining)[0]
    except UnknownBackbone:
        return None


def _published(name: str) -> tuple[str | None, str | None]:
    """Give a model's licence and its repository on the hub, as timm states them."""
    timm = timm_with_ours()
    try:
        known = timm.is_model(name.split(".")[0])
        published = timm.get_pretrained_cfg(name, allow_unregistered=False) if known else None
    except RuntimeError:  # a known architecture with an unknown pretraining
        known, published = False, None
    if not known:
        wanted, names = name.split(".")[0].lower(), timm.list_models()
        near = difflib.get_close_matches(wanted, names, n=4, cutoff=0.7)
        hint = f" Near: {', '.join(near)}." if near else ""
        raise UnknownBackbone(
            f"Backbone {name!r} is not a timm model, nor {SHIPPED}.{hint} `simplenet backbones` lists some."
        )
    if published is None:
        return None, None
    return published.license or None, published.hf_hub_id


def _cached(hub_id: str | None) -> Path | None:
    import huggingface_hub

    cached = hub_id and huggingface_hub.try_to_load_from_cache(hub_id, "model.safetensors")
    return Path(cached) if isinstance(cached, str) and cached else None


def _download(hub_id: str) -> Path:
    import huggingface_hub

    logger.info("downloading backbone weights", extra={"repository": hub_id})
    try:
        return Path(huggingface_hub.hf_hub_download(hub_id, "model.safetensors"))
    # The hub's client raises errors of its own, of its transport and of the system.
    except Exception as error:
        raise WeightsUnavailable(
            f"Weights of {hub_id!r} could not be downloaded ({error}). {_REMEDY}"
        ) from error


def _require_hub(name: str, hub_id: str | None) -> None:
    """Ask the hub for the file's size, and give up after HUB_SECONDS.

    A thread holds the deadline because a resolver or a proxy that does not answer obeys no timeout of the
    client's.
    """
    if hub_id is None:
        raise WeightsUnavailable(f"No weights of backbone {name!r} are published on the hub. {_REMEDY}")
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise WeightsUnavailable(
            f"Weights of {hub_id!r} are not in the hub's cache and HF_HUB_OFFLINE is set. {_REMEDY}"
        )
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            url = huggingface_hub.hf_hub_url(hub_id, "model.safetensors")
            huggingface_hub.get_hf_file_metadata(url, timeout=HUB_SECONDS)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, name="ask-hub", daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if not outcome:
        raise WeightsUnavailable(
            f"The hub did not answer within {HUB_SECONDS:.0f} s for {hub_id!r}. {_REMEDY}"
        )
    if outcome[0] is not None:
        raise WeightsUnavailable(
            f"The hub can't be reached for {hub_id!r} ({outcome[0]}). {_REMEDY}"
        ) from outcome[0]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
