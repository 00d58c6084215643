"""Keys pasted into a notebook: the author's own in any form, others by how they look."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from libsafe_nb.checking.examined import Examined, Found
from libsafe_nb.redact import find_pasted_keys
from libsafe_nb.redact.wrappings import Unwrapping

_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_REMEDY = "take it from the payload or the environment instead"


def key_in_source(examined: Examined) -> Iterator[Found]:
    for number, cell in examined.cells:
        for line, message in _keys(examined, str(cell.get("source", ""))):
            yield number, line, message


def key_in_outputs(examined: Examined) -> Iterator[Found]:
    for number, cell in examined.cells:
        for place, output in enumerate(cell.get("outputs", ()), 1):
            for line, message in dict.fromkeys(_in_texts(examined, _texts(output))):
                yield number, line, f"output {place}: {message}"


def key_in_metadata(examined: Examined) -> Iterator[Found]:
    for line, message in dict.fromkeys(_in_texts(examined, _texts(examined.book.get("metadata", {})))):
        yield None, line, f"metadata of the notebook: {message}"
    for number, cell in examined.cells:
        for part in ("metadata", "attachments"):
            for line, message in dict.fromkeys(_in_texts(examined, _texts(cell.get(part, {})))):
                yield number, line, f"{part}: {message}"


def _in_texts(examined: Examined, texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    for text in texts:
        yield from _keys(examined, text)


def _keys(examined: Examined, text: str) -> Iterator[tuple[int, str]]:
    """Line and message for each key in a text; of a known key by its name, also where its looks give it away."""
    known: dict[int, str] = {}
    for span in examined.secrets.find(text):
        if span.form != "derived":
            known[_line(text, span.start)] = f"{span.secret} of the settings stands in the text ({span.form})"
    for wrapped in Unwrapping(examined.secrets).text(text) if examined.secrets.secrets else ():
        for name, form in wrapped.findings.secrets:
            known.setdefault(
                _line(text, wrapped.start), f"{name} of the settings stands in the text ({form})"
            )
    for line, message in sorted(known.items()):
        yield line, f"{message}: {_REMEDY}"
    # A traceback shows the source in colours, between the letters of it.
    for key in find_pasted_keys(_TERMINAL.sub("", text)):
        if key.line not in known:
            yield key.line, key.message


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """
    The texts in a part of a notebook: lists of lines as one; a named value with its name, as it gives a key away.

    What is no text, such as a picture, is a text as well: a known key may lie in it in base64.
    """
    if isinstance(value, str):
        yield value
        if _is_word(name) and "\n" not in value:
            yield f'{name} = "{value}"'
    elif isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        yield "".join(value) if any(each.endswith("\n") for each in value) else "\n".join(value)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each, str(key))


def _is_word(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][\w.\-]{0,80}", name) is not None
