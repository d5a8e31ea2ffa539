"""Commands on studies that exist: `simplenet studies …`."""

from typing import TYPE_CHECKING, Annotated

import typer

from dashboard.commands import parsing, reporting
from dashboard.commands.reporting import command

if TYPE_CHECKING:
    from storage.records import Study
    from storage.workspace import Workspace

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
StudyId = Annotated[
    int, typer.Argument(metavar="STUDY", help="Number of the study, as `simplenet studies` lists it.")
]
NewName = Annotated[str | None, typer.Option("--name", help="Name of the new study.")]
studies = typer.Typer(
    help="List the studies, the newest first; or steer one of them.", invoke_without_command=True
)


def register(app: typer.Typer) -> None:
    """Add the group to `simplenet`."""
    app.add_typer(studies, name="studies")
    studies.callback()(list_studies)
    for name, function in {
        "add": add,
        "enqueue": enqueue,
        "narrow": narrow,
        "clone": clone,
        "rename": rename,
        "archive": archive,
        "unarchive": unarchive,
        "move-up": move_up,
    }.items():
        studies.command(name=name)(function)


@command
def list_studies(
    context: typer.Context,
    dataset: Annotated[str | None, typer.Option(help="Only the studies of this dataset.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived studies too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the studies, the newest first; or steer one of them."""
    if context.invoked_subcommand is not None:
        return
    from storage import datasets
    from storage import studies as rows

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        if dataset is not None:
            datasets.get_dataset(session, dataset)
        known = sorted(rows.list_studies(session, dataset=dataset), key=lambda item: item.id, reverse=True)
    found = [study for study in known if archived or study.archived_at is None]
    text = reporting.table(
        ["study", "dataset", "state", "trials", "best", "priority", "name"],
        [
            [
                item.id,
                item.dataset_name,
                item.state.value + (", archived" if item.archived_at else ""),
                _trials_of(item),
                _best_of(item),
                item.priority or "",
                item.name,
            ]
            for item in found
        ],
    )
    if hidden := len(known) - len(found):
        text += f"\n{hidden} archived; see them with --archived"
    none = "No study yet. Start one: simplenet study DATASET"
    reporting.answer(found, as_json=as_json, text=text if known else none)


@command
def add(
    study_id: StudyId,
    trials: Annotated[int, typer.Option(help="How many more configurations to try.")],
    as_json: AsJson = False,
) -> None:
    """Let a study try more configurations; one that has completed or failed goes back to the queue."""
    from tuning import steering

    workspace = reporting.open_workspace()
    study = steering.add_trials(workspace, study_id, trials)
    text = f"Study {study.id} of '{study.dataset_name}' tries up to {study.spec['trials']} configurations"
    _answer(workspace, study, text, as_json=as_json)


@command
def enqueue(
    study_id: StudyId,
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="PARAMETER=VALUE …",
            help="For instance noise_std=0.02 layers=2+3; what is left out, the sampler chooses.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Let a study try a configuration of your choice next, beyond its budget."""
    from tuning import steering

    workspace = reporting.open_workspace()
    study, wish = steering.enqueue(workspace, study_id, parsing.configuration(values))
    said = ", ".join(f"{name} {value}" for name, value in wish.items())
    _answer(workspace, study, f"Study {study.id} of '{study.dataset_name}' tries {said}", as_json=as_json)


@command
def narrow(
    study_id: StudyId,
    trials: Annotated[
        int | None, typer.Option(help="Configurations of the new study. Default: as many as the old one.")
    ] = None,
    name: NewName = None,
    as_json: AsJson = False,
) -> None:
    """Queue a study of the same pictures around the best trials of another, starting from its trials."""
    from tuning import steering

    workspace = reporting.open_workspace()
    study = steering.narrow(workspace, study_id, trials=trials, name=name)
    _answer(
        workspace, study, f"Study {study.id} goes on around the best of study {study_id}", as_json=as_json
    )


@command
def clone(study_id: StudyId, name: NewName = None, as_json: AsJson = False) -> None:
    """Queue the same study again, of the dataset's latest version. To change something: simplenet study --like."""
    from tuning import steering

    workspace = reporting.open_workspace()
    study = steering.clone(workspace, study_id, name=name)
    _answer(workspace, study, f"Study {study.id} repeats study {study_id}", as_json=as_json)


@command
def rename(
    study_id: StudyId,
    name: Annotated[str, typer.Argument(help="What to call it.")],
    as_json: AsJson = False,
) -> None:
    """Call a study something else."""
    from tuning import steering

    study = steering.rename(reporting.open_workspace(), study_id, name)
    reporting.answer(study, as_json=as_json, text=f"Study {study.id} is called '{study.name}'.")


@command
def archive(study_id: StudyId, as_json: AsJson = False) -> None:
    """Leave an ended study out of lists; its trials, runs and models stay. `unarchive` brings it back."""
    from tuning import steering

    study = steering.archive(reporting.open_workspace(), study_id)
    text = f"Study {study.id} is archived. Bring it back: simplenet studies unarchive {study.id}"
    reporting.answer(study, as_json=as_json, text=text)


@command
def unarchive(study_id: StudyId, as_json: AsJson = False) -> None:
    """Show an archived study in lists again."""
    from tuning import steering

    study = steering.unarchive(reporting.open_workspace(), study_id)
    reporting.answer(study, as_json=as_json, text=f"Study {study.id} is in the lists again.")


@command
def move_up(study_id: StudyId, as_json: AsJson = False) -> None:
    """Let a study be taken before all others that wait."""
    from tuning import steering

    study = steering.move_up(reporting.open_workspace(), study_id)
    text = f"Study {study.id} is taken before all others that wait (priority {study.priority})."
    reporting.answer(study, as_json=as_json, text=text)


def _answer(workspace: "Workspace", study: "Study", text: str, *, as_json: bool) -> None:
    """Answer with what comes next of a study."""
    from storage.records import StudyState
    from tuning import queries

    rest = {StudyState.QUEUED: "it waits for a worker", StudyState.PAUSED: f"simplenet resume {study.id}"}
    text += f"; {rest[study.state]}." if study.state in rest else "."
    if study.state is StudyState.QUEUED and not queries.worker_alive(workspace):
        text += " No worker is running; start one: simplenet worker"
    reporting.answer(study, as_json=as_json, text=text)


def _trials_of(study: "Study") -> str:
    from dashboard.following import ended

    trials = study.spec["trials"]
    return f"{ended(study)} of {trials}" if trials else str(ended(study))


def _best_of(study: "Study") -> str:
    best = study.progress.get("best")
    return "–" if best is None else f"{best:.3f}"
