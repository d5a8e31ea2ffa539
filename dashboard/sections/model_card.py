"""A model's card: what it is worth, on which pictures, how fast it is, and where it comes from."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import cached, results, wording
from dashboard.components import look
from dashboard.scales import scale_of
from dashboard.session import workspace
from dashboard.views import STUDIES
from storage import models, studies
from storage.records import Model, OperatingPoint
from tuning import queries
from tuning.operating_points import point_of


def show(model: Model) -> None:
    """Draw the card's figures beside its lineage."""
    if model.figures["validation"].get("synthetic"):
        look.line(look.note("synthetic validation", title="Chosen by defects planted in normal pictures"))
    grid = st.grid(2, min_column_width=400, gap="large")
    with grid.cell():
        _figures(model)
    with grid.cell():
        _lineage(model)


def readings_sentence(readings: int, number: int) -> str:
    """'The sealed test pictures of dataset version 2 were read 3 times so far.'"""
    times = {0: "never", 1: "once", 2: "twice"}.get(readings, f"{readings} times")
    return f"The sealed test pictures of dataset version {number} were read {times} so far."


def _figures(model: Model) -> None:
    point = point_of(workspace(), model)
    figures = results.at_point(model.figures, point)
    test = figures.get("test")
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
    rows = results.figure_rows(figures)
    header = {
        "figure": [row[0] for row in rows],
        "test": [row[1] for row in rows],
        "validation": [row[2] for row in rows],
    }
    st.dataframe(pd.DataFrame(header), hide_index=True)
    pairs = _operating_point(model, point)
    gap = model.figures.get("optimism_gap")
    if gap is not None:
        pairs.append(("Optimism gap", f"{gap:+.3f} (validation minus test image AUROC)"))
    pairs.append(("Latency", results.latency_sentence(model.figures)))
    look.facts(pairs)
    if test and test.get("by_defect_type"):
        _by_defect_type(test["by_defect_type"])


def _operating_point(model: Model, point: OperatingPoint) -> list[tuple[str, str]]:
    calibration = scale_of(model)
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
    table = pd.DataFrame(rows, columns=["defect type", "pictures", "image AUROC", "escapes"])
    st.dataframe(
        table.dropna(axis="columns", how="all"),  # nobody has counted escapes at some thresholds
        hide_index=True,
        column_config={"image AUROC": st.column_config.NumberColumn(format="%.3f")},
    )


def _lineage(model: Model) -> None:
    version = cached.version(model.dataset_version_id)
    with workspace().session() as session:
        study = studies.get_study(session, model.study_id)
        readings = len(models.list_test_readings(session, dataset_version_id=version.id))
    backbone = model.figures["backbone"]
    config = model.config
    look.facts(
        [
            ("Dataset", f"{model.dataset_name}, version {version.number} ({version.digest[:12]})"),
            ("Study", f"{study.name}, trial {model.trial_number + 1}"),
            ("Run", model.run_id[:12]),
            ("Model", f"{model.dataset_name}, version {model.version} in MLflow's registry"),
            ("Made", wording.moment(model.created_at)),
            ("Promoted", wording.moment(model.promoted_at)),
            ("Sealed test", readings_sentence(readings, version.number)),
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
        url = queries.run_url(workspace(), model.run_id)
        st.link_button("Run in MLflow", url, icon=":material/open_in_new:", type="tertiary")
    with st.expander("Whole configuration"):
        st.json(dict(config), expanded=True)
