"""
LIBSAFE Go functions as notebooks: write one, run it anywhere, keep a record of what happened.

Names are loaded when they are first used, so that `import libsafe_nb` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libsafe_nb.calls import Call as Call
    from libsafe_nb.calls import Called as Called
    from libsafe_nb.calls import call as call
    from libsafe_nb.calls import gather as gather
    from libsafe_nb.calls import map_call as map_call
    from libsafe_nb.digests import digest as digest
    from libsafe_nb.interactive.payload import payload as payload
    from libsafe_nb.many import run_many as run_many
    from libsafe_nb.models import Run as Run
    from libsafe_nb.payloads import Payload as Payload
    from libsafe_nb.runner import run as run
    from libsafe_nb.secrets import Secret as Secret
    from libsafe_nb.verifying import verify as verify

__all__ = [
    "Call",
    "Called",
    "Payload",
    "Run",
    "Secret",
    "call",
    "digest",
    "gather",
    "load_ipython_extension",
    "local",
    "map_call",
    "nuclio",
    "payload",
    "run",
    "run_many",
    "unload_ipython_extension",
    "verify",
]

_HOMES = {
    "Call": "libsafe_nb.calls",
    "Called": "libsafe_nb.calls",
    "Payload": "libsafe_nb.payloads",
    "Run": "libsafe_nb.models",
    "Secret": "libsafe_nb.secrets",
    "call": "libsafe_nb.calls",
    "digest": "libsafe_nb.digests",
    "gather": "libsafe_nb.calls",
    "map_call": "libsafe_nb.calls",
    "payload": "libsafe_nb.interactive.payload",
    "run": "libsafe_nb.runner",
    "run_many": "libsafe_nb.many",
    "verify": "libsafe_nb.verifying",
}


def __getattr__(name: str) -> Any:
    if name in ("local", "nuclio"):
        return importlib.import_module(f"libsafe_nb.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'libsafe_nb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext libsafe_nb`: the magic `%libsafe`, and `import libnova` where the vendor's library is not installed."""
    from libsafe_nb import interactive

    interactive.load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext libsafe_nb`: takes both back."""
    from libsafe_nb import interactive

    interactive.unload(ipython)
