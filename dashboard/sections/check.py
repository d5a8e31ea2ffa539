"""The dataset doctor's letter: what was found in a version, why it matters, the pictures, and what to do."""

from collections.abc import Mapping

import streamlit as st

from dashboard import cached, incidents
from dashboard.components import choosing
from dashboard.components.gallery import Tile, gallery
from dashboard.sections import corrections
from dashboard.sections.pictures import EVERY
from dashboard.session import WHO, workspace
from dashboard.wording import duration, moment, plural
from storage import checkups
from storage.records import DatasetVersion, ImageRecord, now
from tuning import doctor, jobs
from tuning.corrections import put as put_corrections
from tuning.findings import (
    Finding,
    FindingPicture,
    Fix,
    correction,
    is_open,
    open_pictures,
    read_findings,
    subject,
)
from tuning.jobs import Job, JobState

LIVE_SECONDS = 0.7
TILES = 24  # shown of a finding at first, and more with each click
ABOUT_MASKS = {"large-mask", "small-defect", "cropped-defect", "misplaced-mask"}  # shown with their outlines
ICONS = {"serious": ":material/error:", "look": ":material/visibility:", "note": ":material/info:"}
WORDS = {"serious": "serious", "look": "have a look", "note": "good to know"}
FIXES: dict[Fix, str] = {
    "remove": "Take them out",
    "unmask": "Take their masks away",
    "normal": "Label them normal",
    "anomalous": "Label them anomalous",
}


def show(name: str, version: DatasetVersion) -> None:
    """Draw the section."""
    corrections.waiting(name, version)
    job = jobs.status(workspace().settings, doctor.job_key(version.id))
    if job is not None and job.state is JobState.RUNNING:
        _progress(version)
        return
    with workspace().session() as session:
        checkup = checkups.get_checkup(session, version.id)
        accepted = checkups.accepted_findings(session, name)
    ended_badly = job is not None and job.state in (JobState.FAILED, JobState.INTERRUPTED)
    if job is not None and ended_badly and (checkup is None or checkup.created_at < job.updated_at):
        incidents.refused(job.error or "The examination was interrupted.")
    if checkup is None:
        choosing.none_yet(
            "Not examined yet",
            "The doctor looks for copies, doubtful labels and masks, odd light, blur, and too few pictures.",
        )
    if st.button(
        "Check now" if checkup is None else "Check again",
        type="primary" if checkup is None else "secondary",
        icon=":material/stethoscope:",
    ):
        doctor.start_examination(workspace(), version.id)
        st.rerun()
    if checkup is None:
        return
    st.caption(f"Examined {moment(checkup.created_at)}.")
    findings = read_findings(checkup)
    images = {image.pixel_digest: image for image in cached.images(version.id)}
    for finding in findings:
        _finding(name, finding, images, accepted)
    if not findings:
        st.success("Nothing was found. The pictures look fit for a study.", icon=":material/check_circle:")
    ours = {finding.kind for finding in findings}
    known = [one for one in accepted if one[0] in ours]
    if known and st.button(f"Show {plural(len(known), 'accepted finding')} again", icon=":material/undo:"):
        with workspace().session() as session:
            for kind, about in known:
                checkups.reopen_finding(session, name, kind, about)
        st.rerun()


def _progress(version: DatasetVersion) -> None:
    @st.fragment(run_every=LIVE_SECONDS)
    def live() -> None:
        job = jobs.status(workspace().settings, doctor.job_key(version.id))
        if job is None or job.state is not JobState.RUNNING:
            st.rerun()
            return
        st.progress(min(1.0, job.done / job.total) if job.total else 0.0, text=_pace(job))

    st.subheader("The doctor looks at the pictures")
    live()
    if st.button("Cancel", icon=":material/cancel:"):
        jobs.cancel(workspace().settings, doctor.job_key(version.id))


def _finding(
    name: str, finding: Finding, images: Mapping[str, ImageRecord], accepted: set[tuple[str, str]]
) -> None:
    if not is_open(finding, accepted):
        return
    open_ones = [one for one in open_pictures(finding, accepted) if one.pixel_digest in images]
    if finding.pictures and not open_ones:
        return
    with st.container(border=True):
        count = ""
        if open_ones:
            count = f" · {plural(len(open_ones), 'picture')}"
        elif finding.names:
            count = f" · {plural(finding.count, 'file')}"
        st.markdown(
            f"{ICONS[finding.severity]} **{_capital(finding.title)}**{count} · {WORDS[finding.severity]}"
        )
        st.write(f"{finding.why} *{finding.remedy}*")
        if finding.names:
            first = f"the first {len(finding.names):,}" if len(finding.names) < finding.count else "all"
            with st.expander(f"Which ({first})"):
                st.dataframe({"file": list(finding.names)}, hide_index=True)
        if open_ones:
            _pictures(name, finding, open_ones, images)
        elif st.button("Accept", key=f"accept {finding.kind}"):
            _accept(name, finding.kind, [""])


def _pace(job: Job) -> str:
    if not job.total:
        return f"{job.text} …"
    left = f", {duration(job.seconds_left)} left" if job.seconds_left is not None else ""
    return f"{_capital(job.text)} · {job.done:,} of {job.total:,}{left}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _pictures(
    name: str, finding: Finding, pictures: list[FindingPicture], images: Mapping[str, ImageRecord]
) -> None:
    key = f"picked {finding.kind}"
    chosen = st.session_state.setdefault(key, set())
    length = f"length {finding.kind}"
    shown = pictures[: st.session_state.get(length, TILES)]
    paired = any(picture.other in images for picture in pictures)
    gallery(
        [
            Tile(
                id=subject(picture),
                source=cached.thumbnail_url(
                    images[picture.pixel_digest].digest,
                    images[picture.pixel_digest].mask_digest if finding.kind in ABOUT_MASKS else None,
                ),
                beside=cached.thumbnail_url(images[picture.other].digest)
                if picture.other in images
                else None,
                title=images[picture.pixel_digest].name,
                caption=images[picture.pixel_digest].name.rpartition("/")[2],
                detail=images[picture.pixel_digest].role.value,
                note=picture.note,
            )
            for picture in shown
        ],
        key=f"finding {finding.kind}",
        on_pick=lambda _: None,
        chosen=sorted(chosen),
        on_choose=lambda ids: (chosen.clear(), chosen.update(ids))[0],
        tile_width=240 if paired else 118,
    )
    if len(pictures) > len(shown):
        st.button(
            f"Show more ({len(pictures) - len(shown):,} are hidden)",
            key=f"more {finding.kind}",
            type="tertiary",
            on_click=lambda: st.session_state.update({length: len(shown) + 4 * TILES}),
        )
    picked = [picture for picture in pictures if subject(picture) in chosen] or pictures
    which = "chosen" if len(picked) < len(pictures) else "all"
    which = f" ({which} {len(picked):,})" if len(pictures) > 1 else ""
    with st.container(horizontal=True):
        fix = "Take the first of each out" if paired else FIXES.get(finding.fix or "remove", "")
        if finding.fix is not None and st.button(f"{fix}{which}", key=f"fix {finding.kind}"):
            wanted = [edit for picture in picked if (edit := correction(finding, picture)) is not None]
            put_corrections(workspace(), name, wanted, who=WHO)
            chosen.clear()
            st.rerun()
        st.button(
            "See them large",
            key=f"see {finding.kind}",
            icon=":material/zoom_in:",
            on_click=_see,
            args=[finding.title],
            help="All pictures of this finding in the section Pictures; a click on one shows it large.",
        )
        if st.button(f"Accept{which}", key=f"accept {finding.kind}", icon=":material/check:"):
            subjects = [subject(picture) for picture in picked]
            chosen.clear()
            _accept(name, finding.kind, subjects)


def _see(title: str) -> None:
    """Go to the pictures of a finding, whatever was filtered there before."""
    st.query_params.pop("image", None)
    for widget in ("role", "label", "type"):
        st.session_state[widget] = EVERY
    st.session_state["page"] = 1
    st.session_state["finding"] = title
    st.query_params["finding"] = title  # a widget that is yet to be drawn does not tell the address
    st.session_state["section"] = "Pictures"


def _accept(name: str, kind: str, subjects: list[str]) -> None:
    with workspace().session() as session:
        for about in subjects:
            checkups.accept_finding(session, name, kind, about, who=WHO, now=now())
    st.rerun()
