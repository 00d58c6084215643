"""
Random notebooks with a secret planted in a random way: none is left, and nothing else has changed.

As in a run: each output passes the live filter as it arrives, then the whole document the final scan. What is left is
searched by code that shares nothing with either (`leak_search`).
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import random
import string

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from leak_search import Search
from redact_samples import PLAIN, SHORT, STRONG, STRONG_ONLY, WRAPPED

from libsafe_nb.redact import LiveFilter, SecretSet, redact_document, scan_document
from libsafe_nb.secrets import Secret, weakness

SIGNS = string.ascii_letters + string.digits + "+/=_-.~!@#$%^&*()'\"\\<>,;:|"
WAYS = {**PLAIN, **STRONG_ONLY, **WRAPPED}
BEFORE, AFTER = "it begins here: ", " :and ends"
PLACES = [
    "stdout",
    "both",
    "plain",
    "html",
    "json",
    "custom",
    "error",
    "metadata",
    "source",
    "note",
    "cell",
    "book",
    "file",
]


@st.composite
def secrets(draw):
    """A key from the samples, or one of any letters and signs."""
    if draw(st.booleans()):
        return draw(st.sampled_from([*STRONG.values(), *SHORT.values()]))
    value = draw(st.text(alphabet=SIGNS, min_size=8, max_size=60))
    assume(weakness(value) is None)
    return value


def innocent(chance):
    """One output, or None, of the kinds that scanners without a value take for a key."""
    words = " ".join(
        "".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9)))
        for _ in range(chance.randint(1, 40))
    )
    digest = hashlib.sha256(words.encode()).hexdigest()
    noise = base64.b64encode(chance.randbytes(chance.randint(30, 3000))).decode()
    return chance.choice(
        [
            {"output_type": "stream", "name": "stdout", "text": f"{words}\n{digest}  {words[:5]}.tif\n"},
            {"output_type": "stream", "name": "stderr", "text": f"\x1b[31m{words}\x1b[0m 100%|{digest}|\n"},
            {"output_type": "display_data", "data": {"image/png": noise, "text/plain": "<Figure>"}, "metadata": {}},
            {"output_type": "display_data", "data": {"text/html": f"<b title='{digest}'>{words} &amp; %20</b>"}, "metadata": {"a": 1}},
            {"output_type": "execute_result", "execution_count": 3, "data": {"text/plain": f"['{noise}']"}, "metadata": {}},
            {"output_type": "error", "ename": "ValueError", "evalue": words, "traceback": [f"\x1b[0;31m{words}", digest]},
        ]
    )  # fmt: skip


def planted(place, leak, halves):
    """The output, or the part of a cell or notebook, that holds the leak in this place."""
    text = BEFORE + leak + AFTER
    if place == "stdout":
        return {"output_type": "stream", "name": "stdout", "text": text}
    if place == "both":
        return [
            {"output_type": "stream", "name": "stdout", "text": BEFORE + halves[0]},
            {"output_type": "stream", "name": "stderr", "text": halves[1] + AFTER},
        ]
    if place == "error":
        return {
            "output_type": "error",
            "ename": "ValueError",
            "evalue": text,
            "traceback": ["Traceback", text],
        }
    data = {
        "plain": {"text/plain": text},
        "html": {"text/html": f"<p>{text}</p>", "text/plain": "x"},
        "json": {"application/json": {"deep": [{"a": text}]}, "text/plain": "x"},
        "custom": {"application/vnd.x+json": [1, {text: None}], "text/x-any": text},
    }
    metadata = {"origin": text} if place == "metadata" else {}
    return {"output_type": "display_data", "data": data.get(place, {"text/plain": "x"}), "metadata": metadata}


def notebook_with(place, leak, halves, chance):
    cells = []
    for number in range(chance.randint(1, 4)):
        outputs = [innocent(chance) for _ in range(chance.randint(0, 3))]
        cells.append({"cell_type": "code", "id": f"c{number}", "metadata": {}, "source": "print(1)", "execution_count": 1, "outputs": outputs})  # fmt: skip
    cells.append({"cell_type": "markdown", "id": "m", "metadata": {}, "source": "# Title"})
    book = {
        "cells": cells,
        "metadata": {"kernelspec": {"name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    target = chance.choice(cells[:-1])
    text = BEFORE + leak + AFTER
    if place == "source":
        target["source"] = f"x = 1\n# {text}\nprint(x)"
    elif place == "note":
        cells[-1]["source"] = text
    elif place == "file":
        cells[-1]["attachments"] = {"a.txt": {"text/plain": text}}
    elif place == "cell":
        target["metadata"] = {"a": {"b": [text]}}
    elif place == "book":
        book["metadata"]["papermill"] = {"parameters": {"x": text}}
    else:
        made = planted(place, leak, halves)
        at = chance.randint(0, len(target["outputs"]))
        # Between outputs that are no streams, so that what is before and after it can be told.
        quiet = {"output_type": "display_data", "data": {"text/plain": "quiet"}, "metadata": {}}
        target["outputs"][at:at] = [
            quiet,
            *(made if isinstance(made, list) else [made]),
            copy.deepcopy(quiet),
        ]
    return book, target["id"]


def ran(book, live, chance):
    """The outputs as the engine stores them: what the filter lets through, streams in pieces of any size."""
    book = copy.deepcopy(book)
    for cell in book["cells"]:
        kept = []
        for output in cell.get("outputs", ()):
            if output["output_type"] != "stream":
                append(kept, live.end_cell(cell["id"]))
                kept.append(live.output(cell["id"], output))
                continue
            text, at = output["text"], 0
            while at < len(text):
                size = chance.choice([1, 2, 7, 50, 5000])
                append(kept, live.segments(cell["id"], output["name"], text[at : at + size]))
                at += size
        append(kept, live.end_cell(cell["id"]))
        if "outputs" in cell:
            cell["outputs"] = kept
    return book


def append(kept, pieces):
    for name, text in pieces:
        if kept and kept[-1].get("name") == name:
            kept[-1]["text"] += text
        else:
            kept.append({"output_type": "stream", "name": name, "text": text})


def merged(book):
    """Neighbouring pieces of one stream as one, as `ran` makes them."""
    book = copy.deepcopy(book)
    for cell in book["cells"]:
        kept = []
        for output in cell.get("outputs", ()):
            if output["output_type"] == "stream":
                append(kept, [(output["name"], output["text"])])
            else:
                kept.append(output)
        if "outputs" in cell:
            cell["outputs"] = kept
    return book


@given(
    value=secrets(),
    way=st.sampled_from(sorted(WAYS)),
    place=st.sampled_from(PLACES),
    seed=st.integers(0, 2**32),
)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
def test_no_secret_is_left_and_nothing_else_has_changed(value, way, place, seed):
    assume(len(value) >= 16 or way in PLAIN)
    # Other signs between the characters of a key that is mostly signs: said to be impossible ("padding").
    assume(way != "dashed" or sum(char.isascii() and char.isalnum() for char in value) >= 12)
    check(value, way, place, seed)


def check(value, way, place, seed):
    chance = random.Random(seed)
    leak = WAYS[way](value)
    cut = chance.randint(0, len(leak))
    book, target = notebook_with(place, leak, (leak[:cut], leak[cut:]), chance)
    found = SecretSet([Secret("key_user", value), Secret("other", "Qx9vLw2ZkTn5RbYc7Hd3")])
    bare, _ = notebook_with(place, "", ("", ""), random.Random(seed))
    # A key such as `executio` stands in every notebook.
    assume(not found.find(json.dumps(bare)))

    stored, _, _ = redact_document(found, ran(book, LiveFilter(found), chance))

    assert Search({"key": value})(json.dumps(stored, ensure_ascii=False).encode()) == []
    assert scan_document(found, stored).clean
    before = merged(book)
    for old, new in zip(before["cells"], stored["cells"], strict=True):
        if old["id"] != target and not (place in ("note", "file") and old["id"] == "m"):
            assert new == old
        for name in ("id", "cell_type", "execution_count"):
            assert new.get(name) == old.get(name)
    if place in ("source", "note", "cell", "book", "file"):
        assert [cell.get("outputs") for cell in stored["cells"]] == [
            cell.get("outputs") for cell in before["cells"]
        ]
        return
    old, new = (next(cell for cell in each["cells"] if cell["id"] == target) for each in (before, stored))
    assert (new["source"], new["metadata"]) == (old["source"], old["metadata"])
    unlike = [(one, other) for one, other in zip(old["outputs"], new["outputs"], strict=True) if one != other]
    assert 1 <= len(unlike) <= (2 if place == "both" else 1)
    text = json.dumps([other for _, other in unlike], ensure_ascii=False)
    if "left out" not in text:
        # What stands around the leak stays, whatever it was.
        assert BEFORE.strip() in text or place == "both"
        assert AFTER.strip() in text or place == "both"


NOT_BY_THE_SEARCH = {("unicode", "pickle-0"), ("fifteen", "shell")}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        (name, way)
        for name in [*STRONG, *SHORT]
        for way in (WAYS if name in STRONG else PLAIN)
        if (name, way) not in NOT_BY_THE_SEARCH
    ],
)
def test_the_search_finds_what_was_planted(name, way):
    """Otherwise that it finds nothing says nothing."""
    value = {**STRONG, **SHORT}[name]
    shown = {"output_type": "stream", "name": "stdout", "text": BEFORE + WAYS[way](value) + AFTER}

    assert Search({"key": value})(json.dumps({"outputs": [shown]}, ensure_ascii=False).encode())
