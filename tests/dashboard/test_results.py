"""Figures as sentences: always with their interval and what they were measured on."""

from dataclasses import replace

import pytest

from dashboard import results
from storage.records import OperatingPoint, ThresholdSource, now

TEST = {
    "images": 57,
    "synthetic": False,
    "image_auroc": 0.963,
    "image_auroc_low": 0.931,
    "image_auroc_high": 0.988,
    "average_precision": 0.97,
    "f1": 0.9,
    "f1_low": 0.8,
    "f1_high": 0.95,
    "pixel_auroc": None,
    "aupro": None,
}
VALIDATION = {**TEST, "images": 30, "image_auroc": 0.98, "synthetic": True}


def test_sentence_has_interval_and_number_of_sealed_pictures() -> None:
    assert (
        results.test_sentence({"test": TEST}) == "image AUROC 0.963 (0.931–0.988) on 57 sealed test pictures"
    )


def test_sentence_says_when_nothing_was_tested() -> None:
    assert results.test_sentence({"test": None}).startswith("not tested")


def test_synthetic_defects_are_named_where_figures_rest_on_them() -> None:
    assert results.measured_on(VALIDATION, "validation") == "30 validation pictures (synthetic defects)"


def test_headline_in_two_sizes() -> None:
    assert results.headline(TEST, "test") == ("0.963", "(0.931–0.988) on 57 sealed test pictures")


def test_rows_leave_out_figures_that_do_not_exist() -> None:
    rows = results.figure_rows({"test": TEST, "validation": VALIDATION})
    assert [row[0] for row in rows] == ["Image AUROC", "Average precision", "F1"]
    assert rows[0][1:] == ("0.963 (0.931–0.988)", "0.980 (0.931–0.988)")


def test_rows_of_an_untested_model_have_a_dash() -> None:
    assert results.figure_rows({"test": None, "validation": VALIDATION})[0][1] == "–"


POINT = OperatingPoint(
    id=1,
    model_id=1,
    threshold=0.7,
    source=ThresholdSource.VALUE,
    parameters={},
    figures={
        "test": {
            "normal": 30,
            "false_rejects": 1,
            "anomalous": 27,
            "escapes": 9,
            "escapes_by_type": {"crack": 7, "blow hole": 2},
        }
    },
    who="ada",
    why="to see",
    created_at=now(),
    restores_id=None,
)
FIGURES = {
    "calibration": {"threshold": 0.5},
    "test": {
        **TEST,
        "escapes": 3,
        "by_defect_type": {"crack": {"images": 20, "image_auroc": 0.9, "escapes": 3}},
    },
    "validation": VALIDATION,
}


def test_what_hangs_on_the_threshold_is_told_at_the_operating_point() -> None:
    test = results.at_point(FIGURES, POINT)["test"]
    assert test["f1"] == pytest.approx(2 * 18 / (2 * 18 + 9 + 1))
    assert (test["escapes"], test["by_defect_type"]["crack"]["escapes"]) == (9, 7)
    assert test["image_auroc"] == TEST["image_auroc"]


def test_what_nobody_counted_at_a_point_is_left_open() -> None:
    found = results.at_point(FIGURES, replace(POINT, figures={}))
    assert (found["validation"]["f1"], found["test"]["by_defect_type"]["crack"]["escapes"]) == (None, None)
    assert results.figure_rows(found)[2:] == []


def test_at_its_own_threshold_a_model_keeps_its_figures() -> None:
    assert results.at_point(FIGURES, replace(POINT, threshold=0.5)) == FIGURES


def test_interval_of_f1_is_not_told_beside_that_of_another_threshold() -> None:
    figures = {"test": TEST, "calibration": {"threshold": 0.5}}
    assert results.interval(figures["test"], "f1") == (0.8, 0.95)
    assert results.interval(results.at_point(figures, POINT)["test"], "f1") is None
