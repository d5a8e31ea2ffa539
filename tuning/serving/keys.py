"""Which keys open the model server: those in the database, and one that this installation's own pages use."""

import hmac
import logging
import threading
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from storage import api_keys
from storage.api_keys import key_digest
from storage.records import now
from storage.secret_files import secret
from storage.workspace import Workspace

logger = logging.getLogger(__name__)

SECRET_FILE = "serving.secret"  # noqa: S105 (the name of a file)
NOTE_SECONDS = 30.0  # between two notes of the last use of a key


def own_key(home: Path) -> str:
    """The key of this installation's own pages and commands: whoever may read its home may use its models.

    Raises:
        DamagedSecret: the file that it is made from was damaged.
    """
    return "own_" + hmac.new(secret(home / SECRET_FILE), b"model server", sha256).hexdigest()


class Keys:
    """The keys in use, held in memory so that no request waits for the database. May be shared by threads."""

    def __init__(self, workspace: Workspace) -> None:
        """Know this installation's own key; `refresh` reads the others."""
        self._workspace = workspace
        self._own = own_key(workspace.settings.home)
        self._active: dict[str, int] = {}
        self._used: dict[int, datetime] = {}
        self._noted: dict[int, datetime] = {}
        self._lock = threading.Lock()

    def refresh(self, *, note_all: bool = False) -> None:
        """Read which keys are in use, and note when they were used last, not more than every NOTE_SECONDS.

        Raises:
            DatabaseUnavailable: what was known stays known.
        """
        with self._lock:
            due = {
                number: moment
                for number, moment in self._used.items()
                if note_all or moment - self._noted.get(number, moment - _NOTE) >= _NOTE
            }
            due = {number: moment for number, moment in due.items() if self._noted.get(number) != moment}
        with self._workspace.session() as session:
            active = api_keys.active_keys(session)
            if due:
                api_keys.record_uses(session, due)
        with self._lock:
            self._active = active
            self._noted |= due

    def is_own(self, key: str) -> bool:
        """Whether it is the key of this installation's own pages."""
        return hmac.compare_digest(key.encode(), self._own.encode())

    def opens(self, key: str) -> bool:
        """Whether the server may answer whoever sends this key; takes note of the use."""
        if self.is_own(key):
            return True
        with self._lock:
            number = self._active.get(key_digest(key))
            if number is not None:
                self._used[number] = now()
            return number is not None


_NOTE = timedelta(seconds=NOTE_SECONDS)
