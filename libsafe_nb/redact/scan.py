"""
The final scan: what is about to be stored, looked through whole, in plain sight and in its wrappings.

    bytes ── notebook, JSON, JSON lines, HTML, text ──▶ every string
             each string     ── its forms ─▶ mark            ── its wrappings ─▶ mark, or the output is left out
             each cell       ── its streams and texts joined ─▶ mark in the first
             anything else   ── as bytes ─▶ whole or not at all

`scan_document` tells; `redact_document` replaces. What `redact_document` returns should be scanned again, and not be
stored if that finds anything.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from libsafe_nb.redact.cells import redact_notebook
from libsafe_nb.redact.matching import SecretSet, Span
from libsafe_nb.redact.sweep import Dropped, Sweep
from libsafe_nb.redact.values import LEFT_OUT, Redaction


@dataclass(frozen=True)
class ScanResult:
    """What a document holds. `hits` are forms of secrets; `undecidable` is what could not be looked into."""

    hits: tuple[Redaction, ...]
    undecidable: tuple[Dropped, ...]

    @property
    def clean(self) -> bool:
        """Whether the document may be stored."""
        return not self.hits and not self.undecidable


class Redacted(NamedTuple):
    """`data` is the very object that was given if nothing was found in it."""

    data: Any
    hits: tuple[Redaction, ...]
    dropped: tuple[Dropped, ...]


def scan_document(secrets: SecretSet, content: Any, *, media_type: str = "", name: str = "") -> ScanResult:
    """
    Look for secrets in a document: bytes, text, or the parsed JSON of one.

    Parameters
    ----------
    content
        Parsed JSON saves the parsing, which is a third of the time for a notebook.
    media_type, name
        Say what bytes or text are, the name by its suffix; without them they are guessed.
    """
    _, hits, dropped = redact_document(secrets, content, media_type=media_type, name=name)
    return ScanResult(hits, dropped)


def redact_document(secrets: SecretSet, content: Any, *, media_type: str = "", name: str = "") -> Redacted:
    """
    A document without secrets, and what was replaced and left out.

    An output that wraps something undecidable, or a picture that holds a secret in its text, is replaced by a notice.
    Bytes that are no text are returned unchanged if they hold nothing, and as a notice if they do.
    """
    sweep = Sweep(secrets)
    if isinstance(content, (bytes, str)):
        data = _redact_serialised(sweep, content, _kind(content, media_type, name))
    else:
        data = _redact_parsed(sweep, content)
    return Redacted(data, sweep.hits, tuple(sweep.dropped))


def _redact_serialised(sweep: Sweep, content: bytes | str, kind: str) -> bytes | str:
    text = content if isinstance(content, str) else _decoded(content)
    if text is None:
        return _redact_bytes(sweep, content if isinstance(content, bytes) else b"")
    if kind == "json":
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            kind = "text"
        else:
            clean = _redact_parsed(sweep, parsed)
            changed = text if clean is parsed else _dumped(clean, like=text)
    if kind == "lines":
        lines = text.splitlines(keepends=True)
        cleaned = [str(_redact_serialised(sweep, line, "json")) for line in lines]
        # A line that is JSON is written anew without its line end.
        changed = "".join(
            new if new.endswith("\n") or not old.endswith("\n") else new + "\n"
            for old, new in zip(lines, cleaned, strict=True)
        )
    if kind == "text":
        changed = sweep.value(text, "", None)
    if changed == text:
        return content
    return changed if isinstance(content, str) else changed.encode("utf-8", "surrogatepass")


def _redact_bytes(sweep: Sweep, data: bytes) -> bytes:
    findings = sweep.unwrapping.examine(data)
    sweep.count(None, [("", Span(0, 0, secret, form)) for secret, form in findings.secrets])
    reasons = [*findings.undecidable, *(f"it holds {secret}" for secret, _ in findings.secrets)]
    if not reasons:
        return data
    sweep.drop(None, "", reasons[0])
    return LEFT_OUT.format(reason=reasons[0]).encode()


def _redact_parsed(sweep: Sweep, parsed: Any) -> Any:
    if isinstance(parsed, dict) and isinstance(parsed.get("cells"), list) and "nbformat" in parsed:
        return redact_notebook(sweep, parsed)
    return sweep.value(parsed, "", None)


def _kind(content: bytes | str, media_type: str, name: str) -> str:
    suffix = name.rpartition(".")[2].lower()
    if suffix in ("jsonl", "ndjson") or media_type in ("application/jsonl", "application/x-ndjson"):
        return "lines"
    if suffix in ("json", "ipynb", "jsonld") or media_type.endswith("json"):
        return "json"
    start = content[:64].lstrip()[:1]
    return "json" if not suffix and not media_type and start in (b"{", b"[", "{", "[") else "text"


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _dumped(value: Any, *, like: str) -> str:
    """JSON in the style of the text it replaces: indented as nbformat does it, or by two, or on one line."""
    indent = re.match(r"[\[{]\n( +)", like)
    separators = None if indent or re.search(r'": ', like[:200]) else (",", ":")
    text = json.dumps(
        value,
        ensure_ascii=False,
        indent=len(indent[1]) if indent else None,
        separators=separators,
    )
    return text + "\n" * like.endswith("\n")
