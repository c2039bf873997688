"""What went wrong with the store, in words that say what to do. Imports no driver."""

from __future__ import annotations

_CHECK_LOGIN = "check the user and password in the URL"
_REMEDIES = {
    60: "a table is gone: restore the store from a copy, or start an empty one",
    81: "create the database on the server, or correct the URL",
    159: "it took longer than a read may: ask for a shorter time or fewer symbols",
    193: _CHECK_LOGIN,
    194: _CHECK_LOGIN,
    243: "the disk is full: free space on it",
    252: "the server is behind with merges: wait, then repeat",
    497: "grant the account SELECT, INSERT, CREATE TABLE and ALTER on the database",
    516: _CHECK_LOGIN,
}
_LONGEST = 400


class WarehouseError(Exception):
    """The store failed; the message names it, the cause and what to do."""


def explain_fault(error: Exception, location: str) -> str:
    """Cause and remedy of a driver's ``error`` at ``location`` (a URL without its password).

    ClickHouse's numeric code, where the error has one, decides the remedy.
    """
    text = " ".join(str(error).split(", Stack trace")[0].split())
    if "already initialized with path" in text:
        return f"this process holds another embedded store, and may hold only one: {text[-250:]}"
    if "has been closed" in text:
        return "it was closed before this call"
    return f"{text[:_LONGEST]}; {_remedy(error, location)}"


def _remedy(error: Exception, location: str) -> str:
    known = _REMEDIES.get(getattr(error, "code", None) or 0)
    if known is not None:
        return known
    if location.startswith("http"):
        return "check that the ClickHouse server runs and that the URL is right"
    return "check the path, its rights and the free space"
