"""The form for a new study: what to search and for how long, the rest folded."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard import cached, wording
from engine.config import SimpleNetConfig
from engine.geometry import RESIZES
from storage.records import DatasetVersion, Role
from tuning.errors import BadSpec
from tuning.knobs import KNOBS
from tuning.spec import Figure, StudySpec

DEPTHS = (0, 1, 2, 3, 4)
SIGMAS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
DEFAULTS = StudySpec()


def show(version: DatasetVersion) -> StudySpec | None:
    """Draw the form; answers the specification when it was sent, else None.

    Raises:
        BadSpec: a field breaks its rule.
    """
    chosen = _choose_backbone()
    with st.form("new study", enter_to_submit=False):
        trials = st.slider(
            "Trials",
            1,
            100,
            DEFAULTS.trials or 20,
            help="Configurations to try; the first is the paper's own.",
        )
        objectives = [
            item for item in Figure if version.has_masks or not version.has_defects or not item.needs_masks
        ]
        objective = st.selectbox(
            "Objective",
            objectives,
            format_func=lambda item: wording.figure_name(item.value),
            help="The figure on the validation pictures that the study maximises. "
            + " ".join(
                f"{wording.figure_name(item)}: {wording.FIGURE_MEANINGS[item]}" for item in objectives
            ),
        )
        noise = st.select_slider(
            "Noise σ",
            SIGMAS,
            value=_nearest(DEFAULTS.noise_std),
            help="Range of the noise that stands for anomalies in training.",
        )
        offered = [wording.layers(choice) for choice in chosen.layers]
        layers = st.multiselect(
            "Layers",
            offered,
            default=offered,
            accept_new_options=True,
            help="Choices of backbone stages, or of a transformer's blocks; another can be typed, such as 1+3. "
            "Lower ones see finer detail and take longer.",
        )
        depths = st.pills(
            "Adaptor depth",
            DEPTHS,
            selection_mode="multi",
            default=list(DEFAULTS.adaptor_depths),
            help="Linear layers behind the backbone.",
        )
        knobs = _knobs()
        more = _more_options()
        sent = st.form_submit_button("Start the study", type="primary", icon=":material/play_arrow:")
    if not sent or not chosen.ready:
        return None
    return StudySpec(
        trials=trials,
        objective=objective,
        noise_std=noise,
        layers=tuple(_layers(choice) for choice in layers),
        adaptor_depths=tuple(sorted(depths)),
        knobs=knobs,
        backbones=(chosen.backbone,),
        weights=chosen.weights,
        height=more.height,
        width=more.width,
        resize=more.resize,
        epochs=more.epochs,
        seed=more.seed,
        false_reject_rate=more.false_reject_rate,
    )


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(stage) for stage in text.replace(",", "+").split("+"))
    except ValueError:
        raise BadSpec(
            f"Layers “{text}” are not numbers with + between them. Write for instance 2+3."
        ) from None


def _knobs() -> dict[str, tuple[Any, ...]]:
    """Further settings to search: those with values other than the engine's default alone."""
    with st.expander("Search more settings"):
        st.caption("One value fixes a setting, several are searched. More settings want more trials.")
        columns = st.columns(2)
        chosen = {
            name: columns[index % 2].multiselect(
                wording.knob(name),
                values.choices,
                default=[getattr(SimpleNetConfig, name)],
                format_func=wording.knob_value,
                help=values.meaning,
                placeholder="the engine's default",
            )
            for index, (name, values) in enumerate(KNOBS.items())
        }
    default = {name: [getattr(SimpleNetConfig, name)] for name in KNOBS}
    return {name: tuple(values) for name, values in chosen.items() if values and values != default[name]}


@dataclass(frozen=True, kw_only=True)
class _More:
    """The folded fields."""

    height: int
    width: int
    resize: str
    false_reject_rate: float
    epochs: int
    seed: int


def _more_options() -> _More:
    with st.expander("More options"):
        left, right = st.columns(2)
        height = left.number_input("Height, pixels", 32, 2048, DEFAULTS.height, step=32)
        width = right.number_input("Width, pixels", 32, 2048, DEFAULTS.width, step=32)
        resize = right.selectbox(
            "Resize", RESIZES, help=" ".join(f"{name}: {meaning}." for name, meaning in RESIZES.items())
        )
        rate = left.number_input(
            "Wanted false rejects, %", 0.1, 50.0, 100 * DEFAULTS.false_reject_rate, step=0.5,
            help="Share of normal parts that may be rejected; the threshold is set for it on the calibration pictures.",
        )  # fmt: skip
        epochs = left.number_input("Epochs of a trial", 1, 1000, DEFAULTS.epochs)
        seed = right.number_input("Seed", 0, 2**31 - 1, DEFAULTS.seed)
    return _More(
        height=int(height),
        width=int(width),
        resize=resize,
        false_reject_rate=rate / 100,
        epochs=int(epochs),
        seed=int(seed),
    )


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The backbone asked for, and whether a study could start on it."""

    backbone: str
    weights: str | None
    ready: bool
    layers: tuple[tuple[int, ...], ...]  # the choices worth comparing


def _choose_backbone() -> _Chosen:
    """Say which backbone will be used, or why there is none, with the way to choose another.

    Outside the form, where a choice is answered at once.
    """
    about = st.container()
    offered = {offer.name: offer for offer in cached.offered_backbones()}
    with st.expander("Choose the backbone", icon=":material/memory:"):
        backbone = st.selectbox(
            "Backbone",
            ["auto", *offered],
            format_func=lambda name: wording.offer(offered[name]) if name in offered else name,
            accept_new_options=True,
            help="Any timm model by its name, or one of these. “auto” takes the installation's setting; without one, "
            "on a GPU, the paper's wide_resnet50_2 where its weights are at hand, else drawnet.",
        )
        weights = st.text_input(
            "Weights file", "", help="A .safetensors file, at the same path on this machine and the worker's."
        )
    name, file = (backbone or "auto").strip(), weights.strip() or None
    status = cached.backbone(name, file)
    if status.ready:
        about.caption(wording.plain(wording.backbone(status.text, status.stronger)))
    else:
        about.error(wording.plain(status.text), icon=":material/error:")
    return _Chosen(backbone=name, weights=file, ready=status.ready, layers=status.layers)


def explain(version: DatasetVersion) -> None:
    """Say what the study will do with this version's pictures."""
    count = {role: version.count(role=role) for role in Role}
    steps = [
        f"Each trial trains one configuration on {wording.plural(count[Role.TRAIN], 'normal picture')}.",
        f"It is judged on {wording.plural(count[Role.VALIDATION], 'validation picture')}; hopeless trials end early.",
        f"The threshold is set on {wording.plural(count[Role.CALIBRATION], 'calibration picture')}.",
        f"The best trial is read once on {wording.plural(count[Role.TEST], 'test picture')}, which no choice saw. "
        "It becomes the champion if it beats the present one.",
    ]
    with st.container(border=True):
        st.markdown("**What happens**")
        st.markdown("\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1)))
        if not version.has_defects:
            st.caption(
                "No picture is labelled anomalous: steps 2 and 4 use planted defects (“synthetic validation”)."
            )


def _nearest(noise_std: tuple[float, float]) -> tuple[float, float]:
    """The default range on the slider's steps."""
    low, high = (min(SIGMAS, key=lambda step: abs(step - value)) for value in noise_std)
    return low, high
