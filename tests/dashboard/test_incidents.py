"""What a visitor sees of an error, and what the log gets."""

import logging

import pytest
from streamlit.testing.v1 import AppTest


def _known() -> None:
    from dashboard import incidents
    from storage.errors import DatasetNotFound

    with incidents.shown():
        raise DatasetNotFound("No dataset 'plats'. Nearest is 'plates'.")


def _marked() -> None:
    from dashboard import incidents
    from storage.errors import BadName

    with incidents.shown():
        raise BadName("Name ':red[a]*.png' can't be kept. Rename it.")


def test_names_in_errors_are_not_read_as_markdown() -> None:
    app = AppTest.from_function(_marked).run()
    assert [error.value for error in app.error] == [
        "Name ':\u2060red\\[a\\]\\*.png' can't be kept. Rename it."
    ]


def _unknown() -> None:
    from dashboard import incidents

    with incidents.shown():
        raise ZeroDivisionError("secret detail")


def _guarded() -> None:
    import streamlit as st

    from dashboard import incidents

    @st.fragment
    @incidents.guarded
    def part() -> None:
        raise ZeroDivisionError

    part()
    st.write("the rest of the page")


def test_our_errors_are_shown_as_they_are() -> None:
    app = AppTest.from_function(_known).run()
    assert [error.value for error in app.error] == ["No dataset 'plats'. Nearest is 'plates'."]


def test_other_errors_become_a_number_that_the_log_explains(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="dashboard.incidents"):
        app = AppTest.from_function(_unknown).run()
    shown = app.error[0].value
    record = next(record for record in caplog.records if record.name == "dashboard.incidents")
    number = record.getMessage().removeprefix("incident ")
    assert f"(incident {number})" in shown
    assert "secret detail" not in shown
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_error_in_a_fragment_leaves_the_rest_of_the_page() -> None:
    app = AppTest.from_function(_guarded).run()
    assert len(app.error) == 1
    assert app.markdown[0].value == "the rest of the page"
