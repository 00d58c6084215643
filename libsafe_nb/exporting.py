"""
A notebook or handler as the folder that Nuclio builds a function from: `libsafe-nb export nuclio`.

    function.yaml       Nuclio's function configuration; the entry point is libsafe_nb.nuclio:handler
    NOTEBOOK            the function, byte for byte
    requirements.txt    libsafe-nb and what the function imports, in the versions that are installed here
    Dockerfile          for `docker build` in place of Nuclio's own build

No key is in any of them: S3 credentials come from a Kubernetes secret, API keys with each payload.

The configuration follows docs.nuclio.io, "Function-Configuration Reference"; the Dockerfile "Python reference" there.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from libsafe_nb import atomic, check, handlers, notebook, percent
from libsafe_nb.description import described
from libsafe_nb.errors import NotebookError, UsageError
from libsafe_nb.notebook import FunctionNotebook

PLACE = "/opt/nuclio"
"""Where Nuclio's images hold a function's files."""
STATE = "/tmp/libsafe-nb"  # noqa: S108 - in a container of its own
SECRET = "libsafe-nb"  # noqa: S105 - the name of a Kubernetes secret
RUNTIMES = ("3.11", "3.12")
"""Pythons of Nuclio's runtime on which libsafe-nb runs."""

_PYTHON_MAGICS = ("capture", "prun", "time", "timeit")
_OURS = {"libsafe_nb", "libnova"}


def export(path: Path, target: Path, *, force: bool = False) -> list[Path]:
    """
    Write the folder `target` for the function at `path`; what it wrote.

    Parameters
    ----------
    force
        Overwrite files that are there already.

    Raises
    ------
    NotebookError
        The file is no function, or a key is pasted in it.
    UsageError
        A file is there already, or cannot be written. Nothing was written in the first case.
    """
    try:
        source = path.read_bytes()
    except OSError as exc:
        raise NotebookError(f"{path}: cannot be read ({exc.strerror or exc})", notebook=str(path)) from exc
    function = notebook.parse(source, name=path.name)
    if function.language != "python":
        raise NotebookError(
            f"{path}: expected a function in Python, as Nuclio's Python image has no other kernel; got {function.language}",
            notebook=str(path),
        )
    # An image is pushed to a registry.
    found = check.check(path, secrets=check.configured_secrets(), codes=check.KEYS)
    if found:
        raise NotebookError(
            f"{found[0]}. Nothing was written; libsafe-nb check shows all", notebook=str(path)
        )
    files = build(function, source)
    there = [name for name in files if os.path.lexists(target / name)]
    if there and not force:
        raise UsageError(f"{target / there[0]}: is there already; --force overwrites it")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            atomic.write_bytes(target / name, data, None)
    except OSError as exc:
        raise UsageError(f"{target}: cannot be written ({exc.strerror or exc})") from exc
    return [target / name for name in files]


def build(function: FunctionNotebook, source: bytes) -> dict[str, bytes]:
    """The files by name; `source` is the function's, as it was read."""
    import yaml

    name = Path(function.name).name
    if name in ("function.yaml", "requirements.txt", "Dockerfile"):
        raise UsageError(f"{name}: expected another name, as this one is taken in the folder")
    if not re.fullmatch(r"[\w .()+,=@-]+", name):
        raise UsageError(f"{name!r}: expected a name that a Dockerfile can hold; rename the file")
    if name.endswith(".py") and _shadows(Path(name).stem):
        raise UsageError(
            f"{name}: expected a name that no module has, as Python looks in the function's folder first; rename the file"
        )
    config = yaml.safe_dump(configuration(function, source), sort_keys=False, allow_unicode=True, width=120)
    return {
        name: source,
        "function.yaml": config.encode(),
        "requirements.txt": "".join(f"{line}\n" for line in requirements(function)).encode(),
        "Dockerfile": _DOCKERFILE.format(python=_python(), place=PLACE, state=STATE, name=name).encode(),
    }


def _shadows(stem: str) -> bool:
    """Whether `import` would find a file of this name in place of a module that Nuclio's wrapper, or we, import."""
    wrappers = stem.startswith("_nuclio") or stem in ("wrapper_common", "nuclio_sdk", "msgpack")
    installed = stem in importlib.metadata.packages_distributions()
    return wrappers or installed or stem in sys.stdlib_module_names or stem in _OURS


def configuration(function: FunctionNotebook, source: bytes) -> dict[str, Any]:
    """Nuclio's function configuration, as it stands in `function.yaml`."""
    name = Path(function.name).name
    stem = re.sub(r"[^a-z0-9]+", "-", Path(name).stem.lower()).strip("-")[:63].strip("-") or "function"
    about = described(function.metadata, Path(name).stem)
    return {
        "apiVersion": "nuclio.io/v1",
        "kind": "NuclioFunction",
        "metadata": {
            "name": stem,
            "annotations": {
                "libsafe-nb/notebook": name,
                "libsafe-nb/sha256": hashlib.sha256(source).hexdigest(),
            },
        },
        "spec": {
            "description": about["description"] or about["title"],
            "handler": "libsafe_nb.nuclio:handler",
            "runtime": f"python:{_python()}",
            "env": [
                {"name": "LIBSAFE_NB_FUNCTION", "value": f"{PLACE}/{name}"},
                {"name": "LIBSAFE_NB_HOME", "value": STATE},
                *(
                    {"name": variable, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": variable}}}
                    for variable in _secret_variables(function)
                ),
            ],
            "minReplicas": 1,
            "maxReplicas": 1,
            "triggers": {"http": {"kind": "http", "numWorkers": 1}},
            "build": {
                "commands": ["@nuclio.postCopy", f"pip install --no-cache-dir -r {PLACE}/requirements.txt"]
            },
        },
    }


def _secret_variables(function: FunctionNotebook) -> list[str]:
    own = [f"LIBSAFE_SECRET_{each.name.upper()}" for each in function.parameters.values() if each.secret]
    s3 = ("ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY")
    return [*(f"LIBSAFE_S3_{each}" for each in s3), *sorted(own)]


def _python() -> str:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    return here if here in RUNTIMES else RUNTIMES[-1]


def requirements(function: FunctionNotebook) -> list[str]:
    """Lines of `requirements.txt`; what the function imports and is not installed here stands in a comment."""
    extra = "[percent]" if percent.is_script(function.name) and not function.is_handler else ""
    lines = [
        f"libsafe-nb{extra}=={importlib.metadata.version('libsafe-nb')}",
        "# The vendor's libnova, if you have it, is used in place of libsafe-nb's stand-in: add it here.",
    ]
    homes = importlib.metadata.packages_distributions()
    found: set[str] = set()
    missing = []
    for module in sorted(imports(cell.source for cell in function.node.cells if cell.cell_type == "code")):
        if module in sys.stdlib_module_names or module in _OURS:
            continue
        if module in homes:
            # Some modules are several distributions' together.
            found.update(_normal(each) for each in homes[module])
        else:
            missing.append(f"# imported, and not installed where this was made: {module}")
    pinned = [f"{name}=={importlib.metadata.version(name)}" for name in sorted(found - {"libsafe-nb"})]
    return [*lines, *pinned, *missing]


def imports(sources: Iterable[str]) -> set[str]:
    """The top-level modules that code imports by statement; magics are left out."""
    found: set[str] = set()
    for source in sources:
        magic = re.match(r"\s*%%(\w+)", source)
        if magic and magic[1] not in _PYTHON_MAGICS:
            continue
        lines = [line if not line.lstrip().startswith(("%", "!")) else "pass" for line in source.split("\n")]
        try:
            tree = handlers.tree("\n".join(lines))
        except handlers.UNPARSED:
            continue
        for each in ast.walk(tree):
            if isinstance(each, ast.Import):
                found.update(alias.name.split(".")[0] for alias in each.names)
            elif isinstance(each, ast.ImportFrom) and each.module and not each.level:
                found.add(each.module.split(".")[0])
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


_DOCKERFILE = """\
# docker build --build-arg NUCLIO_ONBUILD_IMAGE=IMAGE -t FUNCTION .
# docker run -p 8080:8080 --env-file s3.env FUNCTION
# IMAGE is Nuclio's handler-builder-python-onbuild, of the version and architecture of the Nuclio that will call it.
ARG NUCLIO_ONBUILD_IMAGE
ARG PYTHON_IMAGE=python:{python}-slim

FROM ${{NUCLIO_ONBUILD_IMAGE}} AS processor

FROM ${{PYTHON_IMAGE}}
COPY --from=processor /home/nuclio/bin/processor /usr/local/bin/processor
COPY --from=processor /home/nuclio/bin/py {place}/
RUN pip install --no-cache-dir nuclio-sdk msgpack
COPY ["requirements.txt", "{place}/"]
RUN pip install --no-cache-dir -r {place}/requirements.txt
COPY ["{name}", "{place}/"]
COPY ["function.yaml", "/etc/nuclio/config/processor/processor.yaml"]
ENV LIBSAFE_NB_FUNCTION="{place}/{name}" LIBSAFE_NB_HOME={state}
CMD ["processor"]
"""
