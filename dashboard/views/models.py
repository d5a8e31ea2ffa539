"""Models: a dataset's champion, its figures and where it came from, the other versions, and how to call it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import cached, results, wording
from dashboard.components import choosing, look
from dashboard.scales import scale_of
from dashboard.sections import endpoint
from dashboard.session import WHO, workspace
from dashboard.views import DATASETS, HEATMAPS, STUDIES
from storage import datasets, models, studies
from storage.errors import StorageError
from storage.records import Model, ModelState
from tuning import queries
from tuning.operating_points import point_of


def show() -> None:
    """Draw the page."""
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
    if not names:
        choosing.none_yet("No model yet", "Models come with a dataset and its first study.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Models"):
        name = choosing.dataset(names)
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
    elif any(model.state is ModelState.RETIRED for model in found):
        st.info(
            f"{name} has no champion: the last one was withdrawn, as the dataset's history tells. Promote a version to "
            "have one again.",
            icon=":material/info:",
        )
    _versions(name, found)
    _history(name, found)
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
            st.link_button(
                "MLflow",
                queries.model_url(workspace(), model.dataset_name, model.version),
                icon=":material/open_in_new:",
            )
            with st.popover("Withdraw", icon=":material/block:"):
                _withdraw_form(model)
        _badges(model)
        grid = st.grid(2, min_column_width=400, gap="large")
        with grid.cell():
            _figures(model)
        with grid.cell():
            _lineage(model)


def _badges(model: Model) -> None:
    badges = []
    if model.figures["validation"].get("synthetic"):
        badges.append(look.note("synthetic validation", title="Chosen by defects planted in normal pictures"))
    if badges:
        look.line(*badges)


def _figures(model: Model) -> None:
    test = model.figures.get("test")
    if test:
        value, rest = results.headline(test, "test")
        st.html(
            f'<div class="sn-muted">Image AUROC</div><div><span class="sn-big">{value}</span> '
            f'<span class="sn-muted">{rest}</span></div>'
        )
    else:
        st.info(
            "Not tested: the dataset version has no test pictures to judge it by.", icon=":material/info:"
        )
    rows = results.figure_rows(model.figures)
    header = {
        "figure": [row[0] for row in rows],
        "test": [row[1] for row in rows],
        "validation": [row[2] for row in rows],
    }
    st.dataframe(pd.DataFrame(header), hide_index=True)
    pairs = _operating_point(model)
    gap = model.figures.get("optimism_gap")
    if gap is not None:
        pairs.append(("Optimism gap", f"{gap:+.3f} (validation minus test image AUROC)"))
    look.facts(pairs)
    if test and test.get("by_defect_type"):
        _by_defect_type(test["by_defect_type"])


def _operating_point(model: Model) -> list[tuple[str, str]]:
    calibration, point = scale_of(model), point_of(workspace(), model)
    how = wording.threshold_source(point.source.value, point.parameters)
    pairs = [("Threshold", f"{wording.number(point.threshold, 4)}, {how}")]
    if point.id is not None:
        pairs.append(("Chosen", f"{wording.moment(point.created_at)} by {point.who}: {point.why}"))
    elif calibration.note:
        pairs.append(("Note", calibration.note))
    for role in ("test", "validation"):
        figures = point.figures.get(role)
        if figures:
            text = (
                f"{wording.plural(figures['false_rejects'], 'false reject')} of {figures['normal']}, "
                f"{wording.plural(figures['escapes'], 'escape')} of {figures['anomalous']}"
            )
            pairs.append((f"On {role}", text))
    return pairs


def _by_defect_type(kinds: Mapping[str, Mapping[str, Any]]) -> None:
    st.markdown("**By defect type, on test**")
    rows = [
        (kind.replace("_", " "), figures["images"], figures["image_auroc"], figures["escapes"])
        for kind, figures in kinds.items()
    ]
    st.dataframe(
        pd.DataFrame(rows, columns=["defect type", "pictures", "image AUROC", "escapes"]),
        hide_index=True,
        column_config={"image AUROC": st.column_config.NumberColumn(format="%.3f")},
    )


def _lineage(model: Model) -> None:
    version = cached.version(model.dataset_version_id)
    with workspace().session() as session:
        study = studies.get_study(session, model.study_id)
    backbone = model.figures["backbone"]
    config = model.config
    look.facts(
        [
            ("Dataset", f"{model.dataset_name}, version {version.number} ({version.digest[:12]})"),
            ("Study", f"{study.name}, trial {model.trial_number + 1}"),
            ("Made", wording.moment(model.created_at)),
            ("Promoted", wording.moment(model.promoted_at)),
            ("Configuration", wording.configuration(config)),
            ("Size", f"{config['height']} × {config['width']} px"),
            ("Backbone", f"{backbone['name']}, {backbone['origin']}"),
            ("Weights", str(backbone["digest"])[:12]),
            ("Licence", str(backbone.get("licence") or "unknown")),
        ]
    )
    if backbone.get("stronger"):
        st.caption(wording.plain(str(backbone["stronger"])))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            STUDIES,
            label="Study",
            icon=":material/tune:",
            query_params={"dataset": model.dataset_name, "study": str(study.id)},
        )
        try:
            url = f"{cached.experiment_url(model.dataset_name)}/{model.run_id}"
            st.link_button("Run in MLflow", url, icon=":material/open_in_new:", type="tertiary")
        except StorageError as error:
            st.caption(f"No link to the run: {wording.plain(str(error))}")
    with st.expander("Whole configuration"):
        st.json(dict(config), expanded=True)


def _versions(name: str, found: Sequence[Model]) -> None:
    st.subheader("Versions")
    for model in found:
        with st.container(border=True):
            left, right = st.columns([5, 1], vertical_alignment="center")
            sentence = escape(results.test_sentence(model.figures))
            left.html(
                f'<div class="sn-line"><b>Version {model.version}</b>{look.note(model.state.value)}'
                f'<span class="sn-muted">{escape(wording.configuration(model.config))}</span></div>'
                f'<div class="sn-muted">{sentence}{_compared(model)}</div>'
            )
            if model.state is not ModelState.CHAMPION:
                with right, st.popover("Promote", icon=":material/workspace_premium:", width="stretch"):
                    _promote_form(name, model)


def _compared(model: Model) -> str:
    """How it did against the champion of its time, on the same test pictures."""
    comparison = model.figures.get("comparison")
    if not comparison:
        return ""
    difference = f"{comparison['difference']:+.3f} ({comparison['low']:+.3f} to {comparison['high']:+.3f})"
    return f" · {difference} against version {comparison['against_version']} on the same pictures"


def _promote_form(name: str, model: Model) -> None:
    from tuning.commands import promote

    st.write(
        f"Version {model.version} will decide on new pictures of {name} from now on. The present champion stays and "
        "can be promoted again."
    )
    with st.form(f"promote {model.version}", border=False):
        why = st.text_input("Reason, for the record", key=f"why {model.version}")
        if st.form_submit_button(f"Promote version {model.version}", type="primary"):
            if not why.strip():
                st.error("The reason is empty; a promotion is recorded with one. Write a few words.")
                return
            promote(workspace(), name, model.version, who=WHO, why=why.strip())
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


def _history(name: str, found: Sequence[Model]) -> None:
    with workspace().session() as session:
        promotions = models.list_promotions(session, name)
    if not promotions:
        return
    versions = {model.id: model.version for model in found}
    rows = [
        {
            "when": wording.moment(promotion.created_at),
            "version": str(versions.get(promotion.model_id, "–")),
            "instead of": str(versions.get(promotion.replaced_model_id or -1, "–")),
            "who": promotion.who,
            "why": promotion.why,
        }
        for promotion in promotions
    ]
    st.subheader("Promotions")
    st.dataframe(pd.DataFrame(rows), hide_index=True)


if __name__ == "__main__":
    show()
