"""
Publishing a function: what the platform is told of it is read from the notebook itself.

    key            `--key`, else `metadata.libsafe.key`, else the file's name
    title, description   of `metadata.libsafe`
    parameters     of the parameters cell: type, default, and the comment beside it as help
"""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import check, declared, description
from libsafe_nb import notebook as notebooks
from libsafe_nb.connection import connect
from libsafe_nb.errors import NotebookError, UsageError
from libsafe_nb.functions import Functions
from libsafe_nb.notebook import FunctionNotebook
from libsafe_nb.settings import Settings

if TYPE_CHECKING:
    from libsafe_nb.client import Client

_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def publish(
    notebook: str | Path, *, key: str | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """
    Publish a notebook as the current version of a function; equal bytes, read the same way, are not published again.

    Returns
    -------
    dict
        The function as the platform has it: `key`, `version`, `sha256`, `parameters` and its settings.

    Raises
    ------
    NotebookError
        It cannot be read, or a key is pasted in it, or a secret parameter has a default: a version stays for good. Nothing was sent.
    UsageError
        The key is none that a function can have.
    """
    path = Path(notebook)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise NotebookError(f"{path}: cannot be read ({exc.strerror or exc})", notebook=str(path)) from exc
    function = _checked(data, path)
    told = description.described(function.metadata, path.stem)
    return Functions(connect(settings=settings).client).publish(
        key or key_of(function.metadata, path.stem),
        data,
        name=path.name,
        kind=kind(function),
        title=told["title"],
        description=told["description"] or "",
        parameters=parameters(function),
    )


def by_path(client: Client, key: str, data: bytes, name: str) -> dict[str, Any]:
    """
    Publish what is called by its path, so that workers can run it; no list of functions shows it.

    Raises
    ------
    NotebookError
        As `publish`.
    Forbidden
        The client's user is not the platform's own, as whom functions run.
    """
    function = _checked(data, Path(name))
    told = description.described(function.metadata, Path(name).stem)
    return Functions(client).publish(
        key,
        data,
        name=name,
        kind=kind(function),
        title=told["title"],
        description=told["description"] or "",
        parameters=parameters(function),
        listed=False,
    )


def _checked(data: bytes, path: Path) -> FunctionNotebook:
    """The function, if it may be published: no key is in it."""
    function = notebooks.parse(data, name=path.name)
    found = check.check_source(data, name=str(path), secrets=check.configured_secrets(), codes=check.KEYS)
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise NotebookError(
            f"{found[0]}{more}. Nothing was published; libsafe-nb check shows all", notebook=str(path)
        )
    for each in function.parameters.values():
        if each.secret and each.default not in (None, ""):
            raise NotebookError(
                f"{path}: {each.name} is a secret, and expected to have no default, found one, which would stay for good."
                " Nothing was published",
                notebook=str(path),
            )
    return function


def kind(function: FunctionNotebook) -> str:
    """`handler` for a notebook that was made of a plain handler's file, as its metadata then says."""
    made = function.node.metadata.get("libsafe_nb")
    return "handler" if isinstance(made, Mapping) and made.get("kind") == "handler" else "notebook"


def key_of(metadata: Mapping[str, Any], stem: str) -> str:
    """The function's key: that of its description, else made of the file's name."""
    given = metadata.get("key")
    key = (
        given
        if isinstance(given, str) and given
        else re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    )
    if not _KEY.fullmatch(key):
        raise UsageError(
            f"key {key!r}: expected lower-case letters, digits, '.', '_' and '-'; choose one with --key"
        )
    return key


def parameters(function: FunctionNotebook) -> list[dict[str, Any]]:
    """The declared parameters as plain data: `name`, `type`, `default`, `secret` and `help`."""
    said = _comments(function)
    return [
        {
            "name": name,
            "type": declared.word(each),
            "default": None if each.secret else _plain(each.default),
            "secret": each.secret,
            "help": said.get(name, ""),
        }
        for name, each in function.parameters.items()
    ]


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return repr(value)


def _comments(function: FunctionNotebook) -> dict[str, str]:
    """The comment at the end of a line of the parameters cell, by the name that begins the line."""
    if function.language != "python":
        return {}
    found: dict[str, str] = {}
    for cell in function.node.cells:
        if "parameters" not in cell.metadata.get("tags", []):
            continue
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(cell.source).readline))
        except (tokenize.TokenError, SyntaxError):
            continue
        for token in tokens:
            name = re.match(r"([A-Za-z_]\w*)\s*(?::[^=]*)?=", token.line)
            if token.type == tokenize.COMMENT and name:
                found[name[1]] = token.string.lstrip("# ").strip()
    return found
