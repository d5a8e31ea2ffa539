"""Commands of the model server: serve, keys add, keys list, keys revoke."""

from typing import Annotated

import typer

from dashboard import wording
from dashboard.commands import reporting
from dashboard.commands.reporting import command

AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `simplenet`."""
    app.command()(serve)
    group = typer.Typer(no_args_is_help=True)
    group.callback()(_keys)
    group.command()(add)
    group.command(name="list")(list_keys)
    group.command()(revoke)
    app.add_typer(group, name="keys")


@command
def serve() -> None:
    """Run the model server alone: every dataset's champion over HTTP, as MLflow serves it and for plain pictures."""
    from dashboard import logs
    from dashboard.served_maps import draw
    from storage.settings import EVERYWHERE
    from tuning.serving.server import serve as run

    workspace = reporting.open_workspace()
    logs.configure(workspace.settings.log_level)
    settings = workspace.settings
    everywhere = settings.serve_host in EVERYWHERE
    others = (
        f"; from other machines port {settings.serve_port} of any address of this one" if everywhere else ""
    )
    reporting.say(f"Model server: {settings.model_server_url}{others}")
    run(workspace, draw)


def _keys() -> None:
    """API keys of the model server; it asks for them when other machines can reach it."""


@command
def add(
    name: Annotated[str, typer.Argument(help="What will use it, such as 'line 3'.")], as_json: AsJson = False
) -> None:
    """Make a key and print it, this once: only its digest is kept."""
    from storage import api_keys
    from storage.records import now
    from tuning.champion import current_user

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        made, key = api_keys.add_key(session, name=name, who=current_user(), now=now())
    reporting.say("Keep this key now; it can't be shown again. Send it as 'Authorization: Bearer KEY'.")
    reporting.answer({"name": made.name, "key": key}, as_json=as_json, text=key)


@command
def list_keys(as_json: AsJson = False) -> None:
    """List the keys: names, when they were made, last used and revoked; never the keys themselves."""
    from storage import api_keys

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        found = api_keys.list_keys(session)
    rows = [
        [
            key.name,
            f"{key.hint}…",
            "revoked" if key.revoked_at else "in use",
            wording.moment(key.created_at),
            key.who,
            wording.moment(key.last_used_at),
        ]
        for key in found
    ]
    text = reporting.table(["name", "begins with", "state", "made", "by", "last used"], rows)
    reporting.answer(
        found, as_json=as_json, text=text if found else "No key yet. Make one: simplenet keys add NAME"
    )


@command
def revoke(
    name: Annotated[str, typer.Argument(help="Name of a key in use.")], as_json: AsJson = False
) -> None:
    """End a key for good; the model server refuses it within seconds."""
    from storage import api_keys
    from storage.records import now

    workspace = reporting.open_workspace()
    with workspace.session() as session:
        revoked = api_keys.revoke_key(session, name=name, now=now())
    reporting.answer(revoked, as_json=as_json, text=f"Key '{revoked.name}' opens nothing any more.")
