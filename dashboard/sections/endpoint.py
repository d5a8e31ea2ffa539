"""How to call a champion: its address, a request to copy, how the server does, and the ways without our server."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

import streamlit as st

from dashboard import incidents, wording
from dashboard.components import look
from dashboard.session import workspace
from storage.records import Model
from tuning import serving_client
from tuning.serving.access import key_required

LIVE_SECONDS = 5.0


def show(model: Model) -> None:
    """Draw the card."""
    st.subheader("Endpoint")
    with st.container(border=True, key="endpoint"):
        st.fragment(_state, run_every=LIVE_SECONDS)(model)
        settings = workspace().settings
        address = f"{settings.model_server_public_url}/{model.dataset_name}"
        key = '  -H "Authorization: Bearer $SIMPLENET_KEY" \\\n' if key_required(settings) else ""
        st.caption("A picture in; score, threshold, decision and model version out:")
        st.code(f"curl {quote(f'{address}/predict')} \\\n{key}  -F image=@part.png", language="bash")
        st.caption("Its heatmap as a PNG file:")
        st.code(
            f"curl {quote(f'{address}/predict?map=overlay')} \\\n{key}  -H 'Accept: image/png' -F image=@part.png "
            "-o heatmap.png",
            language="bash",
        )
        if key:
            st.caption("Keys are made on the System page, or with `simplenet keys add NAME`.")
        with st.expander("MLflow's protocol, Python, and serving without this server"):
            _other_ways(model, address, key)


@incidents.guarded
def _state(model: Model) -> None:
    settings = workspace().settings
    stats = serving_client.stats(settings, model.dataset_name)
    address = f"{settings.model_server_public_url}/{model.dataset_name}"
    if stats is None:
        st.info(
            f"The model server does not answer at {wording.plain(settings.model_server_url)}. `simplenet up` starts "
            "and watches it; alone it is started with `simplenet serve`.",
            icon=":material/info:",
        )
        return
    look.facts([("Address", address), *_figures(model, stats)])
    if stats["trouble"]:
        st.warning(
            f"It serves on, but can't see whether the champion has changed: {wording.plain(stats['trouble'])}",
            icon=":material/sync_problem:",
        )


def _figures(model: Model, stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How the endpoint does, as names and values."""
    version = stats["model_version"]
    if version is None:
        serving = f"version {model.version}, loaded by the first request"
    elif version == model.version:
        serving = f"version {version}, in memory"
    else:
        serving = f"version {version}, until version {model.version} is loaded"
    pairs = [("Serves", serving)]
    if not stats["requests"]:
        return [*pairs, ("Requests", "none yet since the server started")]
    minutes = round(stats["window_seconds"] / 60)
    if stats["p50_ms"] is not None:
        pairs.append(
            (
                "Latency",
                f"half within {stats['p50_ms']:.0f} ms, 95 % within {stats['p95_ms']:.0f} ms (p50, p95 of the last "
                f"{minutes} minutes; a model's first answer waits until it is loaded)",
            )
        )
    requests, errors = stats["requests"], stats["errors"]
    pairs.append(
        (
            "Requests",
            f"{stats['window_requests']:,} in {minutes} minutes, {requests:,} since the server started",
        )
    )
    pairs.append(
        ("Errors", f"{stats['window_errors']:,} in {minutes} minutes, {errors:,} since the server started")
    )
    return pairs


def _other_ways(model: Model, address: str, key: str) -> None:
    uri = f"models:/{model.dataset_name}@champion"
    tracking = without_password(workspace().settings.tracking_uri)
    st.caption("MLflow's protocol, on the same server: encoded pictures in base64.")
    st.code(
        f"curl {quote(f'{address}/invocations')} \\\n{key}  -H 'Content-Type: application/json' \\\n"
        '  -d "{\\"dataframe_split\\": {\\"columns\\": [\\"image\\"], \\"data\\": [[\\"$(base64 -w0 part.png)\\"]]}}"',
        language="bash",
    )
    st.caption("From Python: score, threshold and decision of encoded pictures.")
    st.code(
        "import mlflow\nimport pandas as pd\n\n"
        f'mlflow.set_tracking_uri("{tracking}")\n'
        f'model = mlflow.pyfunc.load_model("{uri}")\n'
        'print(model.predict(pd.DataFrame({"image": [open("part.png", "rb").read()]})))',
        language="python",
        wrap_lines=True,
    )
    st.caption("MLflow's own server: one model, started anew when the champion changes, without keys.")
    st.code(
        f'MLFLOW_TRACKING_URI="{tracking}" \\\n'
        f'  mlflow models serve --env-manager local --port 5001 -m "{uri}"',
        language="bash",
        wrap_lines=True,
    )


def without_password(url: str) -> str:
    """A database's address may carry a password; a page never shows it."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    if not at or ":" not in credentials:
        return url
    return f"{scheme}{separator}{credentials.split(':')[0]}:PASSWORD@{host}"
