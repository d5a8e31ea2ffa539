"""`simplenet`: everything that the dashboard does, and the processes of an installation, from the command line."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dashboard.commands import (
    benchmark,
    champions,
    datasets,
    models,
    processes,
    serving,
    storing,
    studies,
    thresholds,
    trials,
    versions,
)

app = typer.Typer(
    name="simplenet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)


@app.callback()
def main(
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder that holds all that an installation keeps. Default: $SIMPLENET_HOME, else ~/.simplenet.",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Find defects on pictures with models that tune themselves."""
    if home is not None:
        # Every process that a command starts must find the same home.
        os.environ["SIMPLENET_HOME"] = str(home.expanduser().absolute())


for subject in (
    processes,
    datasets,
    versions,
    studies,
    trials,
    models,
    benchmark,
    serving,
    storing,
    thresholds,
    champions,
):
    subject.register(app)

if __name__ == "__main__":
    app()
