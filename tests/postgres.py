"""A real PostgreSQL server for tests: started on a free port, restarted at will, deleted at the end."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from pwd import getpwnam
from typing import Any

import psycopg
import pytest

START_SECONDS = 60
DEBIAN = Path("/usr/lib/postgresql")  # has a folder per version, which Debian does not put on the path


class Postgres:
    """A server that trusts everybody on this machine."""

    def __init__(self, folder: Path, owner: dict[str, Any]) -> None:
        self.folder = folder
        self._owner = owner
        self._numbers = count()
        self._server: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [_program("postgres"), "-D", "data", "-p", str(self.port)]
                + [part for name, value in options.items() for part in ("-c", f"{name}={value}")],
                stdout=log,
                stderr=log,
                **self._owner,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")
                time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT at once, all connections broken; SIGINT in good order."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(timeout=30)
            self._server = None

    def connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="simplenet",
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        )

    def new_database(self) -> str:
        """Address of what looks like an empty database: a schema of its own, which is much quicker to make."""
        name = f"test_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"postgresql+psycopg://simplenet@127.0.0.1:{self.port}/postgres?options=-csearch_path%3D{name}"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new server, running; skips the test where PostgreSQL is not installed."""
    initdb = _program("initdb")
    # Not below pytest's own folder: only its owner may enter that, and PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="simplenet-postgres-"))
    owner: dict[str, Any] = {"cwd": folder}
    if os.geteuid() == 0:
        nobody = getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        owner |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    server = Postgres(folder, owner)
    try:
        with (folder / "log").open("wb") as log:
            subprocess.run(
                [
                    initdb,
                    "--pgdata=data",
                    "--username=simplenet",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--no-sync",
                ],
                check=True,
                stdout=log,
                stderr=log,
                **owner,
            )
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    found = [str(path) for path in sorted(DEBIAN.glob(f"*/bin/{name}"))]
    program = shutil.which(name) or (found[-1] if found else None)
    if program is None:
        pytest.skip(f"PostgreSQL's program {name} is neither on the path nor under {DEBIAN}")
    return program
