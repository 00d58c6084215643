"""
The names of the vendor's library and where the stand-in keeps what is behind them.

Two generations of module paths exist in the wild (platform.md 2): the older is the one of the vendor's
documentation, the newer is seen in a client of 2024. A module that both have is one object under two names, so a
class imported from either is the same class.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

NAME = "libnova"
ORIGIN = __file__
MARK = "__libsafe_nb_standin__"

_HOME = "libsafe_nb.compat.standin"

PACKAGES = {
    "libnova.com": "Older layout: Api, Filesystem and Nuclio.",
    "libnova.com.Api": "Calls of the REST API: Container, Driver, File, Job, JobMessage.",
    "libnova.com.Nuclio": "What a Function is called with: Request.",
    "libnova.com.Filesystem": "Where the bytes are: S3.",
    "libnova.com.Filesystem.S3": "Objects in S3: File, Storage.",
    "libnova.common": "Newer layout: api, filesystem and nuclio.",
    "libnova.common.api": "Calls of the REST API: Container, Driver, File, Job, JobMessage.",
    "libnova.common.nuclio": "What a Function is called with: Request.",
    # Not seen in any source: inferred from the newer layout's other names.
    "libnova.common.filesystem": "Where the bytes are: S3, also as s3.",
    "libnova.common.filesystem.S3": "Objects in S3: File, Storage.",
    "libnova.common.filesystem.s3": "Objects in S3: File, Storage.",
}

_API = ("Container", "Driver", "File", "Job", "JobMessage")
_MODULES = {
    "Container": "container",
    "Driver": "driver",
    "File": "file",
    "Job": "job",
    "JobMessage": "job_message",
}

MODULES = {
    **{
        f"{parent}.{name}": _MODULES[name]
        for parent in ("libnova.com.Api", "libnova.common.api")
        for name in _API
    },
    "libnova.com.Nuclio.Request": "request",
    "libnova.common.nuclio.Request": "request",
    **{
        f"{parent}.{name}": home
        for parent in (
            "libnova.com.Filesystem.S3",
            "libnova.common.filesystem.S3",
            "libnova.common.filesystem.s3",
        )
        for name, home in (("File", "s3_file"), ("Storage", "s3_storage"))
    },
    "libnova.Util": "util",
    "libnova.common.Util": "util",
}

DOCUMENTATION = """
The stand-in for the vendor's `libnova`, from libsafe_nb. It is not the vendor's library.

It is here because no other `libnova` was found. It answers the calls that the vendor's documentation and public
code show, and what an author would expect beside them; docs/libnova.md of libsafe_nb lists each with what is known
of it. Install the vendor's library and it is used instead.
"""


def is_standin(module: ModuleType | None) -> bool:
    return module is not None and getattr(module, MARK, False) is True


def build(top: ModuleType) -> None:
    """
    Fill `top`, the new module `libnova`, and enter all names below it into `sys.modules`.

    All at once, so that `com.Nuclio.Request.Request` works after `from libnova import com`, as the vendor's page
    writes it. Nothing heavy is imported: the REST and S3 clients come with the first call.
    """
    top.__doc__ = DOCUMENTATION
    top.__file__ = ORIGIN
    setattr(top, MARK, True)
    made = {NAME: top}
    for name, text in PACKAGES.items():
        made[name] = _package(name, text)
    for name, home in MODULES.items():
        made[name] = importlib.import_module(f"{_HOME}.{home}")
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
            sys.modules[name] = module


def _package(name: str, text: str) -> ModuleType:
    module = ModuleType(name, f"{text} Part of libsafe_nb's stand-in for the vendor's library.")
    module.__file__ = ORIGIN
    # An empty path makes it a package, in which nothing is searched for on disk.
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None, origin=ORIGIN, is_package=True)
    return module
