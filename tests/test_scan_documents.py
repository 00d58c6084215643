"""The final scan: whole documents, in plain sight and in their wrappings, and the innocent ones byte for byte."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import uuid
import zipfile
import zlib
from io import BytesIO

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redact_samples import (
    ALNUM,
    AWS_LIKE,
    PLAIN,
    SHORT,
    STRONG,
    STRONG_ONLY,
    WRAPPED,
    b64,
    jpeg,
    png,
    secret_set,
    zipped,
)

from libsafe_nb.redact import Redaction, SecretSet, redact_document, scan_document
from libsafe_nb.redact.wrappings import Unwrapping
from libsafe_nb.secrets import Secret

MARK = "[redacted:key_user]"
NOTICE = "[output left out by libsafe-nb: "
THREE = SecretSet([Secret("key_user", ALNUM), Secret("key_root", AWS_LIKE), Secret("pin", SHORT["plain"])])


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def display(**data):
    return nbformat.v4.new_output(
        "display_data", data={key.replace("__", "/"): value for key, value in data.items()}
    )


def notebook(*outputs, source="1", **metadata):
    cell = nbformat.v4.new_code_cell(source, id="cell-a", metadata=metadata)
    cell.outputs = list(outputs)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title", id="cell-0"), cell])


def stored(book):
    return nbformat.writes(book).encode()


def cleaned(book, secrets=None):
    """The notebook as it would be stored, after checking that it is valid and that a second scan is clean."""
    secrets = secrets or secret_set(ALNUM)
    data, hits, dropped = redact_document(secrets, stored(book), name="executed.ipynb")
    clean = nbformat.reads(data.decode(), 4)
    nbformat.validate(clean)
    assert scan_document(secrets, data, name="executed.ipynb").clean
    return clean.cells[1], hits, dropped


@pytest.mark.parametrize("way", {**PLAIN, **STRONG_ONLY, **WRAPPED})
def test_a_stream_with_a_secret_is_cleaned(way):
    leak = {**PLAIN, **STRONG_ONLY, **WRAPPED}[way](ALNUM)

    cell, hits, dropped = cleaned(notebook(stream(f"first line\n{leak}\nlast line\n")))

    assert MARK in cell.outputs[0].text
    assert dropped == ()
    assert {(hit.cell, hit.where, hit.name) for hit in hits} == {("cell-a", "outputs[0].text", "key_user")}
    assert cell.outputs[0].text.startswith("first line\n")
    assert cell.outputs[0].text.endswith("last line\n")


PLACES = {
    "source": notebook(source=f"key = '{ALNUM}'\nprint(key)"),
    "cell-metadata": notebook(note=f"x{ALNUM}"),
    "html": notebook(display(text__html=f"<p>{ALNUM}</p>")),
    "html-tags": notebook(display(text__html="".join(f"<b>{char}</b>" for char in ALNUM))),
    "svg": notebook(display(**{"image/svg+xml": f"<svg><text>{ALNUM}</text></svg>"})),
    "json": notebook(display(application__json={"deep": [{"er": ALNUM}]})),
    "json-list": notebook(display(application__json=list(ALNUM))),
    "widget": notebook(display(**{"application/vnd.jupyter.widget-view+json": {"model_id": ALNUM}})),
    "traceback": notebook(
        nbformat.v4.new_output(
            "error", ename="E", evalue=ALNUM, traceback=[f"\x1b[31m{ALNUM[:9]}\x1b[0m{ALNUM[9:]}"]
        )
    ),
    "output-metadata": notebook(nbformat.v4.new_output("display_data", data={}, metadata={"a": ALNUM})),
    "result": notebook(
        nbformat.v4.new_output("execute_result", data={"text/plain": repr(ALNUM)}, execution_count=1)
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_a_cell_is_cleaned(place):
    cell, hits, _ = cleaned(PLACES[place])

    assert MARK in json.dumps(cell)
    assert hits[0].cell == "cell-a"


def test_the_notebook_itself_is_cleaned():
    book = notebook()
    book.metadata["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {"state": {"m": {"value": ALNUM}}}
    }
    book.cells[0].source = f"see {ALNUM}"
    book.cells[0].attachments = {"a.txt": {"text/plain": ALNUM}}

    data, hits, _ = redact_document(secret_set(ALNUM), stored(book))

    assert ALNUM not in data.decode()
    assert {hit.cell for hit in hits} == {None, "cell-0"}
    nbformat.validate(nbformat.reads(data.decode(), 4))


SPREAD = {
    "stdout": [stream(ALNUM[:18]), display(text__plain="between"), stream(ALNUM[18:] + "\nend\n")],
    "both": [stream(ALNUM[:18]), stream(ALNUM[18:] + "\nend\n", "stderr")],
    "interrupted": [stream(ALNUM[:18]), stream("noise 123\n", "stderr"), stream(ALNUM[18:] + "\nend\n")],
    "displays": [display(text__plain=char) for char in ALNUM],
    "wrapped": [
        stream(b64(gzip.compress(ALNUM.encode()))[:30]),
        display(text__plain="x" * 3 + " "),
        stream(b64(gzip.compress(ALNUM.encode()))[30:]),
    ],
}


@pytest.mark.parametrize("way", SPREAD)
def test_outputs_are_read_together(way):
    cell, hits, _ = cleaned(notebook(*SPREAD[way]))

    shown = json.dumps(cell.outputs)
    assert MARK in shown
    assert ALNUM[:9] not in shown
    assert ALNUM[-9:] not in shown
    assert hits[0].where == "outputs"
    assert ("end\\n" in shown) == ("end\n" in SPREAD[way][-1].get("text", ""))


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg", "application/pdf", "application/octet-stream"])
def test_a_file_that_holds_a_secret_is_left_out(mime):
    body = {
        "image/png": png(b"zTXt", b"C\0\0" + zlib.compress(ALNUM.encode())),
        "image/jpeg": jpeg(0xFE, ALNUM.encode()),
    }
    data = b64(body.get(mime, b"%PDF-1.7 " + ALNUM.encode()))

    cell, hits, dropped = cleaned(notebook(display(**{mime: data, "text/plain": "<Figure>"})))

    assert list(cell.outputs[0].data) == ["text/plain"]
    assert cell.outputs[0].data["text/plain"].startswith(NOTICE)
    assert [(each.cell, each.where) for each in dropped] == [("cell-a", "outputs[0]")]
    assert hits[0].name == "key_user"


def nested(levels):
    data = b"nothing here"
    for _ in range(levels):
        data = gzip.compress(data)
    return data


def encrypted_zip():
    data = bytearray(zipped(b"nothing here"))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(signature) + flags] |= 1
    return bytes(data)


UNDECIDABLE = {
    "gzip-damaged": gzip.compress(random.Random(1).randbytes(400))[:-30] + b"\xff" * 30,
    "gzip-cut": gzip.compress(random.Random(1).randbytes(400))[:-30],
    "zlib-cut": zlib.compress(random.Random(1).randbytes(400))[:-30],
    "zip-damaged": zipped(b"some text")[:-12],
    "zip-encrypted": encrypted_zip(),
    "pickle-damaged": pickle.dumps({"a": ["b", "c", "d", 1, 2, 3]})[:-4] + b"\xff\xff\xff\xff",
    "png-damaged": png(b"zTXt", b"Comment\0\0" + zlib.compress(b"words")[:-3] + b"\0\0\0"),
    "too-deep": nested(5),
    "too-large": gzip.compress(bytes(65 * 1024 * 1024), 1),
}


@pytest.mark.parametrize("kind", UNDECIDABLE)
def test_what_cannot_be_looked_into_is_left_out_with_a_notice(kind):
    outputs = [stream("kept\n"), display(text__plain=b64(UNDECIDABLE[kind])), stream("also kept\n")]

    cell, hits, dropped = cleaned(notebook(*outputs))

    assert cell.outputs[0].text == "kept\n"
    assert cell.outputs[1].data["text/plain"].startswith(NOTICE)
    assert cell.outputs[2].text == "also kept\n"
    assert [(each.cell, each.where) for each in dropped] == [("cell-a", "outputs[1]")]
    assert hits == ()


@pytest.mark.parametrize("kind", ["stream", "result", "error"])
def test_a_notice_is_an_output_of_the_same_kind(kind):
    data = b64(UNDECIDABLE["gzip-cut"])
    output = {
        "stream": stream(data, "stderr"),
        "result": nbformat.v4.new_output("execute_result", data={"text/plain": data}, execution_count=7),
        "error": nbformat.v4.new_output("error", ename="E", evalue=data, traceback=[]),
    }[kind]

    cell, _, _ = cleaned(notebook(output))

    assert cell.outputs[0].output_type == output.output_type
    assert NOTICE in json.dumps(cell.outputs[0])
    assert cell.outputs[0].get("name") == output.get("name")
    assert cell.outputs[0].get("execution_count") == output.get("execution_count")


def test_undecidable_text_elsewhere_becomes_a_notice():
    clean, _, dropped = redact_document(
        secret_set(ALNUM), json.dumps({"a": b64(UNDECIDABLE["gzip-cut"]), "b": 1})
    )

    assert json.loads(clean)["a"].startswith(NOTICE)
    assert json.loads(clean)["b"] == 1
    assert [each.where for each in dropped] == ["a"]


def test_hits_are_counted_by_place_and_form():
    text = f"{ALNUM} {ALNUM} {b64(ALNUM)}"

    _, hits, _ = redact_document(secret_set(ALNUM), {"log": text})

    assert set(hits) == {
        Redaction(None, "log", "verbatim", "key_user", 2),
        Redaction(None, "log", "base64", "key_user", 1),
    }


def test_parsed_json_is_not_changed_in_place():
    given = {"a": [ALNUM, 1, None, {"b": "fine"}], "c": "fine"}

    clean, _, _ = redact_document(secret_set(ALNUM), given)

    assert given["a"][0] == ALNUM
    assert clean == {"a": [MARK, 1, None, {"b": "fine"}], "c": "fine"}


@pytest.mark.parametrize("indent", [None, 1, 2])
def test_json_is_written_in_the_style_it_had(indent):
    text = json.dumps({"key": ALNUM, "é": [1, 2]}, indent=indent, ensure_ascii=False) + "\n"

    clean, _, _ = redact_document(secret_set(ALNUM), text.encode(), name="record.json")

    assert clean.decode() == text.replace(ALNUM, MARK)


def test_json_lines_are_cleaned_line_by_line():
    lines = [
        json.dumps({"id": 1, "message": "fine"}),
        json.dumps({"id": 2, "message": "\n".join(ALNUM)}),
        "",
        "not json " + ALNUM,
    ]

    clean, hits, _ = redact_document(
        secret_set(ALNUM), ("\n".join(lines) + "\n").encode(), name="messages.jsonl"
    )

    assert (
        clean.decode()
        == "\n".join([lines[0], json.dumps({"id": 2, "message": MARK}), "", "not json " + MARK]) + "\n"
    )
    assert sum(hit.count for hit in hits) == 2


@pytest.mark.parametrize("name", ["report.html", "premis.xml", "README.md", "SHA256SUMS"])
def test_text_is_cleaned_in_place(name):
    text = f"<a title='{ALNUM}'>\u00e9 {b64(ALNUM)}</a>\n"

    clean, _, _ = redact_document(secret_set(ALNUM), text.encode(), name=name)

    assert clean.decode().replace("=", "") == f"<a title'{MARK}'>\u00e9 {MARK}</a>\n"


def test_other_bytes_are_kept_or_replaced_whole():
    secrets = secret_set(ALNUM)
    picture = png(b"tEXt", b"Comment\0nothing")
    leaking = png(b"zTXt", b"Comment\0\0" + zlib.compress(ALNUM.encode()))

    assert redact_document(secrets, picture, name="plot.png") == (picture, (), ())
    clean, hits, dropped = redact_document(secrets, leaking, name="plot.png")
    assert clean.startswith(NOTICE.encode())
    assert [hit.kind for hit in hits] == ["png>verbatim"]
    assert len(dropped) == 1


def innocents(seed):
    chance = random.Random(seed)
    noise = chance.randbytes(3000)
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("a.bin", noise)
    return [
        "".join(
            f"{hashlib.sha256(chance.randbytes(9)).hexdigest()}  file{index}.tif\n" for index in range(60)
        ),
        "\n".join(
            hashlib.new(name, noise).hexdigest()
            for name in ("md5", "sha1", "sha256", "sha512")
            for _ in range(9)
        ),
        "\n".join(str(uuid.UUID(bytes=chance.randbytes(16))) for _ in range(60)),
        b64(noise),
        "\n".join(b64(chance.randbytes(57)) for _ in range(40)),
        noise.hex(),
        repr(noise),
        "".join(
            chance.choices("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+/=-_ \n", k=9000)
        ),
        "".join(chance.choices("eJyNH4sI1f8b789cUEsDgASViVBORw/9j", k=6000)),
        noise.decode("latin-1"),
        b64(png(b"tEXt", b"Software\0plot", pixels=noise)),
        b64(jpeg(0xE1, b"Exif\0\0" + noise[:999])),
        b64(gzip.compress(noise)),
        repr(zlib.compress(noise)),
        b64(pickle.dumps({"a": list(noise[:50]), "b": noise})),
        b64(archive.getvalue()),
        "https://example.org/a%20b?x=%2Fpath&amp;y=\\u00e9 C:\\new\\table \x1b[31mred\x1b[0m 50%\n",
        json.dumps({"text": noise.decode("latin-1"), "nested": json.dumps({"deep": noise.hex()})}),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_innocent_notebooks_are_stored_byte_for_byte(seed):
    book = notebook(
        *(stream(text, ("stdout", "stderr")[index % 2]) for index, text in enumerate(innocents(seed)))
    )
    book.cells[1].outputs += [
        display(text__plain=text, image__png=b64(png(b"tEXt", b"a\0b"))) for text in innocents(seed + 100)
    ]
    data = stored(book)

    result = redact_document(THREE, data, name="executed.ipynb")

    assert result.hits == ()
    assert result.dropped == ()
    assert result.data is data


@given(
    st.binary(max_size=400),
    st.sampled_from(
        [
            b"\x1f\x8b\x08",
            b"x\x9c",
            b"x\xda",
            b"PK\3\4",
            b"BZh9",
            b"\x80\4\x95",
            b"\x80\2",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"",
        ]
    ),
)
@settings(max_examples=200, deadline=None)
def test_bytes_of_any_kind_are_examined_without_error(body, head):
    findings = Unwrapping(THREE).examine(head + body)

    assert findings.secrets == []


def test_megabytes_of_chance_raise_no_alarm():
    """What begins like a container by chance, as some runs in so many do, is not taken for a damaged one."""
    chance = random.Random(7)
    runs = "\n".join(b64(chance.randbytes(chance.randrange(24, 90))) + "." for _ in range(60000))
    starts = [b"x\x9c", b"x\x01", b"x\xda", b"x^", b"\x80\2", b"\x80\3", b"\xff\xd8", b"H\x89", b"PK"]
    runs += ".".join(b64(chance.choice(starts) + chance.randbytes(40)) for _ in range(20000))

    assert scan_document(THREE, runs, name="log.txt").clean


@given(
    key=st.sampled_from(list(STRONG.values())),
    way=st.sampled_from([*PLAIN, *WRAPPED]),
    texts=st.lists(st.text(max_size=80), min_size=3, max_size=3),
    place=st.integers(0, 2),
)
@settings(max_examples=150, deadline=None)
def test_a_secret_planted_anyhow_goes_and_the_rest_stays(key, way, texts, place):
    outputs = [stream(f"{text}\n", ("stdout", "stderr")[index % 2]) for index, text in enumerate(texts)]
    outputs[place].text += f"\n{ {**PLAIN, **WRAPPED}[way](key) }\n"
    book = notebook(*outputs)

    cell, hits, dropped = cleaned(book, secret_set(key))

    assert hits
    assert dropped == ()
    assert MARK in cell.outputs[place].text
    assert [each.text for index, each in enumerate(cell.outputs) if index != place] == [
        f"{text}\n" for index, text in enumerate(texts) if index != place
    ]


def test_a_large_document_of_many_strings_is_scanned_in_its_own_time():
    """The cost does not grow with the square of anything: a million short strings, one long, and many runs."""
    data = {
        "ids": [f"{index:x}" for index in range(100000)],
        "long": os.urandom(2_000_000).hex(),
        "runs": [b64(struct.pack(">QQQQ", *[index] * 4)) for index in range(5000)],
    }

    assert scan_document(THREE, data).clean


@pytest.mark.parametrize(
    "escaped", [{"/": "\\/"}, {"/": "\\u002f", "+": "\\u002b"}, {"/": "\\u002F", "+": "\\u002B"}]
)
@pytest.mark.parametrize("lines", [base64.b64encode, base64.encodebytes], ids=["one line", "lines"])
def test_wrapped_base64_is_found_wherever_json_escapes_cut_it(escaped, lines):
    """A gzip's time stamp moves the slashes about: a test by the clock alone failed only at some hours."""
    missed = []
    for moment in range(1_795_000_000, 1_795_000_000 + 1000 * 40, 1000):
        text = json.dumps({"blob": lines(gzip.compress(ALNUM.encode(), mtime=moment)).decode()})
        for sign, written in escaped.items():
            text = text.replace(sign, written)
        if scan_document(secret_set(ALNUM), f"first\n{text}\nlast\n".encode(), media_type="text/plain").clean:
            missed.append(moment)

    assert missed == []


@pytest.mark.parametrize(("width", "indent"), [(76, ""), (999, "  "), (0, "")])
@pytest.mark.parametrize(
    "place", [0.65535, *(pytest.param(at, marks=pytest.mark.slow) for at in (0.31, 0.99))]
)
def test_a_secret_is_found_wherever_it_stands_in_megabytes_of_base64(width, indent, place):
    """Such a run is decoded in parts, and a secret may lie across two of them, or deeper still."""
    chance = random.Random(place)
    value = "sKq9-Zm2vXc9Rt4Bn8Ks1Wd6Yh3Pg5Jf0Tx4"
    filler = "".join(chance.choices("abcdefghij \n", k=1_200_000))
    inner = filler[: int(len(filler) * place)] + value + filler[int(len(filler) * place) :]
    for text in (
        inner,
        filler + base64.b64encode(inner[-600_000:].encode()).decode() if place > 0.5 else inner,
    ):
        run = base64.b64encode(text.encode()).decode()
        lines = [run[at : at + width] for at in range(0, len(run), width)] if width else [run]
        document = "before " + f"\n{indent}".join(lines)

        assert not scan_document(SecretSet([Secret("key", value)]), document).clean


def test_megabytes_of_one_letter_take_little_memory():
    """They are a run of base64, and each way to read one is a copy of it."""
    code = (
        "import re, sys\n"
        "from libsafe_nb.redact import SecretSet, scan_document\n"
        "from libsafe_nb.secrets import Secret\n"
        "secrets = SecretSet([Secret('key', 'sKq9-Zm2vXc9Rt4Bn8Ks1Wd6Yh3Pg5Jf0Tx4')])\n"
        "text = ('x' * 999 + '\\n') * 10_000\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak(); scan_document(secrets, text); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 80 * 1024


def test_what_the_key_of_a_dictionary_wraps_is_looked_into():
    key = b64(gzip.compress(ALNUM.encode()))

    clean, hits, _ = redact_document(secret_set(ALNUM), {"a": {f"x {key}": 1}})

    assert [each.rstrip("=") for each in clean["a"]] == ["x [redacted:key_user]"]
    assert {hit.name for hit in hits} == {"key_user"}
