"""A model as a file for other programs: each format with its certificate, or why there is none."""

import streamlit as st

from dashboard import downloads, examples, incidents
from dashboard.components import job_progress, look
from dashboard.session import workspace
from dashboard.wording import plural
from engine.certificate import Certificate
from engine.errors import ExportUnavailable
from storage.records import Model
from storage.room import size_text
from tuning import jobs
from tuning.jobs import JobState

TITLES = {
    "onnx": ("ONNX", "One file for onnxruntime and other programs."),
    "openvino": ("OpenVINO", "One zip that OpenVINO reads as it is, for Intel's processors."),
    "safetensors": (
        "safetensors + JSON",
        "Weights and settings with the code that reads them; needs torch and timm.",
    ),
}


def show(model: Model) -> None:
    """Draw a column per format."""
    from tuning.model_exports import Format

    st.caption(
        "Picture in, score, decision and map out: resizing and threshold are inside. A file is given out only if it "
        "decides every picture of the dataset as the original does."
    )
    for column, form in zip(st.columns(len(Format), gap="medium"), Format, strict=True):
        with column, st.container(border=True):
            _format(model, form.value)


def _format(model: Model, name: str) -> None:
    from tuning import model_exports

    form = model_exports.Format(name)
    title, about = TITLES[name]
    st.markdown(f"**{title}**")
    st.caption(about)
    settings = workspace().settings
    job = jobs.status(settings, model_exports.job_key(model.id, form))
    if job_progress.watch(job, words=lambda one: job_progress.counted(one, "pictures")):
        return
    found = model_exports.find_export(workspace(), model, form)
    if found is None and job is not None and job.state in (JobState.FAILED, JobState.INTERRUPTED):
        incidents.refused(job.error or "The export was interrupted. Start it again.")
    if found is not None:
        _certificate(found.certificate)
        size = size_text(found.file.stat().st_size)
        address = downloads.archive_address(settings, found.file)
        look.download(f"Download {found.file.name}", address, f"{size}, kept for a day")
        with st.expander("Example"):
            st.code(examples.example(name, found.file.name), language="python", wrap_lines=True)
        return
    if st.button(f"Export to {title}", key=f"export {model.id} {name}", icon=":material/output:"):
        try:
            model_exports.start_export(workspace(), model, form)
        except ExportUnavailable as error:
            incidents.refused(error)
            return
        st.rerun()


def _certificate(certificate: Certificate) -> None:
    st.markdown(":material/verified: **Certified**")
    look.facts(
        [
            ("Compared on", plural(certificate.pictures, "picture")),
            ("Flipped decisions", str(certificate.flipped)),
            ("Scores differ by", f"at most {certificate.largest_score_difference:.2g}"),
            ("Maps differ by", f"at most {certificate.largest_map_difference:.2g}"),
            (
                "A picture takes",
                f"{certificate.export_p50_ms:.1f} ms, 95 % within {certificate.export_p95_ms:.1f} ms",
            ),
            (
                "The original",
                f"{certificate.original_p50_ms:.1f} ms, 95 % within {certificate.original_p95_ms:.1f} ms",
            ),
            ("On", certificate.machine),
        ]
    )
