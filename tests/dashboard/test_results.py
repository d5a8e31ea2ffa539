"""Figures as sentences: always with their interval and what they were measured on."""

from dashboard import results

TEST = {
    "images": 57,
    "synthetic": False,
    "image_auroc": 0.963,
    "image_auroc_low": 0.931,
    "image_auroc_high": 0.988,
    "average_precision": 0.97,
    "f1": 0.9,
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
