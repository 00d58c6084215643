"""
The fallback finder: asked last, it offers the stand-in `libnova` only if nobody else has a `libnova`.

Nothing named `libnova` is in our wheel, on a path or in a `.pth` file: each of those would shadow the vendor's
library, or be shadowed by it in half. A finder at the end of `sys.meta_path` does neither.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from libsafe_nb.compat import layout

NAME = layout.NAME


class StandInFinder(MetaPathFinder):
    """Answers for `libnova` and, once it was answered for, for the names below it that do not exist."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == NAME:
            # Finders that were added after us, such as a later editable install's, come first all the same.
            found = _others(self, fullname, path, target)
            return found or ModuleSpec(NAME, StandInLoader(), origin=layout.ORIGIN, is_package=True)
        if fullname.startswith(NAME + ".") and layout.is_standin(sys.modules.get(NAME)):
            _refuse_missing(fullname)
        return None


class StandInLoader(Loader):
    """Builds the stand-in's module tree in one go."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        layout.build(module)


def install() -> None:
    """Offer the stand-in from now on; calling it again does nothing."""
    if not any(isinstance(each, StandInFinder) for each in sys.meta_path):
        sys.meta_path.append(StandInFinder())


def uninstall() -> None:
    """Take the offer back, and forget the stand-in where it was imported; the vendor's library stays."""
    sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, StandInFinder)]
    if layout.is_standin(sys.modules.get(NAME)):
        for name in [each for each in sys.modules if each == NAME or each.startswith(NAME + ".")]:
            del sys.modules[name]


def which() -> dict[str, Any]:
    """
    The `libnova` that is imported, or that `import libnova` would find; nothing is imported for it.

    Returns
    -------
    dict
        `library`: `stand-in`; `vendor` (it has `com` or `common`, as the vendor's page imports); `other` (PyPI's
        `libnova` is something else); `none`. `origin`: a path or None. `version`: str or None. `loaded`: bool.
    """
    module = sys.modules.get(NAME)
    try:
        spec = module.__spec__ if module is not None else importlib.util.find_spec(NAME)
    except (ImportError, ValueError):
        spec = None
    if module is None and spec is None:
        return {"library": "none", "origin": None, "version": None, "loaded": False}
    if layout.is_standin(module) or (spec is not None and isinstance(spec.loader, StandInLoader)):
        version = importlib.metadata.version("libsafe-nb")
        return {
            "library": "stand-in",
            "origin": layout.ORIGIN,
            "version": version,
            "loaded": module is not None,
        }
    places = list((spec.submodule_search_locations if spec else None) or ())
    origin = (spec.origin if spec else getattr(module, "__file__", None)) or (places[0] if places else None)
    vendor = any(_has(f"{NAME}.{each}", places, module) for each in ("com", "common"))
    return {
        "library": "vendor" if vendor else "other",
        "origin": origin,
        "version": getattr(module, "__version__", None) or _version(),
        "loaded": module is not None,
    }


def _refuse_missing(fullname: str) -> None:
    """All that exists is in `sys.modules` already, so this name does not: say what does."""
    parent, _, name = fullname.rpartition(".")
    if name.startswith("_") or parent not in sys.modules:
        return
    offered = ", ".join(sorted(each for each in vars(sys.modules[parent]) if not each.startswith("_")))
    # Without `name=`: importlib swallows an error that carries the name it looks for, sentence and all.
    raise ModuleNotFoundError(
        f"libsafe_nb's stand-in for the vendor's library has no {fullname!r}; {parent} offers {offered}"
    )


def _others(mine: MetaPathFinder, name: str, path: Sequence[str] | None, target: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if finder is mine or isinstance(finder, StandInFinder) or find_spec is None:
            continue
        found: ModuleSpec | None = find_spec(name, path, target)
        if found is not None:
            return found
    return None


def _has(name: str, places: Sequence[str], module: ModuleType | None) -> bool:
    if name in sys.modules or hasattr(module, name.rpartition(".")[2]):
        return True
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is not None and not isinstance(finder, StandInFinder) and find_spec(name, places, None):
            return True
    return False


def _version() -> str | None:
    """The version of the distribution that brings `libnova`; its name need not be the same."""
    for name in importlib.metadata.packages_distributions().get(NAME, ()):
        return importlib.metadata.version(name)
    return None
