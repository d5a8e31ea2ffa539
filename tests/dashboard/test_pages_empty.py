"""Every page of an empty installation says what to do, and every page survives an address that names nothing."""

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

VIEWS = ["home", "datasets", "studies", "heatmaps", "models", "system"]

Page = Callable[..., AppTest]
pytestmark = pytest.mark.usefixtures("home")


def _texts(app: AppTest) -> str:
    """All that the page says, in one string."""
    parts = [
        *app.title,
        *app.subheader,
        *app.markdown,
        *app.caption,
        *app.error,
        *app.warning,
        *app.info,
        *app.code,
    ]
    return "\n".join(str(part.value) for part in parts) + "\n".join(
        str(part.proto.body) for part in app.get("html")
    )


@pytest.mark.parametrize("view", VIEWS)
def test_empty_page_offers_the_next_step(page: Page, view: str) -> None:
    app = page(f"views/{view}.py")
    assert not app.error
    assert not app.exception
    has_action = (
        bool(app.button) or bool(app.get("page_link")) or bool(app.code) or "simplenet" in _texts(app)
    )
    assert has_action


def test_empty_home_offers_demo_and_ingest(page: Page) -> None:
    app = page()
    assert [button.label for button in app.button] == ["Try the demo", "Upload pictures"]
    assert "simplenet ingest FOLDER --name my-parts" in app.code[0].value


def test_unknown_study_is_an_error_with_a_remedy(page: Page) -> None:
    app = page("views/studies.py", study=77)
    assert len(app.error) == 1
    assert "77" in app.error[0].value


def test_study_that_is_no_number_is_an_error_with_a_remedy(page: Page) -> None:
    app = page("views/studies.py", study="abc")
    assert "'abc' is no number of a study" in app.error[0].value
