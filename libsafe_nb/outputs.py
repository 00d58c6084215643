"""
What a cell may store of its outputs: all of it up to a bound, else head and tail with a marker between.

Streams are kept as JupyterLab shows them: pieces of one stream that follow each other are one output, and carriage
return and backspace move within the last line. Sizes are bytes: text as UTF-8, images and other base64 data decoded.
"""

from __future__ import annotations

import collections
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from nbformat import NotebookNode

_MOVES = re.compile("[\r\b]")
_CONTROLS = re.compile("[\r\b\n]")
_TEXTUAL = re.compile(r"^(text/|application/(.*[+.])?(json|xml|javascript|ecmascript|latex)$|image/svg)")

LONG_LINE = 65536
"""Characters. Within a longer line carriage return and backspace stay as they are: no progress bar is so long."""

PIECE = 65536
"""Characters; text is kept in pieces of at most so many, because the window's oldest piece is cut again and again."""

MAX_OUTPUTS = 10_000
"""Outputs of a cell, beyond which it is cut as by size: each takes some 100 bytes of JSON besides its content."""


@dataclass
class Budget:
    """What the whole notebook may still store, in bytes; shared by its cells."""

    limit: int
    used: int = 0

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)


class Text:
    """
    One stream output: pieces of text, of which the last line may still be overwritten.

    Appending costs nothing but a list entry until a carriage return or a backspace comes; from there to the next
    line end the text is kept as a line with a cursor. As in JupyterLab, text overwrites what stands at the cursor, and
    a line end goes to the end of the line, wherever the cursor is.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self.pieces: collections.deque[str] = collections.deque()
        self._line: str | None = None
        self._cursor = 0

    def append(self, text: str) -> None:
        if "\r\n" in text:
            text = text.replace("\r\n", "\n")
        at = 0
        while at < len(text):
            control = (_MOVES if self._line is None else _CONTROLS).search(text, at)
            end = control.start() if control else len(text)
            if self._line is None:
                self.put(text[at:end])
            else:
                self._overwrite(text[at:end])
            if control:
                self._obey(control.group())
                end += 1
            at = end

    def text(self) -> str:
        return "".join(self.pieces) + (self._line or "")

    def put(self, text: str) -> None:
        """Append text as it is."""
        for start in range(0, len(text), PIECE):
            self.pieces.append(text[start : start + PIECE])
        self.size += _length(text)

    def settle(self) -> None:
        """Make the line under the cursor ordinary text, so that `pieces` is all there is."""
        if self._line is not None:
            line, self._line = self._line, None
            self.size -= _length(line)
            self.put(line)

    def _obey(self, control: str) -> None:
        if control == "\n":
            self.settle()
            self.put("\n")
            return
        if self._line is None:
            line = self._take_last_line()
            if len(line) > LONG_LINE:
                self.pieces.append(line)
                self.put(control)
                return
            self._line, self._cursor = line, len(line)
        self._cursor = 0 if control == "\r" else max(0, self._cursor - 1)

    def _overwrite(self, text: str) -> None:
        line = self._line or ""
        after = self._cursor + len(text)
        self._line = line[: self._cursor] + text + line[after:]
        self._cursor = after
        self.size += _length(self._line) - _length(line)
        if len(self._line) > LONG_LINE:
            self.settle()

    def _take_last_line(self) -> str:
        """Take back what followed the last line end; `size` still counts it."""
        taken: list[str] = []
        while self.pieces:
            piece = self.pieces.pop()
            end = piece.rfind("\n") + 1
            taken.append(piece[end:])
            if end:
                self.pieces.append(piece[:end])
                break
        return "".join(reversed(taken))


@dataclass(eq=False)
class Rich:
    """One output that is kept whole or not at all; `size` is what it counts."""

    node: NotebookNode
    size: int
    kept: bool = True


@dataclass
class Whole:
    """What was received in all of one stream, kept or not."""

    bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def update(self, text: str) -> None:
        data = text.encode("utf-8", errors="surrogatepass")
        self.bytes += len(data)
        self.digest.update(data)

    def describe(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}


class CellOutputs:
    """
    The outputs of one cell under its bound.

    Until `limit` bytes are stored, everything is kept. Beyond that the first half of the bound is frozen, and the
    second half is a window that moves with the newest output; what leaves it is counted and forgotten.
    """

    def __init__(self, limit: int, budget: Budget) -> None:
        self._limit = limit
        self._budget = budget
        self._clear_next = False
        self._forget()

    def stream(self, name: str, text: str) -> None:
        self._before()
        self._wholes.setdefault(name, Whole()).update(text)
        item = self._items[-1] if self._items else None
        if not isinstance(item, Text) or item.name != name:
            item = Text(name)
            self._items.append(item)
        before = item.size
        item.append(text)
        self._grow(item.size - before)

    def add(self, output: NotebookNode) -> Rich:
        """Keep a rich output or an error; one that is over the bound by itself becomes a notice."""
        self._before()
        item = self._fitted(output)
        self._items.append(item)
        self._grow(item.size)
        if not item.kept:
            # It pushed itself out: what was there before, and cannot move, takes the room.
            notice = self._notice_for(output, item.size)
            self._items.append(notice)
            self._grow(notice.size)
        return item

    def replace(self, item: Rich, data: Any, metadata: Any) -> None:
        """Give a displayed output new content (`update_display_data`), wherever it stands."""
        if not item.kept:
            return
        output = NotebookNode({**item.node, "data": data, "metadata": metadata})
        fitted = self._fitted(output)
        item.node["data"], item.node["metadata"] = fitted.node["data"], fitted.node["metadata"]
        grown, item.size = fitted.size - item.size, fitted.size
        self._grow(grown, within=item)

    def clear(self, *, wait: bool = False) -> None:
        """Forget all, as `clear_output` does; with `wait`, when the next output comes."""
        self._clear_next = wait
        if not wait:
            self._budget.used -= self.size
            for item in (*self._head, *self._items):
                if isinstance(item, Rich):
                    item.kept = False
            self._forget()

    def render(self) -> list[NotebookNode]:
        """Return the outputs as the notebook stores them; rich ones are the same objects each time."""
        marker = [self._marker()] if self._gone else []
        return [*(_node(item) for item in self._head), *marker, *(_node(item) for item in self._items)]

    def describe_cut(self) -> dict[str, Any] | None:
        """Say what was cut, as `Outcome.truncated` tells it, or None."""
        if not self.cut:
            return None
        facts: dict[str, Any] = {
            "kept": self.size,
            "cut": self.cut,
            "streams": {name: whole.describe() for name, whole in sorted(self._wholes.items())},
        }
        if self._left_out:
            facts["outputs_left_out"] = self._left_out
        return facts

    def _forget(self) -> None:
        self.size = 0
        self.cut = 0
        """Bytes cut in all: what left the window, and what was left out at once and has a notice in its place."""
        self._gone = 0
        self._left_out = 0
        self._head: list[Text | Rich] = []
        self._items: collections.deque[Text | Rich] = collections.deque()
        self._wholes: dict[str, Whole] = {}
        self._frozen = False
        self._binary = False
        self._window = 0
        self._window_limit = 0

    @property
    def _bound(self) -> int:
        # A sixteenth more where there are images, so that one of 10 MiB, with its wrapping, fits into 10 MiB.
        return self._limit + (self._limit // 16 if self._binary else 0)

    def _before(self) -> None:
        if self._clear_next:
            self.clear()

    def _grow(self, count: int, *, within: Rich | None = None) -> None:
        """Account for `count` more bytes, and bring the cell back under its bound."""
        self.size += count
        self._budget.used += count
        if within is not None and within in self._head:
            return
        if self._frozen:
            self._window += count
        elif (
            self.size > self._bound
            or self._budget.used > self._budget.limit
            or len(self._items) > MAX_OUTPUTS
        ):
            self._freeze()
        if self._frozen:
            self._slide()

    def _freeze(self) -> None:
        """Split what is stored into the head, which stays, and the window."""
        excess = max(0, self._budget.used - self._budget.limit)
        limit = max(0, min(self._bound, self.size - excess))
        room, self._window_limit = limit // 2, limit - limit // 2
        while self._items and len(self._head) < MAX_OUTPUTS // 2:
            item = self._items[0]
            if item.size > room:
                if isinstance(item, Text):
                    self._split(item, room)
                elif item.size <= room + self._window_limit and len(self._items) > 1:
                    # What was shown first stays, and the window is smaller by what it takes.
                    self._window_limit -= item.size - room
                    self._head.append(self._items.popleft())
                break
            self._head.append(self._items.popleft())
            room -= item.size
        self._frozen = True
        self._window = sum(item.size for item in self._items)

    def _split(self, item: Text, room: int) -> None:
        """Move the first `room` bytes of a text to the head."""
        item.settle()
        head = Text(item.name)
        while room > head.size:
            piece = item.pieces.popleft()
            kept = _first_bytes(piece, room - head.size)
            head.put(kept)
            if len(kept) < len(piece):
                item.pieces.appendleft(piece[len(kept) :])
                break
        item.size -= head.size
        if head.size:
            self._head.append(head)

    def _slide(self) -> None:
        """Drop the oldest of the window until it fits."""
        while self._items and (self._window > self._window_limit or len(self._items) > MAX_OUTPUTS // 2):
            over = self._window - self._window_limit
            item = self._items[0]
            if isinstance(item, Text) and item.size > over > 0:
                dropped = self._drop_pieces(item, over)
                if not dropped:
                    return
            else:
                self._items.popleft()
                dropped = item.size
                if isinstance(item, Rich):
                    item.kept = False
                    self._left_out += 1
            self._window -= dropped
            self.size -= dropped
            self._budget.used -= dropped
            self.cut += dropped
            self._gone += dropped

    def _drop_pieces(self, item: Text, count: int) -> int:
        """Drop `count` bytes at the beginning of a text, less where only the line under the cursor is left."""
        dropped = 0
        while item.pieces and dropped < count:
            piece = item.pieces.popleft()
            length = _length(piece)
            if length > count - dropped:
                kept = _last_bytes(piece, length - (count - dropped))
                item.pieces.appendleft(kept)
                length -= _length(kept)
            dropped += length
        item.size -= dropped
        return dropped

    def _fitted(self, output: NotebookNode) -> Rich:
        size = measure(output)
        self._binary = self._binary or _holds_binary(output)
        if size <= min(self._window_limit if self._frozen else self._bound, self._budget.left + self.size):
            return Rich(output, size)
        self.cut += size
        self._left_out += 1
        return self._notice_for(output, size)

    def _notice_for(self, output: NotebookNode, size: int) -> Rich:
        digest = hashlib.sha256(json.dumps(output, sort_keys=True).encode()).hexdigest()
        kinds = ", ".join(sorted(output.get("data", {}))) or output["output_type"]
        text = (
            f"[libsafe-nb: an output of {size:,} bytes ({kinds}) was left out, over the bound of "
            f"{self._limit:,} bytes; sha256 of its JSON {digest}]"
        )
        node = _notice(text, {"left_out": size, "kinds": kinds, "sha256": digest})
        return Rich(node, measure(node))

    def _marker(self) -> NotebookNode:
        wholes = {name: whole.describe() for name, whole in sorted(self._wholes.items())}
        told = "; ".join(
            f"all of {name}: {w['bytes']:,} bytes, sha256 {w['sha256']}" for name, w in wholes.items()
        )
        if self._left_out:
            told += f"{'; ' if told else ''}{self._left_out:,} rich outputs left out"
        text = f"[libsafe-nb: {self._gone:,} bytes of this cell's output were cut here; {told}]"
        return _notice(text, {"cut": self._gone, "streams": wholes, "outputs_left_out": self._left_out})


def measure(output: NotebookNode) -> int:
    """Return what an output counts: text by its UTF-8 size, base64 data decoded."""
    if output["output_type"] == "error":
        return sum(_length(text) for text in (output["ename"], output["evalue"], *output["traceback"]))
    if output["output_type"] == "stream":
        return _length(output["text"])
    about = output.get("metadata")
    return sum(_measure_data(kind, value) for kind, value in output["data"].items()) + (
        len(json.dumps(about)) if about else 0
    )


def _holds_binary(output: NotebookNode) -> bool:
    return any(
        isinstance(value, str) and not _textual(kind) for kind, value in output.get("data", {}).items()
    )


def _textual(kind: str) -> bool:
    return bool(_TEXTUAL.match(kind)) or kind.endswith(("+json", "+xml"))


def _measure_data(kind: str, value: Any) -> int:
    if not isinstance(value, str):
        return len(json.dumps(value))
    if _textual(kind):
        return _length(value)
    return len(value) * 3 // 4


def _node(item: Text | Rich) -> NotebookNode:
    if isinstance(item, Rich):
        return item.node
    return NotebookNode(output_type="stream", name=item.name, text=item.text())


def _notice(text: str, facts: dict[str, Any]) -> NotebookNode:
    return NotebookNode(
        output_type="display_data",
        data=NotebookNode({"text/plain": text}),
        metadata=NotebookNode({"libsafe_nb": NotebookNode(facts)}),
    )


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", errors="surrogatepass"))


def _first_bytes(text: str, count: int) -> str:
    """Return as many whole characters as fit into `count` bytes."""
    if text.isascii():
        return text[:count]
    return text.encode("utf-8", errors="surrogatepass")[:count].decode("utf-8", errors="ignore")


def _last_bytes(text: str, count: int) -> str:
    if text.isascii():
        return text[len(text) - count :]
    data = text.encode("utf-8", errors="surrogatepass")
    return data[len(data) - count :].decode("utf-8", errors="ignore")
