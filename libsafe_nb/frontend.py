"""
What a kernel sends to be seen, kept in the notebook as JupyterLab would show it.

nbclient's `NotebookClient` understands the messages (display updates, `clear_output`, widgets and their Output
widget); filtering, bounds and streams are ours. Touches neither the kernel's process nor the disk.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbformat import NotebookNode
from nbformat.v4 import output_from_msg

from libsafe_nb import outputs
from libsafe_nb.account import Account, cell_id
from libsafe_nb.execution import Limits, OutputFilter

_FIELDS = {
    "display_data": ("data", "metadata"),
    "update_display_data": ("data", "metadata"),
    "execute_result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
}
"""What the filter sees of each kind of message."""

NOBODY = (
    "the cell asks for input, and a function is run with nobody at the keyboard; "
    "declare a parameter in the parameters cell in place of it, and give it with --param NAME=VALUE"
)
"""Told in place of ipykernel's `raw_input was called, but this frontend does not support input requests`."""


class FrontEnd(NotebookClient):
    """
    Takes in the messages of the output channel, and keeps the cells' outputs in `nb`.

    A message belongs to the cell whose request caused it, also when that cell has ended (a thread goes on printing).
    The outputs are in the notebook after `render`. `show` gets every kept output as it arrives.
    """

    def __init__(
        self,
        nb: NotebookNode,
        limits: Limits,
        account: Account,
        *,
        output_filter: OutputFilter | None,
        show: Callable[[NotebookNode], None],
        log: logging.Logger,
    ) -> None:
        super().__init__(nb, log=log)
        self._limits = limits
        self._account = account
        self._output_filter = output_filter
        self._show = show
        self._budget = outputs.Budget(limits.notebook_output)
        self._shelves: dict[int, outputs.CellOutputs] = {}
        self._displayed: dict[str, list[tuple[int, outputs.Rich]]] = {}
        self._places: dict[str, int] = {}
        self._touched: set[int] = set()
        self._widget_sizes: dict[tuple[str, str | int], int] = {}

    @property
    def changed(self) -> bool:
        """Whether outputs have come since the last `render`."""
        return bool(self._touched)

    def begin(self, index: int, request: str) -> None:
        """Expect the outputs of a cell, which answer the message `request`."""
        self.nb.cells[index].metadata["execution"] = NotebookNode()
        self._shelves[index] = outputs.CellOutputs(self._limits.cell_output, self._budget)
        self._places[request] = index

    def take(self, message: dict[str, Any]) -> str | None:
        """
        Take in one message; those of no cell (of the silent step, say) are dropped.

        Returns the request whose outputs are complete with this message, if it says so.
        """
        request = message["parent_header"].get("msg_id")
        index = self._places.get(request)
        if index is None:
            return None
        if message["msg_type"] == "stream":
            self._take_stream(message, index)
            return None
        if message["msg_type"] not in ("status", "execute_input"):
            # Outputs stay in their order, so nothing is held back across a rich one.
            self._flush(index)
            self._touched.add(index)
            if not self._filter(message, index):
                return None
        try:
            self.process_message(message, self.nb.cells[index], index)
        except CellExecutionComplete:
            return str(request)
        return None

    def end(self, index: int) -> None:
        """Bring a cell that has ended up to date in the notebook."""
        self._flush(index)
        self._touched.add(index)
        self.render()

    def render(self) -> None:
        """Put the outputs into the cells that got some since the last time."""
        for index in self._touched:
            shelf = self._shelves.get(index)
            if shelf is not None:
                self.nb.cells[index].outputs = shelf.render()
                self._account.cut(index, shelf.describe_cut())
        self._touched.clear()

    def finish(self) -> None:
        """Bring the whole notebook up to date, with the state of its widgets."""
        for index in self._shelves:
            self._flush(index)
        self.set_widgets_metadata()
        self.render()

    def error(self, reply: dict[str, Any], place: str) -> tuple[str, str]:
        """Return name and text of an error that the kernel replied with, as they may be told."""
        node = NotebookNode(
            output_type="error", ename=str(reply.get("ename")), evalue=str(reply.get("evalue")), traceback=[]
        )
        if self._output_filter is not None:
            kept = self._output_filter.output(place, node)
            node = kept if kept is not None else NotebookNode(ename=node["ename"], evalue="(left out)")
        if reply.get("ename") == "StdinNotImplementedError":
            return _sane(node["ename"]), NOBODY
        return _sane(node["ename"]), _sane(node["evalue"])

    def text(self, text: str) -> str:
        """Return any other text as it may be told."""
        return text if self._output_filter is None else self._output_filter.text(text)

    # ------------------------------------------------------------- streams

    def _take_stream(self, message: dict[str, Any], index: int) -> None:
        content = message["content"]
        segments = [(str(content["name"]), _sane(content["text"]))]
        if self._output_filter is not None:
            segments = self._output_filter.segments(self._id(index), *segments[0])
        for name, text in segments:
            if not text:
                continue
            if self._hooks(message):
                content.update(name=name, text=text)
                self.output([], message, None, index)
            else:
                self._keep_stream(index, name, text)

    def _keep_stream(self, index: int, name: str, text: str) -> None:
        self._touched.add(index)
        self._shelves[index].stream(name, text)
        self._show(NotebookNode(output_type="stream", name=name, text=text))

    def _flush(self, index: int) -> None:
        """Keep what the filter held back of a cell's streams."""
        if self._output_filter is None:
            return
        for name, text in self._output_filter.end_cell(self._id(index)):
            if text:
                self._keep_stream(index, name, text)

    # ------------------------------------------------------------- rich outputs and widgets

    def _filter(self, message: dict[str, Any], index: int) -> bool:
        """Have the filter see a rich output, an error or a widget's state; return whether anything is left of it."""
        content = message["content"]
        if self._output_filter is None:
            return True
        if message["msg_type"].startswith("comm"):
            node = NotebookNode(
                output_type="display_data", data={"application/json": content.get("data", {})}, metadata={}
            )
            kept = self._output_filter.output(self._id(index), node)
            if kept is not None:
                content["data"] = kept["data"].get("application/json", {})
            return kept is not None
        fields = _FIELDS.get(message["msg_type"])
        if fields is None:
            return True
        kind = "display_data" if message["msg_type"] == "update_display_data" else message["msg_type"]
        node = NotebookNode(output_type=kind, **{name: content.get(name) for name in fields})
        kept = self._output_filter.output(self._id(index), node)
        if kept is not None:
            content.update({name: kept[name] for name in fields})
        return kept is not None

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Keep an output that is not a plain stream; called by nbclient's `process_message`."""
        hooks = self._hooks(msg)
        if hooks:
            if self._widget_room(("output", cell_index), len(json.dumps(msg["content"])), grows=True):
                hooks[-1].output(outs, msg, display_id, cell_index)
            return None
        try:
            node = _sane_node(output_from_msg(msg))
        except ValueError:
            self.log.debug("a message of type %s is not an output", msg["msg_type"])
            return None
        kept = self._shelves[cell_index].add(node)
        if display_id:
            self._displayed.setdefault(display_id, []).append((cell_index, kept))
        self._show(kept.node)
        return kept.node

    def clear_output(self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int) -> None:
        hooks = self._hooks(msg)
        if hooks:
            hooks[-1].clear_output(outs, msg, cell_index)
        else:
            self._shelves[cell_index].clear(wait=bool(msg["content"].get("wait")))

    def handle_comm_msg(self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int) -> None:
        """Follow a widget's state, within what the notebook may store."""
        content = msg["content"]
        data = content.setdefault("data", {})
        for name, value in dict(data.get("state") or {}).items():
            if not self._widget_room((content["comm_id"], name), len(json.dumps(value))):
                del data["state"][name]
        super().handle_comm_msg(outs, msg, cell_index)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        """Give what was displayed under an id its new content, in whichever cells it stands."""
        content = _sane_node(NotebookNode(msg["content"]))
        for index, shown in self._displayed.get(display_id, ()):
            self._touched.add(index)
            self._shelves[index].replace(shown, content["data"], content.get("metadata", {}))

    def _hooks(self, message: dict[str, Any]) -> list[Any]:
        """Return the Output widgets that catch what this message's request prints."""
        return self.output_hook_stack.get(message["parent_header"].get("msg_id"), [])

    def _widget_room(self, key: tuple[str, str | int], size: int, *, grows: bool = False) -> bool:
        """Account for a widget's value (or for more of one) and return whether it may be stored."""
        before = self._widget_sizes.get(key, 0)
        after = before + size if grows else size
        if after - before > self._budget.left or (grows and after > self._limits.cell_output):
            return False
        self._budget.used += after - before
        self._widget_sizes[key] = after
        return True

    def _id(self, index: int) -> str:
        return cell_id(self.nb.cells[index], index)


def _sane(text: str) -> str:
    """Replace half characters (lone surrogates), which no file in UTF-8 can hold."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")


def _sane_node(value: Any) -> Any:
    if isinstance(value, str):
        return _sane(value)
    if isinstance(value, list):
        return [_sane_node(each) for each in value]
    if isinstance(value, dict):
        return NotebookNode({_sane(str(name)): _sane_node(each) for name, each in value.items()})
    return value
