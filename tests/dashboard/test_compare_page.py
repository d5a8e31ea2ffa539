"""The page and the command that set trials and models side by side."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.commands.reporting import ExitCode

pytestmark = pytest.mark.slow


def _clean(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    assert not app.error, [error.value for error in app.error]
    return app


def _captions(app: AppTest) -> str:
    return " ".join(caption.value for caption in app.caption)


def test_trials_and_model_stand_side_by_side(page, studied_home) -> None:
    app = _clean(page("views/compare.py", dataset="parts", of="1.1,1.2,v1"))
    settings, figures, kinds = (frame.value for frame in app.dataframe)
    titles = ["Study 1, trial 1", "Study 1, trial 2", "Model version 1"]
    assert list(figures.columns) == ["figure", *titles]
    assert "σ" in list(settings["setting"])
    rows = figures.set_index("figure")
    assert "(" in rows.loc["Image AUROC", titles[0]]  # its interval
    assert "validation pictures" in rows.loc["Measured on", titles[0]]
    assert rows.loc["Image AUROC, sealed test", titles[0]] == "–"
    assert rows.loc["Image AUROC, sealed test", titles[2]] != "–"
    assert "escape" in kinds.iloc[0][titles[0]]
    assert len(app.get("plotly_chart")) == 1


def test_same_pictures_stand_under_each(page, studied_home) -> None:
    app = _clean(page("views/compare.py", dataset="parts", of="1.1,1.2"))
    originals = [image for image in app.image if image.proto.imgs[0].caption == "Original"]
    assert len(originals) == 6
    assert len(app.image) >= 3 * len(originals)
    assert "decided differently" in " ".join(text.value for text in app.markdown)


def test_link_opens_the_same_runs_in_mlflow(page, studied_home) -> None:
    app = _clean(page("views/compare.py", dataset="parts", of="1.1,1.2"))
    (link,) = [one.proto for one in app.get("link_button") if one.proto.label == "The same in MLflow"]
    assert "/#/compare-runs?runs=" in link.url


def test_nothing_chosen_says_what_to_do_and_offers_models_and_the_best_trials(page, studied_home) -> None:
    app = _clean(page("views/compare.py", dataset="parts"))
    assert "Choose 2 to 6 trials, studies or models" in " ".join(item.proto.body for item in app.get("html"))
    (box,) = app.multiselect
    assert "Model version 1 (champion)" in box.options
    assert any("trial 1" in option for option in box.options)


def test_choice_in_the_box_becomes_the_address(page, studied_home) -> None:
    app = _clean(page("views/compare.py", dataset="parts"))
    app.multiselect[0].select("v1").run()
    app.multiselect[0].select("1.1").run()
    assert not app.exception
    assert app.query_params["of"] in ("v1,1.1", ["v1,1.1"])
    assert len(app.dataframe) == 3


@pytest.mark.parametrize(
    ("of", "words"), [("1.1,1.9", "no trial 9"), ("1.1,abc", "names neither"), ("1.1,v7", "no model v7")]
)
def test_unknown_names_are_refused_in_words(page, studied_home, of, words) -> None:
    app = page("views/compare.py", dataset="parts", of=of)
    assert not app.exception
    assert words in app.error[0].value


def test_page_without_a_dataset_points_to_datasets(page, home) -> None:
    app = _clean(page("views/compare.py"))
    assert "Nothing to compare yet" in " ".join(item.proto.body for item in app.get("html"))


def test_command_tells_the_same_as_text_and_json(simplenet, studied_home) -> None:
    told = simplenet("compare", "parts", "1.1", "1.2", "v1", "--json")
    assert told.exit_code == ExitCode.OK, told.output
    answer = json.loads(told.stdout)
    assert [one["key"] for one in answer["compared"]] == ["1.1", "1.2", "v1"]
    assert "noise_std" in answer["differing"]
    assert len(answer["disagreements"]) == 5
    assert answer["compared"][0]["validation"]["image_auroc_low"] <= 1
    assert answer["compared"][0]["has_weights"] is True
    text = simplenet("compare", "parts", "1.1,1.2", "--limit", "2").stdout
    assert "Image AUROC" in text
    assert "decided differently" in text
    assert "The same in MLflow: http" in text


def test_study_stands_there_with_its_best_trial_and_its_way_to_it(page, simplenet, studied_home) -> None:
    app = _clean(page("views/compare.py", dataset="parts", of="s1,1.2"))
    (title,) = [column for column in app.dataframe[1].value.columns if "its best trial" in column]
    assert len(app.get("plotly_chart")) == 2
    answer = json.loads(simplenet("compare", "parts", "s1", "v1", "--json").stdout)
    best, model = answer["compared"]
    assert (best["key"], title) == ("s1", f"Study 1, its best trial ({best['trial']})")
    assert best["trial"] == model["trial"]  # the champion came of it
    assert "no study" in simplenet("compare", "parts", "s9", "v1").stderr.lower()


def test_command_refuses_what_is_not_there(simplenet, studied_home) -> None:
    missing = simplenet("compare", "parts", "1.1", "1.9")
    assert (missing.exit_code, "no trial 9" in missing.stderr) == (ExitCode.NOTHING, True)
    alone = simplenet("compare", "parts", "1.1")
    assert (alone.exit_code, "2 to 6" in alone.stderr) == (ExitCode.ERROR, True)
    assert simplenet("compare", "nothing", "1.1", "1.2").exit_code == ExitCode.NOTHING
