"""A model's figures as sentences and rows, from the mapping that tuning stores with it."""

from collections.abc import Mapping
from typing import Any

from dashboard import wording
from storage.records import OperatingPoint

ROLES = ("test", "validation")
ROWS = ("image_auroc", "average_precision", "f1", "pixel_auroc", "aupro")


def at_point(figures: Mapping[str, Any], point: OperatingPoint) -> dict[str, Any]:
    """A model's figures with those that hang on the threshold as they are at an operating point.

    What nobody has counted there is None: the figures at another threshold would be wrong ones.
    """
    if point.threshold == figures["calibration"]["threshold"]:
        return dict(figures)
    return {
        **figures,
        **{role: _at(of, point.figures.get(role)) for role in ROLES if (of := figures.get(role))},
    }


def _at(figures: Mapping[str, Any], counts: Mapping[str, Any] | None) -> dict[str, Any]:
    told = counts or {}
    escapes = told.get("escapes_by_type", {})
    return {
        **figures,
        "f1": _f1(told) if told else None,
        "f1_low": None,
        "f1_high": None,
        "escapes": told.get("escapes"),
        "false_rejects": told.get("false_rejects"),
        "by_defect_type": {
            kind: {**of_kind, "escapes": escapes.get(kind)}
            for kind, of_kind in figures.get("by_defect_type", {}).items()
        },
    }


def _f1(counts: Mapping[str, Any]) -> float:
    caught = counts["anomalous"] - counts["escapes"]
    wrong = counts["escapes"] + counts["false_rejects"]
    return 2 * caught / (2 * caught + wrong) if caught or wrong else 0.0


def interval(figures: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """The 95 % interval of a figure, where it was computed."""
    low, high = figures.get(f"{key}_low"), figures.get(f"{key}_high")
    return None if low is None or high is None else (low, high)


def measured_on(figures: Mapping[str, Any], role: str) -> str:
    """'57 sealed test pictures'; says so where the defects were planted."""
    what = "sealed test picture" if role == "test" else f"{role} picture"
    planted = " (synthetic defects)" if figures.get("synthetic") else ""
    return wording.plural(int(figures["images"]), what) + planted


def test_sentence(figures: Mapping[str, Any]) -> str:
    """'Image AUROC 0.963 (0.931–0.988) on 57 sealed test pictures', or why there is no such figure."""
    test = figures.get("test")
    if not test:
        return "not tested: the dataset version has no test pictures to judge it by"
    value = wording.with_interval(test["image_auroc"], interval(test, "image_auroc"))
    return f"image AUROC {value} on {measured_on(test, 'test')}"


def latency_sentence(figures: Mapping[str, Any], *, short: bool = False) -> str:
    """'10.2 ms, 95 % within 12.9 ms, on 57 pictures; Intel …, 2 cores', as measured where the model was made."""
    latency = figures.get("latency")
    if not latency:
        return "not measured; an export's certificate measures it"
    text = f"{latency['p50_ms']:.1f} ms"
    if short:
        return text
    pictures = wording.plural(int(latency["pictures"]), "picture")
    return f"{text}, 95 % within {latency['p95_ms']:.1f} ms, on {pictures}; {latency['machine']}"


def figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of (figure, on test, on validation) for the figures that exist."""
    rows = []
    for key in ROWS:
        cells = [_cell(figures.get(role), key) for role in ROLES]
        if any(cell != "–" for cell in cells):
            rows.append((wording.figure_name(key), cells[0], cells[1]))
    return rows


def _cell(of_role: Mapping[str, Any] | None, key: str) -> str:
    if not of_role or of_role.get(key) is None:
        return "–"
    return wording.with_interval(of_role[key], interval(of_role, key))


def headline(figures: Mapping[str, Any], role: str) -> tuple[str, str]:
    """A figure in two parts, large and small: ('0.963', '(0.931–0.988) on 57 sealed test pictures')."""
    between = interval(figures, "image_auroc")
    shown = f"({wording.number(between[0])}–{wording.number(between[1])}) " if between else ""
    return wording.number(figures["image_auroc"]), f"{shown}on {measured_on(figures, role)}"
