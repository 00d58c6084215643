"""
What a parameters cell in another language than Python declares, and how values are written into it.

    payload        JSON text, in every other language: `json_sample='{"function_data": …}'`
    bash, R        names assigned in the parameters cell are parameters, as in Python
    others         no parameters but the payload's
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from typing import Any

BASH, R = "bash", "R"

OF_KERNELS = {"bash": BASH, "ir": R}
"""For a notebook that names its kernel and no language, as some editors write them."""

FIRST = {
    R: """local({
  quit <- function(save = "no", status = 0, runLast = TRUE) {
    if (status != 0) stop("quit(status = ", status, ")", call. = FALSE)
    base::quit("no", status, runLast)
  }
  attach(list(quit = quit, q = quit), name = "libsafe-nb", warn.conflicts = FALSE)
})"""
}
"""
What is executed silently after the parameters. IRkernel 1.3 forgets the status of `quit` and answers that the cell was well:
`quit(status = 3)` would be told completed.
"""

_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?L?")
_R_ASSIGNMENT = re.compile(r"^([A-Za-z][\w.]*)[ \t]*(?:<-|=)[ \t]*(.*)$", re.MULTILINE)
_R_TEXT = re.compile(r"""r"\((.*?)\)"|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_R_WORDS = {"TRUE": True, "FALSE": False, "T": True, "F": False}
_R_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


def declared(language: str, source: str) -> dict[str, Any]:
    """Names that a parameters cell assigns, with their values where these are written out, else None."""
    if language == BASH:
        return _bash(source)
    return _r(source) if language == R else {}


def _bash(source: str) -> dict[str, Any]:
    try:
        words = shlex.split(source, comments=True)
    except ValueError:
        return {}
    found = (re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word, re.DOTALL) for word in words)
    return {match[1]: None if match[2].startswith("(") else match[2] for match in found if match}


def _r(source: str) -> dict[str, Any]:
    found = {}
    for match in _R_ASSIGNMENT.finditer(source):
        value = match[2].partition(" #")[0].strip()
        text = _R_TEXT.match(source, match.start(2))
        if text:
            raw, *escaped = text.groups()
            found[match[1]] = (
                raw if raw is not None else _unescaped(next(each for each in escaped if each is not None))
            )
        elif value in _R_WORDS:
            found[match[1]] = _R_WORDS[value]
        else:
            found[match[1]] = _number(value)
    return found


def _number(text: str) -> float | int | None:
    """R's numbers are doubles, save for those that end in `L`."""
    if not _NUMBER.fullmatch(text):
        return None
    return int(float(text[:-1])) if text.endswith("L") else float(text)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text)


def written(language: str, value: Any) -> Any:
    """A typed parameter as papermill can write it in the language: bash has no objects, so it gets their JSON text."""
    if language == BASH and isinstance(value, list):
        return [json.dumps(each) if isinstance(each, (dict, list)) else each for each in value]
    return json.dumps(value) if language == BASH and isinstance(value, dict) else value


def payload_text(value: str | None) -> dict[str, Any]:
    """The default payload in a parameters cell; empty where it is none that can be read before it runs."""
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        found = json.loads(value or "")
        if isinstance(found, dict):
            return found
    return {}


def takes_parameters(kernel_name: str, language: str) -> bool:
    """
    Whether papermill can write parameters for a kernel; sees to it that those for R are what R reads.

    papermill writes an é for R as it does for Python, as a byte of Latin-1, which is no text in R.
    """
    from papermill.exceptions import PapermillException
    from papermill.translators import RTranslator, papermill_translators

    class Translator(RTranslator):  # type: ignore[misc] # papermill is not typed
        @classmethod
        def translate_escaped_str(cls, str_val: Any) -> str:
            return r_text(str(str_val))

    if language == R:
        papermill_translators.register(R, Translator)
    try:
        papermill_translators.find_translator(kernel_name, language)
    except PapermillException:
        return False
    return True


def r_text(text: str) -> str:
    r"""
    `text` as a literal of R.

    >>> print(r_text('"é"'))
    "\"\u00e9\""
    """

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        return (
            f"\\{match[0]}" if match[0] in '"\\' else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        )

    return f'"{_R_UNSAFE.sub(escaped, text)}"'
