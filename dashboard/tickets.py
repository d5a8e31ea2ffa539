"""Proof that a request comes from a page of this installation: a ticket in a header, or a key in an address.

Both are signed with a secret that lies in the home, so that tickets outlive a restart of the dashboard.
"""

import hmac
from hashlib import sha256
from pathlib import Path

from dashboard.errors import BadTicket
from storage import secret_files
from storage.errors import DamagedSecret

LIFETIME_SECONDS = 12 * 3600


def secret(home: Path) -> bytes:
    """The secret of an installation, made by whoever asks first and readable by its owner alone.

    Raises:
        BadTicket: the file was damaged.
    """
    try:
        return secret_files.secret(home / "tickets.secret")
    except DamagedSecret as error:
        raise BadTicket(f"{error} Then reload the page.") from error


def issue(secret: bytes, now: float) -> str:
    """A ticket for a page that is drawn at `now`, seconds since 1970."""
    expiry = int(now + LIFETIME_SECONDS)
    return f"{expiry}.{_signature(secret, f'ticket {expiry}')}"


def check(secret: bytes, ticket: str, now: float) -> None:
    """Accept a ticket that this installation issued and that has not run out.

    Raises:
        BadTicket: it is none of these; the message tells people what to do.
    """
    expiry, _, signature = ticket.partition(".")
    # compare_digest takes text of ASCII only, and headers may hold anything.
    if not hmac.compare_digest(signature.encode(), _signature(secret, f"ticket {expiry}").encode()):
        raise BadTicket("The request carries no ticket of this dashboard. Reload the page and try again.")
    if now > int(expiry):
        raise BadTicket(
            f"This page has been open for more than {LIFETIME_SECONDS // 3600} hours. Reload it and choose the same "
            "files again: the upload goes on where it stopped."
        )


def address_key(secret: bytes, what: str) -> str:
    """The key that the address of a file carries; it never changes, so browsers keep the file."""
    return _signature(secret, f"address {what}")[:32]


def check_address_key(secret: bytes, what: str, key: str) -> None:
    """Accept the key that `address_key` gives for this.

    Raises:
        BadTicket: it is another.
    """
    if not hmac.compare_digest(key.encode(), address_key(secret, what).encode()):
        raise BadTicket("This address is not one that the dashboard gave. Reload the page that it came from.")


def _signature(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), sha256).hexdigest()
