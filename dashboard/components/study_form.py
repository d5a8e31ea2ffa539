"""The form for a new study: a preset and what to maximise, the time that takes here, and all the rest folded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from dashboard import cached, wording
from dashboard.components import study_space
from dashboard.components.study_space import Fields
from dashboard.session import workspace
from engine.geometry import RESIZES
from storage.records import DatasetVersion, Role
from tuning import queries
from tuning.errors import BadSpec, TuningError
from tuning.estimate import Estimate
from tuning.presets import PRESETS, STANDARD, preset_spec
from tuning.spec import Figure, Pruner, Sampler, StudySpec

MIXED = "weighted mean"  # of several figures, offered beside them
SAMPLERS = {
    Sampler.TPE: "Learns from few trials and takes every kind of setting; the usual choice.",
    Sampler.GP: "A Gaussian process: fewer, better chosen trials; seconds per choice after some hundred.",
    Sampler.CMAES: "Learns from ranges of numbers and needs at least two; for many trials.",
    Sampler.RANDOM: "Learns nothing: the fair yardstick.",
    Sampler.GRID: "Every combination, in random order; ranges are cut into a few values.",
}
PRUNERS = {
    Pruner.MEDIAN: "Ends a trial that is worse than the median of those before at the same epoch.",
    Pruner.HYPERBAND: "Keeps the best third at a few epochs; for many trials.",
    Pruner.NONE: "Runs every trial to its end.",
}


def show(version: DatasetVersion, base: StudySpec | None = None) -> StudySpec | None:
    """Draw the form; answers the specification when it was sent, else None.

    Args:
        base: settings to begin with instead of a preset's: those of another study.
    """
    head = st.container()  # presets come first, and what they offer depends on the backbone
    chosen = _choose_backbones(base)
    with head:
        begun = _begin(version, chosen, base)
        objective = _objective(version, begun.spec, begun.key)
    try:
        fields = {"objective": objective, **_ask(chosen, begun)}
        spec = replace(begun.spec, **fields)
    except TuningError as error:
        spec, problem = None, str(error)
        st.error(wording.plain(problem), icon=":material/error:")
    else:
        _say_how_long(version, spec, chosen)
    if not queries.shares_studies(workspace().settings):
        st.caption(
            "This installation keeps its trials in SQLite: a study runs one trial at a time. Several studies run side "
            "by side, one per worker; with PostgreSQL the trials of one study do too."
        )
    sent = st.button(
        "Start the study",
        type="primary",
        icon=":material/play_arrow:",
        disabled=spec is None or not chosen.ready,
    )
    return spec if sent and chosen.ready else None


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What the fields begin with, and the name under which they keep what is typed."""

    spec: StudySpec
    key: str


def _begin(version: DatasetVersion, chosen: "_Chosen", base: StudySpec | None) -> _Begun:
    """Let a person choose a preset, each with its time; another study's settings need none."""
    backbones: dict[str, Any] = {"backbones": chosen.backbones, "weights": chosen.weights}
    if base is not None:
        same = base.backbones == chosen.backbones and base.weights == chosen.weights
        layers = base.layers if same else chosen.layers
        return _Begun(spec=replace(base, layers=layers, **backbones), key=f"like-{chosen.key}")
    specs = {name: preset_spec(name, layers=chosen.layers, **backbones) for name in PRESETS}
    times = {name: _estimate(version, spec, chosen) for name, spec in specs.items()}
    name = st.radio(
        "Preset",
        list(PRESETS),
        index=list(PRESETS).index(STANDARD),
        format_func=str.capitalize,
        captions=[f"{PRESETS[name].about} {_about(times[name])}" for name in PRESETS],
    )
    return _Begun(spec=specs[name], key=f"{name}-{chosen.key}")


def _about(found: Estimate | None) -> str:
    return f"**About {wording.duration(found.seconds)} here.**" if found else "Its time here is not known."


def _estimate(version: DatasetVersion, spec: StudySpec, chosen: "_Chosen") -> Estimate | None:
    """The time of a study; the first time for a backbone and size, this machine is measured for some seconds."""
    if not chosen.ready:
        return None
    asked = json.dumps(spec.to_json(), sort_keys=True)
    found = cached.study_estimate(version.id, asked, measure=False)
    if found is None:
        _measure(version, asked)
        found = cached.study_estimate(version.id, asked, measure=False)
    return found


def _say_how_long(version: DatasetVersion, spec: StudySpec, chosen: "_Chosen") -> None:
    asked = json.dumps(spec.to_json(), sort_keys=True)
    found = cached.study_estimate(version.id, asked, measure=False)
    if found is not None:
        st.caption(f":material/schedule: {wording.estimate(found).capitalize()}.")
    elif chosen.ready and st.button("How long will it take?", icon=":material/schedule:"):
        _measure(version, asked)
        st.rerun()


def _measure(version: DatasetVersion, asked: str) -> None:
    with st.spinner("Measuring how fast this machine is, once for this backbone and size …"):
        cached.study_speed(asked)
    cached.study_estimate.clear(version.id, asked, measure=False)


def _ask(chosen: "_Chosen", begun: _Begun) -> Fields:
    """Draw the folded fields, all of them in any case; answers those of the specification.

    Raises:
        BadSpec: what was typed can't be read.
    """
    problem = None
    spec, key = begun.spec, begun.key
    with st.expander("How long", icon=":material/timer:"):
        fields = _budget(spec, key)
    with st.expander("What is searched", icon=":material/tune:"):
        try:
            fields |= study_space.show(spec, chosen.layers, key)
        except BadSpec as bad:
            problem = bad
    with st.expander("How it is searched", icon=":material/travel_explore:"):
        fields |= _method(spec, key)
    with st.expander("More options", icon=":material/more_horiz:"):
        fields |= _rest(spec, key)
    if problem is not None:
        raise problem
    return fields


def _objective(version: DatasetVersion, spec: StudySpec, key: str) -> str | Mapping[str, float]:
    figures = [
        figure for figure in Figure if version.has_masks or not version.has_defects or not figure.needs_masks
    ]
    offered = [figure.value for figure in figures]
    begun = spec.objective.single.value if spec.objective.single else MIXED
    options = [*offered, MIXED]
    name = st.selectbox(
        "Objective",
        options,
        index=options.index(begun) if begun in options else 0,
        format_func=lambda item: item.capitalize() if item == MIXED else wording.figure_name(item),
        key=f"{key}-objective",
        help="What the study maximises on the validation pictures. "
        + wording.objective_meaning(dict.fromkeys(offered, 1.0)),
    )
    if name != MIXED:
        return str(name)
    shares = spec.objective.shares
    columns = st.columns(len(offered))
    weights = {
        figure: columns[index].number_input(
            f"Weight of {wording.figure_name(figure)}",
            0.0,
            100.0,
            100 * shares.get(Figure(figure), 0.0) if spec.objective.single is None else 100 / len(offered),
            step=5.0,
            key=f"{key}-weight-{figure}",
        )
        for index, figure in enumerate(offered)
    }
    return {figure: weight for figure, weight in weights.items() if weight > 0}


def _budget(spec: StudySpec, key: str) -> Fields:
    st.caption(
        "Whichever limit comes first ends the search; leave a field empty for no such limit. "
        "Patience ends a search that stops improving."
    )
    columns = st.columns(3)
    # By the session and not as defaults: a field that has a default can't be emptied in the browser.
    for name, limit in (("trials", spec.trials), ("minutes", spec.minutes), ("patience", spec.patience)):
        st.session_state.setdefault(f"{key}-{name}", limit)
    trials = columns[0].number_input(
        "Trials", 1, 1000, None, key=f"{key}-trials", placeholder="no limit",
        help="Configurations to try; the first is the paper's own.",
    )  # fmt: skip
    minutes = columns[1].number_input(
        "Minutes", 0.1, 10080.0, None, step=5.0, key=f"{key}-minutes", placeholder="no limit",
        help="No trial begins after so many minutes in which trials ran.",
    )  # fmt: skip
    patience = columns[2].number_input(
        "Patience, trials", 1, 1000, None, key=f"{key}-patience",
        placeholder="no limit", help="Trials in a row without a new best, pruned ones included, that end the search.",
    )  # fmt: skip
    tolerance = spec.tolerance
    if patience is not None:
        tolerance = columns[2].number_input(
            "A new best is better by more than", 0.0, 0.5, spec.tolerance, step=0.001, format="%.3f",
            key=f"{key}-tolerance",
        )  # fmt: skip
    left, right = st.columns(2)
    return {
        "trials": trials,
        "minutes": minutes,
        "patience": patience,
        "tolerance": tolerance,
        "epochs": left.number_input("Epochs of a trial", 1, 1000, spec.epochs, key=f"{key}-epochs"),
        "seeds": right.number_input(
            "Seeds per trial", 1, 20, spec.seeds, key=f"{key}-seeds",
            help="Each configuration is trained so often; its value is the mean, its model the first one's.",
        ),
    }  # fmt: skip


def _method(spec: StudySpec, key: str) -> Fields:
    left, right = st.columns(2)
    sampler = left.selectbox(
        "Sampler", list(Sampler), index=list(Sampler).index(spec.sampler), format_func=_method_name,
        key=f"{key}-sampler", help="Who proposes the next configuration.",
    )  # fmt: skip
    left.caption(SAMPLERS[sampler])
    pruner = right.selectbox(
        "Pruner", list(Pruner), index=list(Pruner).index(spec.pruner), format_func=_method_name,
        key=f"{key}-pruner", help="Who ends hopeless trials early.",
    )  # fmt: skip
    right.caption(PRUNERS[pruner])
    steps = spec.grid_steps
    if sampler is Sampler.GRID:
        steps = left.number_input("Values per range", 2, 50, spec.grid_steps, key=f"{key}-grid")
    latency = right.number_input(
        "Latency limit, ms", 0.1, 1e6, spec.latency_ms, step=5.0, key=f"{key}-latency", placeholder="no limit",
        help="For score and heatmap of one picture on the worker's device, measured for every completed trial; a "
        "slower one can't win.",
    )  # fmt: skip
    return {
        "sampler": sampler,
        "pruner": pruner,
        "grid_steps": steps,
        "latency_ms": latency,
        "priority": left.number_input(
            "Priority", -1000, 1000, spec.priority, key=f"{key}-priority",
            help="Among the studies that wait, higher is taken first.",
        ),
        "seed": right.number_input("Seed", 0, 2**31 - 1, spec.seed, key=f"{key}-seed"),
    }  # fmt: skip


def _method_name(method: Sampler | Pruner) -> str:
    special = {Sampler.TPE: "TPE", Sampler.GP: "GP", Sampler.CMAES: "CMA-ES"}
    return special.get(method, method.value.capitalize())  # type: ignore[call-overload]


def _rest(spec: StudySpec, key: str) -> Fields:
    left, right = st.columns(2)
    height = left.number_input("Height, pixels", 32, 2048, spec.height, step=32, key=f"{key}-height")
    width = right.number_input("Width, pixels", 32, 2048, spec.width, step=32, key=f"{key}-width")
    resize = right.selectbox(
        "Resize", list(RESIZES), index=list(RESIZES).index(spec.resize), key=f"{key}-resize",
        help=" ".join(f"{name}: {meaning}." for name, meaning in RESIZES.items()),
    )  # fmt: skip
    rate = left.number_input(
        "Wanted false rejects, %", 0.1, 50.0, 100 * spec.false_reject_rate, step=0.5, key=f"{key}-rate",
        help="Share of normal parts that may be rejected; the threshold is set for it on the calibration pictures.",
    )  # fmt: skip
    return {"height": height, "width": width, "resize": resize, "false_reject_rate": rate / 100}


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The backbones asked for, and whether a study could start on them."""

    backbones: tuple[str, ...]
    weights: str | None
    ready: bool
    layers: tuple[tuple[int, ...], ...]  # the choices worth comparing

    @property
    def key(self) -> str:
        """Changes with what was chosen: other backbones have other layers."""
        return f"{self.backbones}-{self.weights}"


def _choose_backbones(base: StudySpec | None) -> _Chosen:
    """Say which backbones will be used, or why there is none, with the way to choose others."""
    about = st.container()
    offered = {offer.name: offer for offer in cached.offered_backbones()}
    begun = list(base.backbones) if base else ["auto"]
    with st.expander("Choose the backbone", icon=":material/memory:"):
        names = st.multiselect(
            "Backbone",
            list(dict.fromkeys(["auto", *offered, *begun])),
            default=begun,
            format_func=lambda name: wording.offer(offered[name]) if name in offered else name,
            accept_new_options=True,
            help="Any timm model by its name, or one of these; several are compared trial by trial. “auto” takes the "
            "installation's setting; without one, on a GPU, the paper's wide_resnet50_2 where its weights are at hand, "
            "else drawnet.",
        )
        weights = st.text_input(
            "Weights file",
            (base.weights or "") if base else "",
            help="A .safetensors file, at the same path on this machine and the worker's. With several backbones it "
            "belongs to the one that it is named after.",
        )
    backbones, file = tuple(name.strip() for name in names) or ("auto",), weights.strip() or None
    try:
        asked = StudySpec(backbones=backbones, weights=file)
        found = [cached.backbone(name, asked.weights_of(name)) for name in backbones]
        wrong = [status.text for status in found if not status.ready]
        layers = found[0].layers if len(found) == 1 or wrong else cached.common_layers(backbones, file)
    except TuningError as error:
        wrong, found, layers = [str(error)], [], StudySpec().layers
    for text in wrong:
        about.error(wording.plain(text), icon=":material/error:")
    for status in found:
        if status.ready:
            about.caption(wording.plain(wording.backbone(status.text, status.stronger)))
    return _Chosen(backbones=backbones, weights=file, ready=not wrong, layers=layers)


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
