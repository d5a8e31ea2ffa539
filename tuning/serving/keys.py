"""Which keys open the model server: those in the database, and one that this installation's own pages use."""

import hmac
import threading
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from storage import api_keys
from storage.api_keys import key_digest
from storage.errors import DatabaseUnavailable
from storage.records import now
from storage.secret_files import secret
from storage.workspace import Workspace

SECRET_FILE = "serving.secret"  # noqa: S105 (the name of a file)


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
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read which keys are in use.

        Raises:
            DatabaseUnavailable: what was known stays known.
        """
        with self._workspace.session() as session:
            active = api_keys.active_keys(session)
        with self._lock:
            self._active = active

    def note_uses(self) -> None:
        """Write down when keys were used last. Apart from `refresh`, for a writer may have to wait.

        Raises:
            DatabaseUnavailable: the uses are noted the next time.
        """
        with self._lock:
            uses, self._used = self._used, {}
        if not uses:
            return
        try:
            with self._workspace.session() as session:
                api_keys.record_uses(session, uses)
        except DatabaseUnavailable:
            with self._lock:
                self._used = uses | self._used
            raise

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
