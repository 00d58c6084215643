"""
The final scan of a notebook: cell by cell, output by output, and the outputs of a cell together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from libsafe_nb.redact.matching import replace_in_pieces
from libsafe_nb.redact.sweep import Sweep
from libsafe_nb.redact.values import left_out, redact_value

_TEXT_MIME = re.compile(
    r"text/|image/svg\+xml|application/(?:.*\+)?(?:json|xml|javascript|ecmascript|x-latex)"
)


def redact_notebook(sweep: Sweep, notebook: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in notebook.items() if key != "cells"}
    clean = sweep.value(rest, "", None)
    cells = [_redact_cell(sweep, cell, index) for index, cell in enumerate(notebook["cells"])]
    if clean is rest and all(new is old for new, old in zip(cells, notebook["cells"], strict=True)):
        return notebook
    return type(notebook)({key: cells if key == "cells" else clean.get(key) for key in notebook} | clean)


def _redact_cell(sweep: Sweep, cell: Any, index: int) -> Any:
    if not isinstance(cell, dict):
        return sweep.value(cell, f"cells[{index}]", None)
    name = str(cell.get("id", index))
    rest = {
        key: _joined(value) if key == "source" else value for key, value in cell.items() if key != "outputs"
    }
    clean = sweep.value(rest, "", name)
    outputs = cell.get("outputs")
    if not isinstance(outputs, list):
        return cell if clean is rest else _cell(cell, clean, None)
    # Together first: what is cut in two looks damaged when each part is looked at alone.
    together = _redact_together(sweep, outputs, name)
    new = [
        _redact_output(sweep, output, f"outputs[{number}]", name) for number, output in enumerate(together)
    ]
    if clean is rest and all(one is other for one, other in zip(new, outputs, strict=True)):
        return cell
    return _cell(cell, clean, new)


def _cell(cell: dict[str, Any], clean: dict[str, Any], outputs: list[Any] | None) -> dict[str, Any]:
    """A cell like the old one, its source in lines if that was."""
    made = {key: clean[key] for key in cell if key in clean}
    made |= {key: value for key, value in clean.items() if key not in made}
    if "source" in made:
        made["source"] = _like(cell.get("source"), made["source"])
    if outputs is not None:
        made["outputs"] = outputs
    return type(cell)({key: made[key] for key in [*(key for key in cell if key in made), *made]})


def _redact_output(sweep: Sweep, output: Any, where: str, cell: str) -> Any:
    if not isinstance(output, dict):
        return sweep.value(output, where, cell)
    joined = _with_texts(output, lambda _, value: _joined(value))
    clean, found = redact_value(joined, sweep.secrets, where=where, redact=sweep.text)
    sweep.count(cell, found)
    reasons = [reason for _, reason in sweep.undecided()]
    reasons += [f"its picture or file holds {span.secret}" for place, span in found if _is_binary(place)]
    if found and not reasons and sweep.secrets.find(json.dumps(clean, ensure_ascii=False, default=str)):
        reasons.append(f"it holds {found[0][1].secret} in a way that cannot be taken out")
    if reasons:
        sweep.drop(cell, where, reasons[0])
        return left_out(output, reasons[0])
    return (
        output if clean is joined else _with_texts(clean, lambda path, value: _like(_at(output, path), value))
    )


def _redact_together(sweep: Sweep, outputs: list[Any], cell: str) -> list[Any]:
    """
    The outputs of a cell as a reader sees them: one stream alone, all streams, all that is plain text.

    Taken out is only what stands in several of them.
    """
    texts = [_shown(output) for output in outputs]
    names = {name for name, _ in texts if name}
    groups = [[index for index, (each, _) in enumerate(texts) if each == name] for name in sorted(names)]
    groups.append([index for index, (name, _) in enumerate(texts) if name and name != "text/plain"])
    groups.append([index for index, (name, _) in enumerate(texts) if name])
    seen: set[tuple[int, ...]] = set()
    for group in groups:
        if len(group) < 2 or tuple(group) in seen:
            continue
        seen.add(tuple(group))
        pieces = [texts[index][1] for index in group]
        spans = sweep.across(pieces)
        sweep.count(cell, [("outputs", span) for span in spans])
        pieces = replace_in_pieces(pieces, spans)
        for index, piece in zip(group, pieces, strict=True):
            if piece != texts[index][1]:
                texts[index] = (texts[index][0], piece)
                outputs = [*outputs[:index], _showing(outputs[index], piece), *outputs[index + 1 :]]
    return outputs


def _shown(output: Any) -> tuple[str, str]:
    """The name of the stream, or `text/plain`, and the text; empty if the output is none of these."""
    if isinstance(output, dict):
        if output.get("output_type") == "stream":
            return str(output.get("name")), _text(output.get("text"))
        data = output.get("data")
        if isinstance(data, dict) and "text/plain" in data:
            return "text/plain", _text(data["text/plain"])
    return "", ""


def _showing(output: dict[str, Any], text: str) -> dict[str, Any]:
    """A copy of an output with another text."""
    if output.get("output_type") == "stream":
        return type(output)({**output, "text": _like(output["text"], text)})
    data = output["data"]
    return type(output)(
        {**output, "data": type(data)({**data, "text/plain": _like(data["text/plain"], text)})}
    )


def _with_texts(output: dict[str, Any], change: Callable[[tuple[str, ...], Any], Any]) -> dict[str, Any]:
    """A copy of an output, each of its texts (the stream's, and those of its MIME types) changed; itself if none is."""
    made: dict[str, Any] = {}
    for key, value in output.items():
        if key == "text":
            made[key] = change((key,), value)
        elif key == "data" and isinstance(value, dict):
            data = {mime: change((key, mime), each) for mime, each in value.items()}
            made[key] = (
                value if all(data[mime] is each for mime, each in value.items()) else type(value)(data)
            )
        else:
            made[key] = value
    return output if all(made[key] is value for key, value in output.items()) else type(output)(made)


def _at(output: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = output
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _joined(value: Any) -> Any:
    """Text that the notebook format stores as a list of lines, as one text; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value


def _like(old: Any, new: Any) -> Any:
    """A text in lines if the old one was; the old one itself if nothing has changed."""
    if isinstance(old, list) and isinstance(new, str):
        return old if "".join(map(str, old)) == new else new.splitlines(keepends=True)
    return new


def _text(value: Any) -> str:
    joined = _joined(value)
    return joined if isinstance(joined, str) else ""


def _is_binary(where: str) -> bool:
    mime = re.search(r"(?:\]|^)\.?data\.([^.]+/.+)$", where)
    return bool(mime and not _TEXT_MIME.match(mime[1]))
