"""The live filter: nothing of a secret passes, however it is cut, and everything else does, unchanged and in order."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import uuid

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redact_samples import ALNUM, AWS_LIKE, PLAIN, SHORT, STRONG, STRONG_ONLY, b64, png, secret_set

from libsafe_nb.redact import LiveFilter, Redaction, SecretSet
from libsafe_nb.secrets import Secret

MARK = "[redacted:key_user]"
CELL = "cell-1"


def streamed(live, chunks):
    """All that the filter gives out for `(stream, text)` chunks and the end of the cell, in order."""
    given = [segment for name, text in chunks for segment in live.segments(CELL, name, text)]
    return given + live.end_cell(CELL)


def text_of(segments, name=None):
    return "".join(text for stream, text in segments if name in (None, stream))


def merged(segments):
    """Neighbours of one stream as one, as a notebook shows them."""
    lines = []
    for name, text in segments:
        if lines and lines[-1][0] == name:
            lines[-1][1] += text
        elif text:
            lines.append([name, text])
    return lines


def cut(text, positions):
    places = sorted({0, len(text), *(position % (len(text) + 1) for position in positions)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 17])
@pytest.mark.parametrize("way", {**PLAIN, **STRONG_ONLY})
def test_a_form_in_pieces_is_taken_out(way, size):
    leak = {**PLAIN, **STRONG_ONLY}[way](AWS_LIKE)
    text = f"before {leak} after\n"
    whole, _ = secret_set(AWS_LIKE).redact(text)
    live = LiveFilter(secret_set(AWS_LIKE))

    shown = streamed(live, [("stdout", text[at : at + size]) for at in range(0, len(text), size)])

    assert MARK in whole
    assert text_of(shown) == whole
    assert sum(each.count for each in live.redactions) == 1


@given(
    key=st.sampled_from([*STRONG.values(), *SHORT.values()]),
    way=st.sampled_from(list(PLAIN)),
    before=st.text(max_size=40),
    after=st.text(max_size=40),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
    streams=st.lists(st.sampled_from(["stdout", "stderr"]), min_size=13, max_size=13),
)
@settings(max_examples=120, deadline=None)
def test_no_cut_and_no_turn_of_streams_lets_a_secret_through(key, way, before, after, cuts, streams):
    secrets = secret_set(key)
    leak = PLAIN[way](key)
    text = f"{before}\n{leak}\n{after}"
    expected, spans = secrets.redact(text)

    shown = streamed(LiveFilter(secrets), zip(streams, cut(text, cuts), strict=False))

    assert spans
    assert secrets.find(text_of(shown)) == []
    assert text_of(shown) == expected
    assert MARK in text_of(shown)


@given(
    key=st.text(st.characters(codec="utf-8"), min_size=16, max_size=60).filter(
        lambda key: len(set(key)) >= 8 and not key.isdigit()
    ),
    before=st.text(max_size=30),
    after=st.text(max_size=30),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
@settings(max_examples=120, deadline=None)
def test_any_key_at_all_is_taken_out(key, before, after, cuts):
    secrets = secret_set(key)
    text = f"{before}\n{key}\n{after}"

    shown = text_of(streamed(LiveFilter(secrets), [("stdout", part) for part in cut(text, cuts)]))

    assert MARK in shown
    assert key not in shown.replace(MARK, "") or key in before or key in after


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["stdout", "stderr"]),
            st.one_of(
                st.text(max_size=60),
                st.binary(max_size=60).map(bytes.hex),
                st.binary(max_size=60).map(b64),
                st.uuids().map(str),
                st.text("ZqLmRt479 \n\t\\%&\x1b[]=:", max_size=30),
                st.sampled_from(
                    [
                        ALNUM[:9],
                        ALNUM[:20] + "\n",
                        b64(ALNUM)[:12],
                        "Authorization: Bea",
                        "X-Amz-",
                        "\x1b[3",
                        "%2",
                        "\\u00",
                    ]
                ),
            ),
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_innocent_streams_come_back_byte_for_byte_and_in_order(parts):
    live = LiveFilter(SecretSet([Secret("key_user", ALNUM), Secret("key_root", AWS_LIKE)]))

    shown = streamed(live, parts)

    assert merged(shown) == merged(parts)
    assert live.redactions == []


def test_text_that_begins_no_form_flows_at_once():
    live = LiveFilter(secret_set(ALNUM))

    assert live.segments(CELL, "stdout", "!?!? … ") == [("stdout", "!?!? … ")]
    assert text_of(live.segments(CELL, "stdout", "a line of words that goes on\n")).startswith(
        "a line of words that goes"
    )


def test_what_is_held_back_is_bounded():
    live = LiveFilter(secret_set(ALNUM))
    given = 0
    for _ in range(4000):
        given += len(text_of(live.segments(CELL, "stdout", (" " * 40).join(ALNUM[:20]))))

    assert 4000 * len((" " * 40).join(ALNUM[:20])) - given <= 64 * 1024


def test_a_secret_shared_by_both_streams_is_taken_out():
    live = LiveFilter(secret_set(ALNUM))

    shown = streamed(
        live, [("stdout", "a " + ALNUM[:18]), ("stderr", ALNUM[18:] + " b\n"), ("stdout", "c\n")]
    )

    assert merged(shown) == [["stdout", "a " + MARK], ["stderr", " b\n"], ["stdout", "c\n"]]
    assert live.redactions == [Redaction(CELL, "stderr+stdout", "verbatim", "key_user", 1)]


def test_a_secret_in_one_stream_is_taken_out_though_the_other_interrupts():
    live = LiveFilter(secret_set(ALNUM))

    shown = streamed(live, [("stdout", ALNUM[:18]), ("stderr", "(noise)\n"), ("stdout", ALNUM[18:] + "\n")])

    assert text_of(shown, "stdout") == MARK + "\n"
    assert text_of(shown, "stderr") == "(noise)\n"


def test_a_display_in_between_can_be_kept_in_its_place():
    live = LiveFilter(secret_set(ALNUM))

    first = live.segments(CELL, "stdout", f"value Z{ALNUM[:3]}")
    rest = live.end_cell(CELL)

    assert text_of(first + rest) == f"value Z{ALNUM[:3]}"
    assert live.end_cell(CELL) == []


def test_cells_do_not_mix():
    live = LiveFilter(secret_set(ALNUM))
    live.segments("one", "stdout", ALNUM[:20])

    assert text_of(live.segments("two", "stdout", ALNUM[20:] + "!\n")) != MARK
    assert live.end_cell("one") == [("stdout", ALNUM[:20])]


OUTPUTS = {
    "display": {
        "output_type": "display_data",
        "data": {"text/plain": "x KEY y", "text/html": "<b>KEY</b>"},
        "metadata": {"m": ["KEY"]},
    },
    "result": {
        "output_type": "execute_result",
        "execution_count": 3,
        "data": {"text/plain": "'KEY'"},
        "metadata": {},
    },
    "lines": {
        "output_type": "display_data",
        "data": {"text/plain": ["KEYHEAD", "KEYTAIL\n", "z"]},
        "metadata": {},
    },
    "json": {
        "output_type": "display_data",
        "data": {"application/json": {"a": [{"b": "KEY"}], "KEY": None}},
        "metadata": {},
    },
    "characters": {"output_type": "display_data", "data": {"application/json": ["KEYLIST"]}, "metadata": {}},
    "widget": {
        "output_type": "display_data",
        "data": {"application/vnd.jupyter.widget-view+json": {"model_id": "KEY"}},
        "metadata": {},
    },
    "custom": {"output_type": "display_data", "data": {"application/vnd.example.v1": "KEY"}, "metadata": {}},
    "svg": {
        "output_type": "display_data",
        "data": {"image/svg+xml": "<svg><text>KEY</text></svg>"},
        "metadata": {},
    },
    "error": {
        "output_type": "error",
        "ename": "KEY",
        "evalue": "bad KEY",
        "traceback": ["\x1b[31mKEYHEAD\x1b[0mKEYTAIL", "key = 'KEY'"],
    },
    "stream": {"output_type": "stream", "name": "stdout", "text": "KEY"},
}


def filled(value):
    if isinstance(value, str):
        return value.replace("KEYHEAD", ALNUM[:17]).replace("KEYTAIL", ALNUM[17:]).replace("KEY", ALNUM)
    if isinstance(value, list):
        return list(ALNUM) if value == ["KEYLIST"] else [filled(each) for each in value]
    if isinstance(value, dict):
        return {filled(key): filled(each) for key, each in value.items()}
    return value


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_place_of_an_output_is_looked_at(kind):
    output = nbformat.from_dict(filled(OUTPUTS[kind]))
    before = json.dumps(output)
    live = LiveFilter(secret_set(ALNUM))

    clean = live.output(CELL, output)

    assert json.dumps(output) == before
    assert secret_set(ALNUM).find(json.dumps(clean)) == []
    assert MARK in json.dumps(clean)
    assert isinstance(clean, nbformat.NotebookNode)
    assert live.redactions
    nbformat.validate(notebook_with(clean))


def notebook_with(*outputs):
    cell = nbformat.v4.new_code_cell("1")
    cell.outputs = list(outputs)
    cell.execution_count = 3
    return nbformat.v4.new_notebook(cells=[cell])


def test_an_output_that_spells_a_secret_in_a_strange_way_is_left_out():
    output = {
        "output_type": "display_data",
        "data": {"application/json": [dict.fromkeys(ALNUM, 0), ALNUM]},
        "metadata": {},
    }
    live = LiveFilter(secret_set(ALNUM))

    clean = live.output(CELL, output)

    assert secret_set(ALNUM).find(json.dumps(clean)) == []


@pytest.mark.parametrize("seed", range(5))
def test_innocent_outputs_are_the_same_objects(seed):
    chance = random.Random(seed)
    noise = chance.randbytes(20000)
    outputs = [
        {
            "output_type": "display_data",
            "data": {"image/png": b64(png(b"tEXt", b"a\0b", pixels=noise)), "text/plain": noise.hex()},
            "metadata": {},
        },
        {
            "output_type": "display_data",
            "data": {
                "application/json": {"ids": [str(uuid.UUID(bytes=chance.randbytes(16))) for _ in range(99)]}
            },
            "metadata": {},
        },
        {
            "output_type": "error",
            "ename": "ValueError",
            "evalue": b64(noise),
            "traceback": [base64.b85encode(noise).decode()],
        },
    ]
    live = LiveFilter(
        SecretSet([Secret("key_user", ALNUM), Secret("key_root", AWS_LIKE), Secret("pin", SHORT["plain"])])
    )

    assert all(live.output(CELL, output) is output for output in outputs)
    assert live.redactions == []


def test_other_text_is_cleaned_and_counted():
    live = LiveFilter(secret_set(ALNUM))

    assert live.text(f"job message with {ALNUM}", where="message") == f"job message with {MARK}"
    assert live.redactions == [Redaction(None, "message", "verbatim", "key_user", 1)]


def test_a_long_stream_keeps_flowing_at_little_cost():
    """A million characters in small messages: what is held back does not grow with them."""
    live = LiveFilter(secret_set(os.urandom(20).hex()))
    text = "".join(f"{index:07d} processed\n" for index in range(60000))

    shown = streamed(live, [("stdout", text[at : at + 500]) for at in range(0, len(text), 500)])

    assert text_of(shown) == text


AWKWARD = {
    "percent": ("%kQ?!7<afpG?Z_{iZ", "%25kQ%3f%217%3cafpG%3fZ%5f%7biZ"),
    "signs-zero-width": ("R`%jEF|M9EL}*Z*x", "\u200b".join("R`%jEF|M9EL}*Z*x")),
    "signs-zero-width-escaped": (">bG#KAUJeV%fo(^O>", json.dumps("\u200d\ufeff".join(">bG#KAUJeV%fo(^O>"))),
    "signs-upper": ("i.j<AXW):[Upw~CM", "I.J<AXW):[UPW~CM"),
    "signs-first": ("*@8_2,y}+~G9^7H{BejY:!!2", str(list("*@8_2,y}+~G9^7H{BejY:!!2"))),
    "backslash-html-twice": ("iYDIwbAY'LuBt\\fNEO<gcN", "iYDIwbAY&amp;#x27;LuBt\\fNEO&amp;lt;gcN"),
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_keys_full_of_signs_are_taken_out_wherever_they_are_cut(kind):
    """Each of these slipped through once."""
    key, leak = AWKWARD[kind]
    whole, _ = secret_set(key).redact(f"before\n{leak}\nafter")

    assert MARK in whole
    for place in range(len(leak)):
        text = f"before\n{leak}\nafter"
        chunks = [("stdout", text[: 7 + place]), ("stdout", text[7 + place :])]
        assert text_of(streamed(LiveFilter(secret_set(key)), chunks)) == whole
