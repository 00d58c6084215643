"""
The connection to the REST API. Ours: the vendor's page imports `Driver` and shows no call of it.

`Request` opens the connection from the payload, so a function needs nothing of this module, unless it calls
something of the instance's own API documentation that has no name here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libsafe_nb.compat import session

__all__ = ["delete", "get", "initialise", "initialize", "post", "put"]


def initialise(url: str, key: str) -> None:
    """Use this platform and API key from now on. S3 stays that of the settings, if it is the same platform's."""
    session.initialise(url, key)


initialize = initialise


def get(path: str, params: Mapping[str, Any] | None = None) -> Any:
    """The `result` of a GET below `/api`."""
    here = session.current()
    here.outbox.settle()
    return here.client.request("GET", path, params=params)


def post(path: str, body: Any = None) -> Any:
    """The `result` of a POST of JSON. Not repeated when its answer is lost."""
    return session.current().outbox.call("POST", path, body)


def put(path: str, body: Any = None) -> Any:
    return session.current().outbox.call("PUT", path, body)


def delete(path: str) -> Any:
    return session.current().outbox.call("DELETE", path, None)
