"""Charts say what their data say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dashboard import theme
from dashboard.charts import (
    CURVES,
    ScorePoint,
    Span,
    TrialPoint,
    contour,
    epoch_curves,
    front,
    importance,
    objective_history,
    parallel,
    pareto,
    score_strip,
    searched,
    slices,
    timeline,
)

TRIALS = [
    TrialPoint(number=2, state="completed", value=0.80, curve={1: 0.7, 2: 0.80}),
    TrialPoint(number=0, state="completed", value=0.90, curve={1: 0.8, 2: 0.90}),
    TrialPoint(number=1, state="pruned", value=0.60, curve={1: 0.60}),
    TrialPoint(number=3, state="running", value=None),
]
SCORES = [
    ScorePoint(name="a", score=0.1, decision="accept", anomalous=False),
    ScorePoint(name="b", score=0.9, decision="reject", anomalous=True),
    ScorePoint(name="c", score=0.2, decision="accept", anomalous=True),
]


def test_best_so_far_never_falls_and_ignores_pruned_trials() -> None:
    best = next(
        trace for trace in objective_history(TRIALS, "Image AUROC").data if trace.name == "best so far"
    )
    assert list(best.x) == [1, 3]
    assert list(best.y) == [0.90, 0.90]


def test_best_so_far_is_that_of_trials_that_can_win() -> None:
    slow = [replace(TRIALS[1], within_limits=False), TRIALS[0]]
    lines = {trace.name: trace for trace in objective_history(slow, "Image AUROC").data}
    assert list(lines["best so far"].y) == [0.80]
    assert list(lines["completed"].y) == [0.90, 0.80]  # what is too slow is still shown


def test_history_tells_states_apart_by_shape_and_colour() -> None:
    markers = {
        trace.name: trace.marker for trace in objective_history(TRIALS, "F1").data if trace.mode == "markers"
    }
    assert set(markers) == {"completed", "pruned"}
    assert markers["completed"].symbol != markers["pruned"].symbol
    assert markers["completed"].color == theme.STATE_COLOURS["completed"]


def test_history_of_no_trials_is_an_empty_chart() -> None:
    assert all(len(trace.x) == 0 for trace in objective_history([], "F1").data)


def test_best_curve_is_drawn_last_so_that_it_stands_in_front() -> None:
    figure = epoch_curves(TRIALS, "Image AUROC", highlighted=0)
    assert [trace.name for trace in figure.data] == ["other trials", "pruned trials", "trial 1"]
    assert figure.data[-1].line.color == theme.PRIMARY
    assert [trace.line.dash for trace in figure.data] == ["solid", "dot", None]


def test_curves_of_one_look_share_a_trace_and_are_not_joined() -> None:
    others = epoch_curves([*TRIALS, replace(TRIALS[0], number=4)], "Image AUROC", highlighted=0).data[0]
    assert list(others.x) == [1, 2, None, 1, 2, None]
    assert not others.connectgaps
    assert list(others.text) == ["trial 3, completed"] * 3 + ["trial 5, completed"] * 3


def test_only_the_last_curves_are_drawn_and_the_best() -> None:
    many = [TrialPoint(number=number, state="completed", value=0.5, curve={1: 0.5}) for number in range(500)]
    others, best = epoch_curves(many, "F1", highlighted=3).data
    told = [text for text, x in zip(others.text, others.x, strict=True) if x is not None]
    assert len(told) == CURVES
    assert (told[-1], best.name) == ("trial 500, completed", "trial 4")


def test_strip_of_many_pictures_is_drawn_by_webgl() -> None:
    points = [ScorePoint(name=str(n), score=n, decision="accept", anomalous=False) for n in range(2000)]
    assert {trace.type for trace in score_strip(points, threshold=1e6).data} == {"scattergl"}


def test_strip_has_every_score_once_and_the_threshold() -> None:
    figure = score_strip(SCORES, threshold=0.5)
    assert sorted(x for trace in figure.data for x in trace.x) == [0.1, 0.2, 0.9]
    assert figure.layout.shapes[0].x0 == 0.5
    assert "threshold 0.500" in figure.layout.annotations[0].text


def test_strip_tells_decisions_apart_by_shape_as_well() -> None:
    accept, reject = score_strip(SCORES, threshold=0.5).data
    assert accept.marker.symbol != reject.marker.symbol
    assert list(reject.y) == ["anomalous"]


def test_strip_rings_the_selected_picture() -> None:
    ring = score_strip(SCORES, threshold=0.5, selected="c").data[-1]
    assert (list(ring.x), list(ring.y)) == ([0.2], ["anomalous"])


def _tried(number: int, value: float, *, latency: float, **params: object) -> TrialPoint:
    return TrialPoint(number=number, state="completed", value=value, params=params, latency_ms=latency)


TRIED = [
    _tried(0, 0.80, noise_std=0.01, layers="2,3", members=8, latency=4.0),
    _tried(1, 0.90, noise_std=0.30, layers="1,2", members=8, latency=9.0),
    _tried(2, 0.70, noise_std=0.05, layers="2,3", members=8, latency=7.0),
    _tried(3, 0.85, noise_std=0.02, layers="3", members=8, latency=5.0),
    TrialPoint(number=4, state="failed", value=None, params={"noise_std": 9.0, "layers": "9"}),
]


def test_only_what_differs_among_completed_trials_counts_as_searched() -> None:
    assert searched(TRIED) == ["noise_std", "layers"]
    assert searched(TRIED[:1]) == []


def test_slices_have_a_panel_per_setting_with_numbers_on_a_log_scale_and_choices_beside_each_other() -> None:
    figure = slices(TRIED, "F1")
    sigma, layers = figure.data
    assert list(sigma.x) == [0.01, 0.30, 0.05, 0.02]
    assert list(sigma.y) == list(layers.y) == [0.80, 0.90, 0.70, 0.85]
    assert list(layers.x) == ["2+3", "1+2", "2+3", "3"]
    assert (figure.layout.xaxis.type, figure.layout.xaxis.title.text) == ("log", "σ")
    assert list(figure.layout.xaxis2.categoryarray) == ["1+2", "2+3", "3"]
    assert len(slices([], "F1").data) == 0


def test_contour_is_filled_between_trials_and_shows_each() -> None:
    figure = contour(TRIED, "noise_std", "layers", "F1")
    surface, points = figure.data
    assert list(surface.x) == [0.01, 0.02, 0.05, 0.30]
    assert list(surface.y) == [0.0, 1.0, 2.0]
    assert surface.z[1][0] == 0.80
    assert surface.z[0][0] is None or surface.z[0][0] != surface.z[0][0]
    assert list(points.y) == [1.0, 0.0, 1.0, 2.0]
    assert list(figure.layout.yaxis.ticktext) == ["1+2", "2+3", "3"]
    assert [trace.type for trace in contour(TRIED[:3], "noise_std", "layers", "F1").data] == ["scatter"]


def test_parallel_lines_pass_every_setting_and_end_in_the_value() -> None:
    (lines,) = parallel(TRIED, "F1").data
    assert [dimension.label for dimension in lines.dimensions] == ["σ", "layers", "F1"]
    assert lines.dimensions[0]["values"][0] == -2  # log10 of 0.01
    assert lines.dimensions[0].ticktext[0] == "0.01"
    assert list(lines.dimensions[1]["values"]) == [1, 0, 1, 2]
    assert list(lines.line.color) == [0.80, 0.90, 0.70, 0.85]


def test_importance_has_the_largest_on_top_and_names_its_method() -> None:
    figure = importance({"layers": 0.25, "noise_std": 0.75}, "PED-ANOVA")
    (bars,) = figure.data
    assert list(bars.y) == ["layers", "σ"]  # plotly draws from below
    assert list(bars.text) == ["25 %", "75 %"]
    assert "PED-ANOVA" in figure.layout.xaxis.title.text


def test_timeline_has_a_row_per_worker_in_the_order_they_began() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    spans = [
        Span(number=0, state="completed", worker="b · cpu", began=began, seconds=2.5),
        Span(number=1, state="failed", worker="a · cuda", began=began + timedelta(seconds=1), seconds=1),
    ]
    figure = timeline(spans)
    assert list(figure.layout.yaxis.categoryarray) == ["a · cuda", "b · cpu"]  # from below
    done, failed = figure.data
    assert (list(done.x), list(done.text), done.marker.color) == (
        [2500],
        ["1"],
        theme.STATE_COLOURS["completed"],
    )
    assert failed.name == "failed"


def test_front_holds_what_none_beats_in_both() -> None:
    assert [trial.number for trial in front(TRIED)] == [0, 3, 1]
    slower_and_equal = [*TRIED, _tried(5, 0.90, latency=20.0)]
    assert [trial.number for trial in front(slower_and_equal)] == [0, 3, 1]
    assert front(TRIED[4:]) == []


def test_pareto_shows_every_timed_trial_and_the_limit() -> None:
    figure = pareto(TRIED, "F1", limit_ms=6.0)
    line, points = figure.data
    assert list(line.x) == [4.0, 5.0, 9.0]
    assert list(points.x) == [4.0, 9.0, 7.0, 5.0]
    assert list(points.text) == ["1", "2", "", "4"]
    assert figure.layout.shapes[0].x0 == 6.0
    assert "limit 6 ms" in figure.layout.annotations[0].text
