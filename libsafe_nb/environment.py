"""
What a kernel runs in: Python, platform, image, and the packages that it can import (`environment.json`).

Taken inside the kernel at the run's start, since the runner's own environment can be another one. Plain data; no file
but the names of the installed packages' metadata folders is read, so it costs milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeGuard

from libsafe_nb.record import canonical

SCHEMA = "libsafe-nb-environment/1"
FILE = "environment.json"

VARIABLES = ("LANG", "LC_ALL", "OMP_NUM_THREADS", "PYTHONHASHSEED", "SOURCE_DATE_EPOCH", "TZ")
"""The only environment variables that are told: those that change results, and hold no secret."""

IMAGE = "LIBSAFE_NB_IMAGE"
"""Set by whoever deploys: the container image that this process runs in, by digest (`name@sha256:…`)."""

MOST, LONGEST = 10_000, 1_000
"""Packages, and characters of a text, that are taken from a kernel."""

_FOLDER = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-.*)?\.(dist|egg)-info", re.IGNORECASE)


def take() -> dict[str, Any]:
    """This process's environment, without its digest."""
    return {
        "schema": SCHEMA,
        "taken": "kernel",
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "platform": platform.platform(),
        "packages": packages(),
        "env_vars": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def packages() -> list[dict[str, str]]:
    """Installed distributions, by normalized name (PEP 503); of two of one name the one that is imported."""
    found: dict[str, str] = {}
    for place in sys.path:
        try:
            names = sorted(os.listdir(place or "."))  # noqa: PTH208 - half the time of Path.iterdir
        except OSError:
            continue
        for name in names:
            match = _FOLDER.fullmatch(name)
            if match:
                found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])
    return [{"name": name, "version": found[name]} for name in sorted(found)]


@cache
def version(name: str) -> str:
    """The version of an installed distribution, as it was when it was first asked for: of what this process has loaded."""
    from importlib.metadata import version

    return version(name)


def unknown() -> dict[str, Any]:
    """Where the kernel did not tell: it is of another language, or ended before it could."""
    return {
        "schema": SCHEMA,
        "taken": "none",
        "python": None,
        "platform": platform.platform(),
        "packages": None,
        "env_vars": {},
    }


def told(event: Mapping[str, Any]) -> dict[str, Any]:
    """
    What a kernel told of itself, as `take` makes it; `unknown` where it is something else.

    The author's code can tell the runner what it likes, and must not be able to break the record by it: what is not of
    the shape, or larger than any real environment, is not taken, and what is besides it is left out.
    """
    python, rows, variables = event.get("python"), event.get("packages"), event.get("env_vars")
    if (
        event.get("schema") != SCHEMA
        or event.get("taken") != "kernel"
        or not _texts(python, ("implementation", "version"))
        or not _texts(event, ("platform",))
        or not isinstance(rows, list)
        or len(rows) > MOST
        or not all(_texts(each, ("name", "version")) for each in rows)
        or not isinstance(variables, Mapping)
        or not _texts(variables, variables)
    ):
        return unknown()
    return {
        "schema": SCHEMA,
        "taken": "kernel",
        "python": {name: python[name] for name in ("version", "implementation")},
        "platform": event["platform"],
        "packages": [{"name": each["name"], "version": each["version"]} for each in rows],
        "env_vars": {name: variables[name] for name in VARIABLES if name in variables},
    }


def _texts(found: Any, names: Iterable[str]) -> TypeGuard[Mapping[str, str]]:
    """Whether each of these is a text in `found`, and not too long."""
    return isinstance(found, Mapping) and all(
        isinstance(found.get(name), str) and len(found[name]) <= LONGEST for name in names
    )


def complete(found: Mapping[str, Any], image: str | None) -> dict[str, Any]:
    """With the image and the digest, by which two environments are compared."""
    body = {**found, "image": image}
    return {**body, "digest": digest(body)}


def digest(found: Mapping[str, Any]) -> str:
    """sha256 of packages, Python, platform and image as canonical JSON."""
    told = {name: found.get(name) for name in ("image", "packages", "platform", "python")}
    return hashlib.sha256(canonical(told)).hexdigest()
