"""
Redaction of what strings are kept in: lists and dictionaries, the outputs of a notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from libsafe_nb.redact.matching import SecretSet, Span, redact_pieces

LEFT_OUT = "[output left out by libsafe-nb: {reason}]"

Redactor = Callable[[str, str], tuple[str, list[Span]]]
"""Takes a string and its place, returns it without secrets (the same object if it holds none) and what was replaced."""


@dataclass(frozen=True)
class Redaction:
    """`count` forms of the secret `name` were replaced in one place of one cell; `kind` is the form."""

    cell: str | None
    where: str
    kind: str
    name: str
    count: int


def redact_value(
    value: Any, secrets: SecretSet, *, where: str = "", redact: Redactor | None = None
) -> tuple[Any, list[tuple[str, Span]]]:
    """
    Strings, lists and dictionaries without secrets, and what was replaced, with its place.

    Lists of strings are read as one text, as the notebook format stores text by lines. Nothing is changed in
    place, and what holds no secret is returned as the same object. `redact` is what is done to each string, if more
    than to look for forms.
    """
    redact = redact or (lambda text, _: secrets.redact(text))
    if isinstance(value, str):
        clean, spans = redact(value, where)
        return clean, [(where, span) for span in spans]
    if isinstance(value, list):
        return _redact_list(value, secrets, where, redact)
    if isinstance(value, dict):
        return _redact_dict(value, secrets, where, redact)
    return value, []


def left_out(output: Any, reason: str) -> Any:
    """An output of the same type that holds a notice and nothing of the one it stands for."""
    notice = LEFT_OUT.format(reason=reason)
    kind = output.get("output_type", "display_data")
    if kind == "stream":
        return type(output)(output_type=kind, name=output.get("name", "stdout"), text=notice + "\n")
    if kind == "error":
        return type(output)(output_type=kind, ename="Error", evalue=notice, traceback=[notice])
    shown = type(output)(output_type=kind, data=type(output)({"text/plain": notice}), metadata=type(output)())
    if kind == "execute_result":
        shown["execution_count"] = output.get("execution_count")
    return shown


def _redact_list(
    value: list[Any], secrets: SecretSet, where: str, redact: Redactor
) -> tuple[list[Any], list[tuple[str, Span]]]:
    found: list[tuple[str, Span]] = []
    clean: list[Any] = []
    for index, each in enumerate(value):
        part, spans = redact_value(each, secrets, where=f"{where}[{index}]", redact=redact)
        clean.append(part)
        found += spans
    if value and all(isinstance(each, str) for each in value):
        # Folded, line ends are gone; only the short secrets, which are not, need them left out.
        for between in ("\n",) if all(secret.strong for secret in secrets.secrets) else ("\n", ""):
            clean, more = redact_pieces(secrets, clean, between=between)
            found += [(where, span) for span in more]
    same = all(new is old for new, old in zip(clean, value, strict=True))
    return (value, []) if same else (clean, found)


def _redact_dict(
    value: dict[Any, Any], secrets: SecretSet, where: str, redact: Redactor
) -> tuple[dict[Any, Any], list[tuple[str, Span]]]:
    found: list[tuple[str, Span]] = []
    clean = {}
    for key, each in value.items():
        name, spans = redact(key, where) if isinstance(key, str) else (key, [])
        place = f"{where}.{name}" if where else str(name)
        found += [(place, span) for span in spans]
        while name in clean:
            name += "'"  # two keys that differ in the secret only
        clean[name], more = redact_value(each, secrets, where=place, redact=redact)
        found += more
    if all(key in clean and clean[key] is each for key, each in value.items()):
        return value, []
    # A notebook's dictionaries are of a class with attributes, and stay so.
    return type(value)(clean), found
