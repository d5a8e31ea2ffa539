"""What the home page shows: one card per dataset, and what waits for a person."""

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.wording import plural
from storage import checkups, datasets, edits, models, studies
from storage.records import Dataset, ImageRecord, Label, Model, ModelState, Role, Study, StudyState
from storage.workspace import Session, Workspace
from tuning.findings import is_open, read_findings

STRIP_LENGTH = 4  # pictures that stand for a dataset


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """A dataset at a glance."""

    dataset: Dataset
    champion: Model | None
    study: Study | None  # the newest
    candidates: int  # models newer than the champion that a person may want to look at
    serious: int  # findings of the doctor in the latest version that nobody has accepted
    corrections: int  # that wait to become a version


def cards(workspace: Workspace) -> list[DatasetCard]:
    """A card per dataset, in the order of their names."""
    with workspace.session() as session:
        of_studies = studies.list_studies(session)
        of_models = models.list_models(session)
        known = sorted(datasets.list_datasets(session), key=lambda dataset: dataset.name)
        return [_card(session, dataset, of_studies, of_models) for dataset in known]


def _card(
    session: Session, dataset: Dataset, of_studies: Sequence[Study], of_models: Sequence[Model]
) -> DatasetCard:
    mine = [model for model in of_models if model.dataset_name == dataset.name]
    champion = next((model for model in mine if model.state is ModelState.CHAMPION), None)
    newer = champion.version if champion else 0
    return DatasetCard(
        dataset=dataset,
        champion=champion,
        study=max(
            (study for study in of_studies if study.dataset_name == dataset.name),
            key=lambda s: s.id,
            default=None,
        ),
        candidates=sum(model.state is ModelState.CANDIDATE and model.version > newer for model in mine),
        serious=_serious(session, dataset),
        corrections=len(edits.list_edits(session, dataset.name)),
    )


def _serious(session: Session, dataset: Dataset) -> int:
    checkup = None if dataset.latest is None else checkups.get_checkup(session, dataset.latest.id)
    if checkup is None:
        return 0
    accepted = checkups.accepted_findings(session, dataset.name)
    findings = read_findings(checkup)
    return sum(finding.severity == "serious" and is_open(finding, accepted) for finding in findings)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Something that waits for a person."""

    text: str
    action: str  # label of the link
    page: str  # "datasets", "studies", "models" or "system"
    parameters: dict[str, str]


def attention(of_cards: Sequence[DatasetCard], *, worker_alive: bool) -> list[Attention]:
    """What needs a person, the most pressing first."""
    found = []
    waiting = [card for card in of_cards if card.study and card.study.state is StudyState.QUEUED]
    if waiting and not worker_alive:
        found.append(
            Attention(
                text="A study waits, but no worker is running. Start one: simplenet worker",
                action="System", page="system", parameters={},
            )
        )  # fmt: skip
    for card in of_cards:
        name = card.dataset.name
        if card.study and card.study.state is StudyState.FAILED:
            parameters = {"dataset": name, "study": str(card.study.id)}
            found.append(
                Attention(
                    text=f"The last study of {name} failed.",
                    action="See why",
                    page="studies",
                    parameters=parameters,
                )
            )
        if card.serious:
            found.append(
                Attention(
                    text=f"The doctor found {plural(card.serious, 'serious thing')} in {name}.",
                    action="Check", page="datasets", parameters={"dataset": name, "section": "Check"},
                )
            )  # fmt: skip
        if card.corrections:
            found.append(
                Attention(
                    text=f"{plural(card.corrections, 'correction')} of {name} "
                    f"{'waits' if card.corrections == 1 else 'wait'} to become its next version.",
                    action="Review", page="datasets", parameters={"dataset": name, "section": "Check"},
                )
            )  # fmt: skip
        if card.candidates:
            found.append(
                Attention(
                    text=f"{name} has a candidate that is not the champion.",
                    action="Compare", page="models", parameters={"dataset": name},
                )
            )  # fmt: skip
    return found


def strip(images: Sequence[ImageRecord], length: int = STRIP_LENGTH) -> list[ImageRecord]:
    """A few pictures that stand for a dataset: a normal one, then a defect of each type in turn; never sealed ones."""
    open_images = [image for image in images if image.role is not Role.TEST]
    normals = [image for image in open_images if image.label is Label.NORMAL]
    by_type: dict[str | None, list[ImageRecord]] = {}
    for image in open_images:
        if image.label is Label.ANOMALOUS:
            by_type.setdefault(image.defect_type, []).append(image)
    defects = [group[place] for place in range(length) for group in by_type.values() if place < len(group)]
    chosen = [*normals[:1], *defects]
    return [*chosen, *normals[1:]][:length]
