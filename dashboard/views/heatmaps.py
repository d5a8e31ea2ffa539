"""Heatmaps: pictures with what models see on them, browsed, judged and marked."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import streamlit as st

from dashboard import batch_links, cached, maps, scored, shots
from dashboard.components import choosing, job_progress, look
from dashboard.components.gallery import Tile, gallery
from dashboard.components.viewer import Led, viewer
from dashboard.scored import Judge, Order, Picture, ScoredPicture, Show
from dashboard.sections import marking, scoring, threshold
from dashboard.sections.threshold import EVERY
from dashboard.session import workspace
from dashboard.views import DATASETS, SCORE, STUDIES
from dashboard.wording import moment, number, plain, plural
from storage import datasets, models, operating_points, reviews
from storage.records import DatasetVersion, Label, Model, ModelState, OperatingPoint, Review, Role
from tuning import batches, jobs
from tuning.batches import Batch
from tuning.scoring import ADDED

PAGE_SIZE = 24
CHOICE_SECONDS = 2.0  # so long a choice stands against the address
AROUND = 30  # neighbours on either side that the viewer knows
CHAMPION = "champion"
MOST_BESIDE = 3  # models beside the first
BATCHES_OFFERED = 3  # the newest; the page Score has all
CLEARED = ("image", "at")  # what means nothing for another dataset
RESET = {"defect": EVERY, "model": CHAMPION, "beside": [], "of": Role.TEST.value}


@dataclass(kw_only=True)
class _Choice:
    """The picture that was chosen last. A browser that was quick has sent another address before it knew of it."""

    image: str | None = None
    at: float = 0.0  # seconds of the monotonic clock

    def choose(self, image: str) -> None:
        """Take a choice down, and write it into the address."""
        self.image, self.at = image, time.monotonic()
        st.query_params["image"] = image


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows: which pictures under which models."""

    name: str  # of the dataset
    latest: DatasetVersion
    model: Model
    beside: tuple[Model, ...]
    point: OperatingPoint
    preview: float | None  # a threshold that is tried out, and saved nowhere
    which: str  # as `tuning.scoring.pictures_of` takes it
    batch: Batch | None  # where the pictures are of one
    said: Mapping[str, Review]  # by pixel digest

    @property
    def models(self) -> tuple[Model, ...]:
        return (self.model, *self.beside)


def show() -> None:
    """Draw the page."""
    with workspace().session() as session:
        names = [dataset.name for dataset in datasets.list_datasets(session)]
        having = {model.dataset_name for model in models.list_models(session)}
    if not names:
        choosing.none_yet("No heatmaps yet", "They come with a dataset and its first study.")
        st.page_link(DATASETS, label="Datasets", icon=":material/photo_library:")
        return
    with look.top("Heatmaps"):
        ordered = sorted(names, key=lambda name: name not in having)
        name = choosing.dataset(ordered, clears=CLEARED, resets=RESET, width=220)
        if name in having:
            model, beside = _models(name)
    if name not in having:
        _no_model(name)
        return
    shown = _shown(name, model, beside)
    if shown.batch is not None:
        _about(shown, shown.batch)
    pictures = _scored(shown)
    if pictures is None:  # they are being scored
        return
    if pictures:
        _browse(shown, pictures)
    elif shown.batch is not None:
        st.info("No picture of this batch is scored yet.", icon=":material/info:")
    else:
        st.info(
            f"There is no {plain(_words(shown))} picture of {plain(name)}. Choose others above, or add some on page "
            "Datasets.",
            icon=":material/info:",
        )
    threshold.show(shown.model, shown.point, shown.latest, shown.preview)


def _no_model(name: str) -> None:
    choosing.none_yet(
        "No champion yet", f"Heatmaps are drawn by a dataset's models; a study of {escape(name)} finds one."
    )
    if st.button("New study", type="primary", icon=":material/add:"):
        st.switch_page(STUDIES, query_params={"dataset": name, "new": "1"})


def _models(name: str) -> tuple[Model, tuple[Model, ...]]:
    """Choose the model that looks at the pictures, and those beside it."""
    with workspace().session() as session:
        known = {f"version {model.version}": model for model in models.list_models(session, name)}
    champion = next((model for model in known.values() if model.state is ModelState.CHAMPION), None)
    options = [*([CHAMPION] if champion else []), *known]
    first = st.selectbox(
        "Model",
        options,
        key="model",
        bind="query-params",
        label_visibility="collapsed",
        width=140,
        help="Which model looks at the pictures.",
    )
    model = champion if first == CHAMPION and champion else known[first]
    others = [title for title, other in known.items() if other.id != model.id]
    chosen = st.multiselect(
        "Beside",
        others,
        key="beside",
        bind="query-params",
        max_selections=MOST_BESIDE,
        placeholder="compare with …",
        label_visibility="collapsed",
        width=220,
        disabled=not others,
    )
    return model, tuple(known[title] for title in chosen)


def _shown(name: str, model: Model, beside: tuple[Model, ...]) -> Shown:
    with workspace().session() as session:
        latest = datasets.latest_version(session, name)
        point = operating_points.current(session, model)
        said = reviews.list_reviews(session, name)
    which = _which(model, latest)
    return Shown(
        name=name,
        latest=latest,
        model=model,
        beside=beside,
        point=point,
        preview=threshold.preview(),
        which=which if isinstance(which, str) else f"{batches.PREFIX}{which.id}",
        batch=which if isinstance(which, Batch) else None,
        said=said,
    )


def _which(model: Model, latest: DatasetVersion) -> str | Batch:
    """Choose whose pictures are looked at: of a role, `ADDED`, or a batch."""
    by_role = cached.pictures_by_role(model, model.id, latest.id)
    roles = [Role.TEST, Role.VALIDATION, Role.CALIBRATION, Role.TRAIN]
    # By what the address calls them, and people read.
    options: dict[str, str | Batch] = {role.value: role.value for role in roles}
    if by_role[ADDED]:
        options["added since"] = ADDED
    wanted = str(st.session_state.get("of") or st.query_params.get("of"))
    known = {
        batch_links.title(one): one for one in batches.list_batches(workspace().settings, model.dataset_name)
    }
    offered = list(known)[:BATCHES_OFFERED]
    options |= {title: batch for title, batch in known.items() if title in (*offered, wanted)}
    default = next((role.value for role in roles if by_role[role.value]), Role.TEST.value)
    if batch_links.SEPARATOR in wanted and wanted not in known:
        st.warning(
            f"There is no batch “{wanted}” any more; these are other pictures. Choose a batch on the page Score.",
            icon=":material/search_off:",
        )
        st.session_state["of"] = default

    def changed() -> None:
        # It opens with the version that scored it, whoever is champion by now: nothing is scored twice.
        chosen = options.get(st.session_state["of"])
        if isinstance(chosen, Batch) and chosen.model_id != model.id:
            st.session_state["model"] = f"version {chosen.model_version}"

    chosen = st.segmented_control(
        "Pictures",
        list(options),
        default=default,
        key="of",
        bind="query-params",
        required=True,
        label_visibility="collapsed",
        on_change=changed,
    )
    return options[str(chosen)]


def _about(shown: Shown, batch: Batch) -> None:
    """Which batch it is, what is different from its own page, and the way back to it."""
    with workspace().session() as session:
        champion = models.champion(session, shown.name)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"Batch **{plain(batch.origin)}**, scored by version {batch.model_version}, {moment(batch.created_at)}",
            width="stretch",
        )
        st.page_link(
            SCORE,
            label="Back to the batch",
            icon=":material/arrow_back:",
            query_params=batch_links.on_score(batch),
        )
    told = []
    if champion is None or champion.id != batch.model_id:
        now_champion = "no version" if champion is None else f"version {champion.version}"
        told.append(f"Version {batch.model_version} scored this batch; {now_champion} is the champion now.")
    if shown.model.id != batch.model_id:
        told.append(
            f"You look with version {shown.model.version}: choose version {batch.model_version} above to see what the "
            "batch's own page tells."
        )
    elif shown.preview is None and shown.point.threshold != batch.threshold:
        told.append(
            f"Decisions here follow the threshold of now, {number(shown.point.threshold)}; the batch's own page and "
            f"table keep those of its time, by {number(batch.threshold)}."
        )
    if told:
        st.info(" ".join(told), icon=":material/history:")
    job = jobs.status(workspace().settings, batches.job_key(batch.id))
    job_progress.watch(job, words=job_progress.of_batch)


def _pictures(shown: Shown) -> Sequence[Picture]:
    if shown.batch is not None:
        return cached.batch_results(shown.batch, shown.batch.id, batches.stamp(shown.batch)).pictures
    return cached.pictures_by_role(shown.model, shown.model.id, shown.latest.id)[shown.which]


def _scores(shown: Shown, model: Model, pictures: Sequence[Picture]) -> Mapping[str, float] | None:
    batch = shown.batch
    if batch is not None and model.id == batch.model_id:  # they came with their scores
        found = cached.batch_results(batch, batch.id, batches.stamp(batch)).pictures
        return {picture.pixel_digest: picture.score for picture in found}
    return scoring.scores(model, pictures, shown.which)


def _scored(shown: Shown) -> list[ScoredPicture] | None:
    """The pictures with their scores under all models; None while they are being scored."""
    pictures = _pictures(shown)
    scores = [_scores(shown, model, pictures) for model in shown.models]
    if any(of is None for of in scores):
        return None
    judges = _judges(shown)
    beside = [(judge, of) for judge, of in zip(judges[1:], scores[1:], strict=True) if of is not None]
    return scored.scored_pictures(pictures, judges[0], scores[0] or {}, beside)


def _judges(shown: Shown) -> list[Judge]:
    with workspace().session() as session:
        beside = [
            scored.judge(model, operating_points.current(session, model).threshold) for model in shown.beside
        ]
    tried = shown.point.threshold if shown.preview is None else shown.preview
    return [scored.judge(shown.model, tried), *beside]


def _browse(shown: Shown, pictures: Sequence[ScoredPicture]) -> None:
    _summary(shown, pictures)
    listed = _filtered(shown, pictures)
    if not listed:
        st.info("No picture fits this filter. Choose “all”.", icon=":material/filter_alt_off:")
        return
    current = _current(listed)
    left, right = st.columns([4, 8], gap="large")
    with left:
        _grid(shown, listed, current)
    with right, st.container(key="large"):
        _large(shown, listed, current)
        marking.show(
            shown.name,
            shown.latest,
            shown.model,
            current,
            batch=shown.batch,
            pictures=[picture.image for picture in pictures],
            said=shown.said,
        )


def _words(shown: Shown) -> str:
    return "newly added" if shown.which == ADDED else shown.which


def _summary(shown: Shown, pictures: Sequence[ScoredPicture]) -> None:
    outcomes = [picture.outcome.value for picture in pictures if picture.outcome]
    false_rejects, escapes = outcomes.count("false reject"), outcomes.count("escape")
    normal = outcomes.count("accepted") + false_rejects
    parts = [look.note(f"{shown.model.state.value} · version {shown.model.version}")]
    if outcomes:
        parts += [
            f"<span>{plural(normal, 'normal picture')}: <b>{plural(false_rejects, 'false reject')}</b></span>",
            f"<span>{plural(len(outcomes) - normal, 'anomalous picture')}: "
            f"<b>{plural(escapes, 'escape')}</b></span>",
        ]
    else:
        rejects = sum(picture.decision == "reject" for picture in pictures)
        parts.append(f"<span>{plural(len(pictures), 'picture')}: <b>{plural(rejects, 'reject')}</b></span>")
    if shown.preview is None:
        parts.append(f'<span class="sn-muted">{escape(threshold.sentence(shown.point))}</span>')
    figures = shown.model.figures["test"] or {}
    if shown.which == Role.TEST.value and figures.get("synthetic"):
        parts.append(
            look.note(
                "synthetic test",
                title="No test picture is labelled anomalous: the figures are of defects planted into these pictures",
            )
        )
    look.line(*parts)
    if shown.preview is not None:
        threshold.previewed(shown.preview, shown.point)


def _filtered(shown: Shown, pictures: Sequence[ScoredPicture]) -> list[ScoredPicture]:
    types = sorted({picture.image.defect_type for picture in pictures if picture.image.defect_type})
    labelled = any(picture.image.label is not None for picture in pictures)
    shows = [item.value for item in Show if labelled or item not in scored.OF_LABELLED]
    orders = [
        item.value
        for item in Order
        if (shown.beside or item is not Order.DISAGREEMENT) and (labelled or item is not Order.AGAINST_LABEL)
    ]
    _only("show", shows)
    _only("sort", orders)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        show = st.segmented_control(
            "Show",
            shows,
            default=Show.ALL.value,
            key="show",
            bind="query-params",
            required=True,
        )
        kind = EVERY
        if types:
            kind = st.selectbox("Defect type", [EVERY, *types], key="defect", bind="query-params", width=150)
        order = st.selectbox(
            "Sort",
            orders,
            key="sort",
            bind="query-params",
            width=220,
            help="Most useful to review: near the threshold (1 at it, 0 one spread away) + decided against the label "
            "(1) + the share of the compared models that decide otherwise; what was marked comes last. A spread is "
            "the way from the median calibration score to the threshold that the model was made with.",
        )
    return scored.chosen(
        pictures,
        Show(show),
        Order(order),
        defect_type=None if kind == EVERY else kind,
        reviewed=shown.said.keys(),
    )


def _only(key: str, options: Sequence[str]) -> None:
    """Forget what was chosen where it is no longer offered: other pictures have other filters."""
    if st.session_state.get(key, options[0]) not in options:
        st.session_state[key] = options[0]


def _current(listed: Sequence[ScoredPicture]) -> ScoredPicture:
    known = {str(picture.image.id): picture for picture in listed}
    choice = _choice()
    wanted = st.query_params.get("image")
    if choice.image in known and choice.image != wanted and time.monotonic() - choice.at < CHOICE_SECONDS:
        wanted = st.query_params["image"] = choice.image
    return known.get(str(wanted), listed[0])


def _choice() -> _Choice:
    found: _Choice = st.session_state.setdefault("chosen picture", _Choice())
    return found


def _grid(shown: Shown, listed: Sequence[ScoredPicture], current: ScoredPicture) -> None:
    pages = max(1, -(-len(listed) // PAGE_SIZE))
    page = listed.index(current) // PAGE_SIZE + 1
    # The page follows the chosen picture: turning it chooses the first picture of the new page.
    if pages > 1:
        turned = st.pagination(pages, default=page, key=f"page of {page} {len(listed)}", max_visible_pages=5)
        if turned != page:
            _choice().choose(str(listed[(turned - 1) * PAGE_SIZE].image.id))
            st.rerun()
    gallery(
        [_tile(shown, picture) for picture in listed[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]],
        key="overlays",
        on_pick=_choice().choose,
        selected=str(current.image.id),
        tile_width=80,
    )


def _tile(shown: Shown, picture: ScoredPicture) -> Tile:
    image = picture.image
    review = shown.said.get(image.pixel_digest)
    marked = "" if review is None else "marked: fine" if review.label is Label.NORMAL else "marked: defect"
    return Tile(
        id=str(image.id),
        source=maps.address(workspace().settings, "tile.jpg", shown.model, image, batch=_id(shown)),
        title=f"{image.name}, score {number(picture.score)}",
        caption=picture.decision,
        detail=number(picture.score, 2),
        note=marked,
        decision=picture.decision,
        wrong=picture.wrong,
    )


def _large(shown: Shown, listed: Sequence[ScoredPicture], current: ScoredPicture) -> None:
    place = listed.index(current)
    first = max(0, place - AROUND)
    window = listed[first : place + AROUND + 1]
    settings = workspace().settings
    said = {digest: review.label for digest, review in shown.said.items()}
    by_id = {str(picture.image.id): picture.image for picture in window}
    ids = {picture.image.pixel_digest: str(picture.image.id) for picture in listed}

    opened, notes = workspace(), marking.notes()

    def on_event(event: Mapping[str, Any]) -> Led:
        image = by_id.get(str(event.get("id")))
        return marking.handle(
            opened, shown.name, shown.model, image, event, batch=shown.batch, ids=ids, notes=notes
        )

    viewer(
        [shots.shot(settings, picture, shown.models, said, batch=_id(shown)) for picture in window],
        [shots.lens(model, f"version {model.version}") for model in shown.models],
        key="viewer",
        current=str(current.image.id),
        first=first + 1,
        total=len(listed),
        types=sorted({picture.image.defect_type for picture in listed if picture.image.defect_type}),
        labelled=any(picture.image.label is not None for picture in listed),
        marking=True,
        on_pick=_choice().choose,
        on_event=on_event,
    )


def _id(shown: Shown) -> str | None:
    return None if shown.batch is None else shown.batch.id


if __name__ == "__main__":
    show()
