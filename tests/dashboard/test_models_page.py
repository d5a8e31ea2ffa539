"""The page Models: who promotes, comparing and promoting, rolling back, exporting; and another trial as a candidate."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from storage import models
from storage.policies import promotion_policy
from storage.records import ModelState, PromotionRule
from storage.settings import Settings
from storage.workspace import Workspace, open_workspace
from tuning import candidates, jobs, model_exports
from tuning.jobs import JobState
from tuning.queries import study_trials

pytestmark = pytest.mark.slow

Page = Callable[..., AppTest]


def clean(app: AppTest) -> AppTest:
    assert not app.exception, [error.value for error in app.exception]
    assert not app.error, [error.value for error in app.error]
    return app


def button(app: AppTest, label: str):
    return next(one for one in app.button if one.label == label)


def html(app: AppTest) -> str:
    return "\n".join(block.value for block in app.get("html"))


@pytest.fixture
def two(own_studied_home: Path) -> Workspace:
    """An installation whose dataset `parts` has a champion and a candidate, version 2."""
    workspace = open_workspace(Settings())
    with workspace.session() as session:
        champion = models.champion(session, "parts")
    from storage import studies

    with workspace.session() as session:
        study = studies.get_study(session, champion.study_id)
    other = next(
        trial.number
        for trial in study_trials(workspace, study)
        if trial.state == "completed" and trial.number != champion.trial_number
    )
    candidates.make(workspace, study.id, other, who="tester", progress=lambda *_: None)
    return workspace


def test_candidate_is_compared_promoted_and_rolled_back(page: Page, two: Workspace) -> None:
    app = clean(page("views/models.py", dataset="parts"))
    assert not any(one.label.startswith("Roll back") for one in app.button)  # there was no other champion
    clean(button(app, "Compare and promote").click().run())
    shown = html(app)
    assert "Image AUROC of version 2 minus that of version 1" in shown
    assert "on 30 sealed test pictures" in shown
    differing = next(frame.value for frame in app.dataframe if "champion, version 1" in frame.value.columns)
    assert {"Threshold", "Noise std"} <= set(differing[""])
    button(app, "Promote version 2").click().run()
    assert "The reason is empty" in app.error[0].value
    app.text_input(key="why 2").set_value("finds the dents")
    clean(button(app, "Promote version 2").click().run())
    assert "Champion: version 2" in [block.value for block in app.subheader]
    history = app.dataframe[-1].value
    assert history["what"].iloc[0] == "version 2 promoted instead of 1"
    assert "after" in history["figures"].iloc[0]
    assert "difference" in history["figures"].iloc[0]
    assert any(what.startswith("made a candidate of trial") for what in history["what"])

    clean(button(app, "Roll back to version 1").click().run())
    assert "Champion: version 1" in [block.value for block in app.subheader]
    assert app.dataframe[-1].value["why"].iloc[0] == "rollback from version 2"
    with two.session() as session:
        assert models.champion(session, "parts").version == 1


def test_policy_is_changed_on_the_page(page: Page, two: Workspace) -> None:
    app = clean(page("views/models.py", dataset="parts"))
    switch = next(one for one in app.get("button_group") if one.label == "Promotions")
    clean(switch.set_value("manual").run())
    with two.session() as session:
        policy = promotion_policy(session, "parts")
    assert (policy.rule, policy.who) == (PromotionRule.MANUAL, "dashboard")
    assert any("Set by dashboard" in caption.value for caption in app.caption)
    assert "set promotions to manual" in list(app.dataframe[-1].value["what"])


def test_card_tells_latency_lineage_and_readings(page: Page, two: Workspace) -> None:
    shown = html(clean(page("views/models.py", dataset="parts")))
    assert "95 % within" in shown
    assert "were read twice so far" in shown
    assert "in MLflow&#x27;s registry" in shown


def test_trial_that_is_a_model_already_is_not_judged_again(page: Page, two: Workspace) -> None:
    app = clean(page("views/models.py", dataset="parts"))
    assert any("is version" in caption.value and "already" in caption.value for caption in app.caption)
    assert "Judge it and make it a candidate" not in [one.label for one in app.button]


def test_export_shows_its_certificate_and_its_download(page: Page, own_studied_home: Path) -> None:
    workspace = open_workspace(Settings())
    app = clean(page("views/models.py", dataset="parts"))
    clean(button(app, "Export to safetensors + JSON").click().run())
    with workspace.session() as session:
        champion = models.champion(session, "parts")
    key = model_exports.job_key(champion.id, model_exports.Format.SAFETENSORS)
    deadline = time.monotonic() + 120
    while jobs.status(workspace.settings, key).state is JobState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    app = clean(page("views/models.py", dataset="parts"))
    shown = html(app)
    assert "Download parts-model-1-safetensors.zip" in shown
    assert "Flipped decisions" in shown
    assert any("parts-model-1-safetensors.zip" in block.value for block in app.code)


def test_missing_extra_is_told_with_its_remedy(
    page: Page, own_studied_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine import exporting

    monkeypatch.setitem(exporting.PACKAGES, "onnx", ("onnx_of_nobody",))
    app = page("views/models.py", dataset="parts")
    button(app, "Export to ONNX").click().run()
    assert "pip install" in app.error[0].value
    assert ModelState.CHAMPION.value in html(app)
