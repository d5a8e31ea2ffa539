"""What a new study searches: σ, layers and adaptor depth, and any other setting with its range or choices."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard import wording
from tuning.errors import BadSpec
from tuning.knobs import KNOBS, SEARCHED, Knob, Range, Values
from tuning.spec import StudySpec

Fields = dict[str, Any]
"""Some fields of a StudySpec, as a form answers them."""

DEPTHS = (0, 1, 2, 3, 4)
SIGMAS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
CHOICES, RANGE = "values", "range"
SCALES = {"log": True, "linear": False}


def show(spec: StudySpec, offered: Sequence[Sequence[int]], key: str) -> Fields:
    """Draw the fields of the space; all of them, whatever can't be read: one that isn't drawn forgets what it held.

    Args:
        spec: what they begin with.
        offered: choices of layers that suit the backbone.
        key: distinguishes these fields from others.
    Raises:
        BadSpec: typed layers can't be read, or the ends of a range.
    """
    sigmas = sorted({*SIGMAS, *spec.noise_std})
    noise = st.select_slider(
        "Noise σ", sigmas, value=spec.noise_std, format_func=lambda std: f"{std:.3g}", key=f"{key}-noise"
    )
    st.caption(SEARCHED["noise_std"].meaning)
    begun = [wording.layers(choice) for choice in spec.layers]
    layers = st.multiselect(
        "Layers",
        list(dict.fromkeys([*(wording.layers(choice) for choice in offered), *begun])),
        default=begun,
        accept_new_options=True,
        key=f"{key}-layers",
        help="Another choice can be typed, such as 1+3.",
    )
    st.caption(SEARCHED["layers"].meaning)
    depths = st.pills(
        "Adaptor depth",
        sorted({*DEPTHS, *spec.adaptor_depths}),
        selection_mode="multi",
        default=list(spec.adaptor_depths),
        key=f"{key}-depths",
    )
    st.caption(SEARCHED["adaptor_depth"].meaning)
    knobs = _knobs(spec, key)
    return {
        "noise_std": noise,
        "layers": tuple(_layers(choice) for choice in layers),
        "adaptor_depths": tuple(sorted(depths)),
        "knobs": knobs,
    }


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(stage) for stage in text.replace(",", "+").split("+"))
    except ValueError:
        raise BadSpec(
            f"Layers “{text}” are not numbers with + between them. Write for instance 2+3."
        ) from None


def _knobs(spec: StudySpec, key: str) -> dict[str, Values]:
    """Further settings, each with what to search of it."""
    names = st.multiselect(
        "More settings to search",
        list(KNOBS),
        default=list(spec.knobs),
        format_func=wording.knob,
        key=f"{key}-knobs",
        placeholder="none: they keep the engine's defaults",
        help="More settings want more trials.",
    )
    found: dict[str, Values] = {}
    problems: list[BadSpec] = []
    for name in names:
        try:
            found[name] = _knob(name, KNOBS[name], spec.knobs.get(name), f"{key}-{name}")
        except BadSpec as problem:
            problems.append(problem)
    if problems:
        raise problems[0]
    return found


def _knob(name: str, knob: Knob, begun: Values | None, key: str) -> Values:
    with st.container(border=True):
        head, kinds = st.columns([3, 2], vertical_alignment="center")
        head.markdown(f"**{wording.knob(name)}**")
        kind = CHOICES
        if knob.range is not None:
            kind = (
                kinds.segmented_control(
                    f"{wording.knob(name)}: what to search",
                    (CHOICES, RANGE),
                    default=RANGE if begun is None or isinstance(begun, Range) else CHOICES,
                    label_visibility="collapsed",
                    key=f"{key}-kind",
                )
                or CHOICES
            )
        st.caption(knob.meaning)
        if kind == RANGE and knob.range is not None:
            return _range(name, begun if isinstance(begun, Range) else knob.range, key)
        return _choices(name, knob, begun if isinstance(begun, tuple) else knob.choices, key)


def _range(name: str, begun: Range, key: str) -> Range:
    low, high, scale = st.columns(3)
    number = dict[str, Any](step=1) if begun.integer else dict[str, Any](step=None, format="%g")
    ends = [
        column.number_input(f"{wording.knob(name)}, {end}", value=value, key=f"{key}-{end}", **number)
        for column, end, value in ((low, "from", begun.low), (high, "to", begun.high))
    ]
    chosen = scale.selectbox(
        f"{wording.knob(name)}, scale", list(SCALES), index=0 if begun.log else 1, key=f"{key}-scale"
    )
    return Range(low=ends[0], high=ends[1], log=SCALES[chosen], integer=begun.integer)


def _choices(name: str, knob: Knob, begun: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    return tuple(
        st.multiselect(
            f"{wording.knob(name)}, values",
            list(dict.fromkeys([*knob.choices, *begun])),
            default=list(begun),
            format_func=wording.knob_value,
            key=f"{key}-values",
            help="One value fixes the setting, several are searched.",
        )
    )
