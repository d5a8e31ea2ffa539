"""Charts say what their data say."""

from dashboard import theme
from dashboard.charts import CURVES, ScorePoint, TrialPoint, epoch_curves, objective_history, score_strip

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
    assert [trace.name for trace in figure.data] == ["trial 2", "trial 3", "trial 1"]
    assert figure.data[-1].line.color == theme.PRIMARY
    assert figure.data[0].line.dash == "dot"


def test_only_the_last_curves_are_drawn_and_the_best() -> None:
    many = [TrialPoint(number=number, state="completed", value=0.5, curve={1: 0.5}) for number in range(500)]
    names = [trace.name for trace in epoch_curves(many, "F1", highlighted=3).data]
    assert len(names) == CURVES + 1
    assert (names[-2], names[-1]) == ("trial 500", "trial 4")


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
