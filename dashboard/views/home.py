"""Home: a card per dataset and what waits for a person; on an empty installation, the way in."""

from html import escape

import streamlit as st

from dashboard import cached, incidents, overview, results
from dashboard.components import choosing, look
from dashboard.following import status_line
from dashboard.overview import Attention, DatasetCard
from dashboard.session import workspace
from dashboard.views import DATASETS, HEATMAPS, MODELS, STUDIES, SYSTEM
from dashboard.wording import plural
from storage.records import Label
from tuning import queries, supervisor

LIVE_SECONDS = 3.0
IDLE_SECONDS = 15.0  # a command line beside the page may start something
PAGES = {"datasets": DATASETS, "studies": STUDIES, "models": MODELS, "system": SYSTEM}


def show() -> None:
    """Draw the page."""
    cards = overview.cards(workspace())
    if not cards:
        _empty()
        st.fragment(_watch_for_datasets, run_every=LIVE_SECONDS)()
        return
    st.title("Home")
    live = any(card.study and not card.study.state.finished for card in cards)
    st.fragment(_cards, run_every=LIVE_SECONDS if live else IDLE_SECONDS)()


def _empty() -> None:
    choosing.none_yet(
        "Find defects on pictures of your parts",
        "A model learns from pictures of normal parts what they look like, and shows on new pictures where one "
        "differs. Begin with the demo, or with a folder of your own.",
    )
    if _demo_is_loading():
        st.info(
            "The demo is being drawn; it appears here by itself in a moment.", icon=":material/hourglass:"
        )
        return
    left, right = st.columns(2, border=True)
    with left:
        st.subheader("Try the demo")
        st.write(
            "Draws 100 pictures of brushed metal plates, some with scratches, dents, stains or missing holes, and "
            "starts a first study on them. The first heatmaps are there after a few minutes."
        )
        if st.button("Try the demo", type="primary", icon=":material/play_arrow:"):
            _start_demo()
    with right:
        st.subheader("Use your pictures")
        st.write(
            "A folder of pictures of normal parts is enough; the MVTec layout adds defects and masks to judge by."
        )
        if st.button("Upload pictures", icon=":material/upload:"):
            st.switch_page(DATASETS, query_params={"new": "1"})
        st.caption("Or on the server:")
        st.code("simplenet ingest FOLDER --name my-parts", language="bash")


def _demo_is_loading() -> bool:
    """Whether `simplenet up --demo` is at it."""
    return any(
        status.name == "demo" and status.state in ("starting", "ready")
        for status in supervisor.running(workspace().settings)
    )


@incidents.guarded
def _watch_for_datasets() -> None:
    if overview.cards(workspace()):
        st.rerun()


def _start_demo() -> None:
    from tuning.commands import start_demo

    bar = st.progress(0.0, "Drawing the demo pictures")

    def progress(done: int, total: int, what: str) -> None:
        bar.progress(done / max(total, 1), what[:1].upper() + what[1:])

    study = start_demo(workspace(), progress=progress)
    if study is not None:
        st.switch_page(STUDIES, query_params={"dataset": study.dataset_name, "study": str(study.id)})
    st.rerun()


@incidents.guarded
def _cards() -> None:
    cards = overview.cards(workspace())
    _attention(overview.attention(cards, worker_alive=queries.worker_alive(workspace())))
    grid = st.grid(min_column_width=330, border=True)
    for card in cards:
        with grid.cell():
            _card(card)


def _attention(found: list[Attention]) -> None:
    if not found:
        return
    with st.container(border=True):
        st.markdown(f"**{plural(len(found), 'thing')} {'needs' if len(found) == 1 else 'need'} you**")
        for item in found:
            left, right = st.columns([5, 1], vertical_alignment="center")
            left.write(item.text)
            with right:
                st.page_link(PAGES[item.page], label=item.action, query_params=item.parameters)


def _card(card: DatasetCard) -> None:
    version = card.dataset.latest
    name = card.dataset.name
    if version is not None:
        urls = [cached.thumbnail_url(image.digest) for image in cached.strip(version.id)]
        pictures = "".join(f'<img src="{url}" alt="">' for url in urls)
        st.html(f'<div class="sn-strip">{pictures}</div>')
    st.subheader(name)
    if version is not None:
        defects = version.count(label=Label.ANOMALOUS)
        about = f"{plural(version.count(), 'picture')}, {defects:,} anomalous · version {version.number}"
        look.line(f'<span class="sn-muted">{about}</span>')
    _champion(card)
    if card.study is not None:
        look.line(
            look.state(card.study.state.value),
            f'<span class="sn-muted">{escape(status_line(card.study))}</span>',
        )
    with st.container(horizontal=True, gap="small"):
        _links(name, card)


def _champion(card: DatasetCard) -> None:
    if card.champion is None:
        st.html('<div class="sn-muted">No champion yet.</div>')
        return
    test = card.champion.figures.get("test")
    if not test:
        st.html(f'<div class="sn-muted">Champion: version {card.champion.version}, not tested</div>')
        return
    value, rest = results.headline(test, "test")
    st.html(
        f'<div><span class="sn-big">{value}</span> <span class="sn-muted">{rest}<br>'
        f"Champion: version {card.champion.version}, image AUROC</span></div>"
    )


def _links(name: str, card: DatasetCard) -> None:
    of_dataset = {"dataset": name}
    if card.champion is not None:
        st.page_link(
            HEATMAPS, label="Heatmaps", icon=":material/center_focus_strong:", query_params=of_dataset
        )
    if card.study is not None:
        study = {**of_dataset, "study": str(card.study.id)}
        st.page_link(STUDIES, label="Last study", icon=":material/tune:", query_params=study)
    else:
        st.page_link(
            STUDIES, label="New study", icon=":material/add:", query_params={**of_dataset, "new": "1"}
        )
    st.page_link(DATASETS, label="Pictures", icon=":material/photo_library:", query_params=of_dataset)


if __name__ == "__main__":
    show()
