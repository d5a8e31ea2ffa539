"""Models: a dataset's champion, its figures and where it came from, its exports, other versions, and their history."""

from html import escape

import streamlit as st

from dashboard.components import choosing, look
from dashboard.sections import candidates, champion_history, endpoint, model_card, model_exports
from dashboard.session import WHO, workspace
from dashboard.views import DATASETS, HEATMAPS, SCORE, STUDIES
from storage import datasets, models
from storage.records import Model, ModelState
from tuning import queries


def show() -> None:
    """Draw the page."""
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
    if not names:
        choosing.none_yet("No model yet", "Models come with a dataset and its first study.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Models"):
        name = choosing.dataset(names, clears=[candidates.OPENED])
    with workspace().session() as session:
        found = sorted(models.list_models(session, name), key=lambda model: model.version, reverse=True)
    if not found:
        choosing.none_yet("No model yet", f"The best trial of a study of {escape(name)} becomes the first.")
        if st.button("New study", type="primary", icon=":material/add:"):
            st.switch_page(STUDIES, query_params={"dataset": name, "new": "1"})
        return
    champion = next((model for model in found if model.state is ModelState.CHAMPION), None)
    if champion is not None:
        _champion(champion)
        st.subheader("Export the champion")
        model_exports.show(champion)
    elif any(model.state is ModelState.RETIRED for model in found):
        st.info(
            f"{name} has no champion: the last one was withdrawn, as the history tells. Promote a version to have one "
            "again.",
            icon=":material/info:",
        )
        _rollback_button(name)
    else:
        st.info(
            f"{name} has no champion yet: its promotions are manual. Look at the candidates below and promote one.",
            icon=":material/info:",
        )
    st.subheader("Versions")
    candidates.policy(name)
    candidates.show(name, found, champion)
    candidates.another_trial(name, found)
    champion_history.show(name, found)
    if champion is not None:
        endpoint.show(champion)


def _champion(model: Model) -> None:
    with st.container(border=True):
        title, links = st.columns([3, 2], vertical_alignment="center")
        with title:
            st.subheader(f"Champion: version {model.version}")
        with links, st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
            st.page_link(
                HEATMAPS,
                label="Heatmaps",
                icon=":material/center_focus_strong:",
                query_params={"dataset": model.dataset_name},
            )
            st.page_link(
                SCORE,
                label="Score pictures",
                icon=":material/image_search:",
                query_params={"dataset": model.dataset_name},
            )
            st.link_button(
                "MLflow",
                queries.model_url(workspace(), model.dataset_name, model.version),
                icon=":material/open_in_new:",
            )
            _rollback_button(model.dataset_name)
            with st.popover("Withdraw", icon=":material/block:"):
                _withdraw_form(model)
        model_card.show(model)


def _rollback_button(name: str) -> None:
    """One click back to the champion before; another one undoes it."""
    from tuning.commands import rollback

    with workspace().session() as session:
        former = models.previous_champion(session, name)
    if former is None:
        return
    if st.button(
        f"Roll back to version {former.version}",
        icon=":material/undo:",
        help="The former champion decides again at once. It is recorded, and one more click undoes it.",
    ):
        rollback(workspace(), name, who=WHO)
        st.rerun()


def _withdraw_form(model: Model) -> None:
    from tuning.commands import withdraw_champion

    name = model.dataset_name
    st.write(
        f"{name} will have no champion until one is promoted, by a person or by its next study: nothing decides on new "
        f"pictures until then. Version {model.version} stays and can be promoted again."
    )
    with st.form("withdraw", border=False):
        why = st.text_input("Reason, for the record", key="why withdraw")
        if st.form_submit_button(f"Withdraw version {model.version}", type="primary"):
            if not why.strip():
                st.error("The reason is empty; a withdrawal is recorded with one. Write a few words.")
                return
            withdraw_champion(workspace(), name, who=WHO, why=why.strip())
            st.rerun()


if __name__ == "__main__":
    show()
