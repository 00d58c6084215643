"""
Which version of a file each client has before it, so that a save replaces that version and no other.

Jupyter's save carries no etag. A Lab asks for the file's metadata right before it saves, and compares the hash with that
of what it opened: what it was told then is what it replaces, be it that nothing had changed or that a person has
chosen "Overwrite". Other clients replace what they read. Between the question and the save the storage itself
decides: a put with `If-Match`.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

MOST = 20_000
"""Openings that are remembered; the oldest are forgotten, and their next save counts as one of a file not opened."""

_WORKSPACE = re.compile(r"/workspaces/([^/?#]+)")


@dataclass(frozen=True)
class Client:
    """
    Who asks: a tab of a browser, or a program.

    Attributes
    ----------
    keys
        What it is known by, the surest first.
    browser
        Whether it is a page that asks.
    """

    keys: tuple[str, ...]
    browser: bool = False


def client_of(handler: Any) -> Client:
    """
    The client of a request; `handler` is None for a call from Python.

    A browser is known by its login, and a tab in it by its Lab's workspace: a second tab gets one of its own, whose
    name stands in the address that the browser sends along. A program that keeps no cookie is known by its
    connection, and on a new one by what it says of itself.
    """
    if handler is None:
        return Client(("",))
    request = handler.request
    page = request.headers.get("Referer", "")
    found = _WORKSPACE.search(page)
    # Of a request without the cookie it is the login that the answer brings.
    login = f"{handler.current_user.username} {found[1] if found else ''}"
    if handler.identity_provider.get_cookie_name(handler) in request.cookies:
        return Client((login,), browser=bool(page))
    said = "\n".join(request.headers.get(name, "") for name in ("Authorization", "User-Agent"))
    address = str(getattr(request.connection.context, "address", request.remote_ip))
    return Client((login, address, hashlib.sha256(said.encode()).hexdigest()), browser=bool(page))


@dataclass
class Opening:
    """
    Attributes
    ----------
    held
        Etag of what the client has before it.
    looked
        Etag of what it was told of since, without being given it.
    saved
        Whether what it holds is what it saved itself, and it has not asked since.
    beside
        Path and etag of the copy in which what it could not save was kept.
    """

    held: str
    looked: str | None = None
    saved: bool = False
    beside: tuple[str, str] | None = None


class Openings:
    """For use from one thread: that of the server's event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Opening] = OrderedDict()

    def opened(self, client: Client, path: str, etag: str) -> None:
        """The client was given the file's content."""
        self._keep(client, path, Opening(etag))

    def looked(self, client: Client, path: str, etag: str) -> str:
        """
        The client asks for the file's metadata; gives the hash to tell it.

        A Lab takes the hash of the first answer after its save for that of what it has saved. Should someone else
        have saved in between, that would hide it: so a browser is told what its own save left.
        """
        opening = self._find(client, path)
        if opening is None:
            self._keep(client, path, Opening(etag))
            return etag
        saved, opening.saved = opening.saved, False
        if saved and client.browser and etag != opening.held:
            return opening.held
        opening.looked = etag
        return etag

    def saved(self, client: Client, path: str, etag: str) -> None:
        """The client's save was stored."""
        self._keep(client, path, Opening(etag, saved=True))

    def refused(self, client: Client, path: str, held: str, beside: tuple[str, str] | None) -> None:
        """The client's save met another version than `held`; what it could not save was kept `beside`."""
        self._keep(client, path, Opening(held, beside=beside))

    def replaces(self, client: Client, path: str) -> str | None:
        """Etag of what the client's save is to replace; None where it has not seen the file."""
        opening = self._find(client, path)
        return None if opening is None else opening.looked or opening.held

    def beside(self, client: Client, path: str) -> tuple[str, str] | None:
        opening = self._find(client, path)
        return None if opening is None else opening.beside

    def moved(self, path: str, target: str) -> None:
        """A file has another path, and there perhaps another etag: its next save counts as one of a file not opened."""
        for known in [key for key in self._known if _within(key[1], path)]:
            del self._known[known]
        self.forget(target)

    def forget(self, path: str, client: Client | None = None) -> None:
        """Nothing is there any more: for all who had it open, or for the one who knows it."""
        keys = None if client is None else client.keys
        for key in [each for each in self._known if _within(each[1], path)]:
            if keys is None or key[0] in keys:
                del self._known[key]

    def _find(self, client: Client, path: str) -> Opening | None:
        return next((self._known[key, path] for key in client.keys if (key, path) in self._known), None)

    def _keep(self, client: Client, path: str, opening: Opening) -> None:
        for key in client.keys:
            self._known[key, path] = opening
            self._known.move_to_end((key, path))
            opening = replace(opening)
        while len(self._known) > MOST:
            self._known.popitem(last=False)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
