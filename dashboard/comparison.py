"""What a comparison says, as rows of text: for the page and for the command line alike."""

from collections.abc import Sequence
from typing import Any

from dashboard import results, wording
from tuning.compare import FIGURES, Difference, Disagreement, Subject

COUNTS = {"false_rejects": "normal", "escapes": "anomalous"}  # figure → of how many


def setting_rows(differing: Sequence[Difference]) -> list[list[str]]:
    """A row per setting that differs: its name, then each one's value."""
    return [[_name(row.name), *(_value(value) for value in row.values)] for row in differing]


def figure_rows(compared: Sequence[Subject]) -> list[list[str]]:
    """A row per figure, on validation and, where there are models, on the sealed test."""
    rows = [
        [f"{_figure_name(key)}", *(_cell(one.validation, key) for one in compared)]
        for key in FIGURES
        if any(one.validation.get(key) is not None for one in compared)
    ]
    rows.append(["Measured on", *(results.measured_on(one.validation, "validation") for one in compared)])
    if any(one.latency_ms is not None for one in compared):
        rows.append(
            ["Latency", *("–" if one.latency_ms is None else f"{one.latency_ms:.1f} ms" for one in compared)]
        )
    if any(one.test for one in compared):
        rows.append(
            [
                "Image AUROC, sealed test",
                *(_cell(one.test, "image_auroc") if one.test else "–" for one in compared),
            ]
        )
    return rows


def defect_type_rows(compared: Sequence[Subject]) -> list[list[str]]:
    """A row per defect type: image AUROC and escapes of each, on validation."""
    kinds = sorted({kind for one in compared for kind in one.validation.get("by_defect_type", {})})
    return [[kind.replace("_", " "), *(_of_kind(one, kind) for one in compared)] for kind in kinds]


def decision_line(found: Sequence[Disagreement]) -> str:
    """'3 of 24 pictures are decided differently.'"""
    split = sum(one.split for one in found)
    verb = "is" if split == 1 else "are"
    return f"{split} of {wording.plural(len(found), 'picture')} {verb} decided differently."


def picture_name(one: Disagreement) -> str:
    """The picture's name; of a planted defect with a word that says so."""
    return f"{one.picture.image.name} (planted defect)" if one.picture.planted else one.picture.image.name


def truth(one: Disagreement) -> str:
    """'normal', 'scratch'."""
    return (one.picture.defect_type or "normal").replace("_", " ")


def _of_kind(one: Subject, kind: str) -> str:
    figures = one.validation.get("by_defect_type", {}).get(kind)
    if figures is None:
        return "–"
    escapes = wording.plural(int(figures["escapes"]), "escape")
    return f"{wording.number(figures['image_auroc'])}, {escapes} of {figures['images']}"


def _cell(figures: Any, key: str) -> str:
    value = figures.get(key)
    if value is None:
        return "–"
    if key in COUNTS:
        return f"{value} of {figures[COUNTS[key]]}"
    return wording.with_interval(value, results.interval(figures, key))


def _figure_name(key: str) -> str:
    return {"false_rejects": "False rejects", "escapes": "Escapes", "f1": "F1 at the threshold"}.get(
        key, wording.figure_name(key)
    )


def _name(name: str) -> str:
    return {"noise_std": "σ"}.get(name, name.replace("_", " "))


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return wording.layers(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return wording.knob_value(value)
