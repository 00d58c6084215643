"""report.html: the evidence of a run as one page that can do nothing but be read."""

import base64
import gzip
import html.parser
import http.server
import json
import random
import re
import subprocess
import sys
import threading
import time

import pytest

from libsafe_nb import evidence, record, report
from libsafe_nb.redact import scan_document
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.report.ansi import ansi

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HOSTILE = {
    "script": "<b>kept</b><script>alert(1)</script>",
    "handler": "kept<img src=x onerror=alert(1)><b onmouseover='alert(1)'>b</b>",
    "image": "kept<img src='http://outside.invalid/a.png'><img srcset='//outside.invalid/b.png 2x'>",
    "style": "kept<style>@import 'http://outside.invalid/a.css'; body{display:none}</style>"
    "<link rel=stylesheet href=http://outside.invalid/b.css>",
    "frame": "kept<iframe src='http://outside.invalid/'></iframe><iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "link": "<a href='javascript:alert(1)'>kept</a><a href='data:text/html,<script>alert(1)</script>'>d</a>",
    "svg": "kept<svg onload=alert(1)><script>alert(1)</script><image href='http://outside.invalid/c.png'/></svg>",
    "meta": "kept<meta http-equiv=refresh content='0;url=http://outside.invalid/'><base href='http://outside.invalid/'>",
    "cover": "kept<div class='outcome completed' id=check style='position:fixed;inset:0;margin:-900px;color:red'>c</div>",
    "break": "kept</div></section></main></body></html><!-- <script>alert(1)</script>",
    "nested": "kept" + "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "url": "kept<p style=\"background-color:url('http://outside.invalid/d.png')\">u</p>",
    "form": "kept<form action=http://outside.invalid/><input autofocus onfocus=alert(1)><button>x</button></form>",
}
SVG = (
    "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(1)</script>"
    "<image href='http://outside.invalid/e.png'/></svg>"
)
CELLS = [
    "import base64\nfrom IPython.display import Image, display\nprint('\\x1b[31mred\\x1b[0m & <plain>')\n"
    f"Image(data=base64.b64decode('{PIXEL}'))",
    "raise ValueError('not <today>')",
    "print('never')",
]


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and whether each is ended where it should be."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "col"})

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_can_do_nothing(page):
    """No element that acts, no handler, nothing from elsewhere: with or without the page's policy."""
    elements = Elements(page)

    assert elements.open == []
    for name, attributes in elements.found:
        assert name not in {"script", "iframe", "object", "embed", "base", "form", "input", "button", "image"}
        assert not [each for each in attributes if each.startswith("on") or each == "srcset"]
        assert attributes.get("http-equiv") in (None, "Content-Security-Policy")
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        href = attributes.get("href") or "#"
        assert href.startswith(("#", "https://", "http://", "mailto:")) or (name, href) == ("link", "data:,")
        assert "position" not in (attributes.get("style") or "")


def code_cell(*outputs, source="pass", name="c1", number=1):
    return {
        "cell_type": "code",
        "id": name,
        "source": source,
        "execution_count": number,
        "metadata": {},
        "outputs": list(outputs),
    }


def node_of(*cells):
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)}


def shown(data, **metadata):
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def body(**fields):
    return {
        "schema": record.SCHEMA,
        "id": "urn:uuid:11111111-2222-4333-8444-555555555555",
        "job": {"id": "7"},
        "container": {"id": "1"},
        "function": {"key": "f", "name": "f.ipynb", "notebook_sha256": "0" * 64},
        "started": "2026-11-25T09:22:05.784+00:00",
        "ended": "2026-11-25T09:22:09.784+00:00",
        "status": "completed",
        "cause": None,
        "error": None,
        "not_captured": record.NOT_CAPTURED,
        **fields,
    }


LOST = record.lost(
    {
        "run": "11111111-2222-4333-8444-555555555555",
        "job": "7",
        "container": "1",
        "function": {"key": "f", "name": "f.ipynb", "notebook_sha256": "0" * 64},
        "started": "2026-11-25T09:22:05.784+00:00",
    },
    "nothing was heard of it",
)


def page_of(*cells, **fields):
    return report.build(body(**fields), node_of(*cells), [], None).decode()


# Real runs -------------------------------------------------------------------------------------------------------


def test_a_completed_run(run, notebook, stored):
    done = run(notebook(CELLS[0]))
    page = stored(done, "report.html").decode()

    assert '<header class="outcome completed">' in page
    assert "The function ran to its end" in page
    assert "red</span> &amp; &lt;plain&gt;" in page
    assert f'src="data:image/png;base64,{PIXEL}"' in page
    assert page.count('class="bar good"') == 3
    assert f"job {done.job}" in page
    assert "sha256sum -c SHA256SUMS" in page
    assert re.search(r"<summary>\d+ packages</summary>", page)
    assert_can_do_nothing(page)


def test_a_failed_run_tells_what_failed_and_where(run, notebook, stored):
    page = stored(run(notebook(*CELLS)), "report.html").decode()

    assert '<header class="outcome failed">' in page
    assert 'It ended in <a href="#cell-4">In [4]</a>: a cell raised.' in page
    assert "<strong>ValueError</strong>: not &lt;today&gt;" in page
    assert 'id="cell-4" class="cell code bad"' in page
    assert 'class="bar bad"' in page
    assert "not run" in page
    assert_can_do_nothing(page)


def test_the_page_is_among_the_sums_and_is_made_of_the_evidence(run, notebook, stored):
    done = run(notebook(CELLS[0]))
    kept = {name: stored(done, name) for name in ("record.json", "executed.ipynb", "environment.json")}
    made = report.build(
        *(json.loads(kept[name]) for name in ("record.json", "executed.ipynb")),
        [],
        json.loads(kept["environment.json"]),
    )

    assert made == stored(done, "report.html")
    assert f"{record.digest(made)}  report.html" in stored(done, evidence.SUMS).decode()


def test_an_output_that_cannot_be_searched_once_it_is_cut_costs_no_evidence(run, notebook, stored):
    """Half of a gzip file cannot be opened; the report shows half of this output."""
    packed = gzip.compress(random.Random(1).randbytes(90_000), mtime=0)
    cell = f"print({base64.b64encode(packed).decode()!r})\nprint('the end')"
    done = run(notebook(cell))

    assert done.status == "completed"
    assert b"characters left out of this page" in stored(done, "report.html")


# What is foreign -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text/html", "text/markdown", "markdown cell"])
@pytest.mark.parametrize("name", HOSTILE)
def test_foreign_html_can_do_nothing(name, kind):
    if kind == "markdown cell":
        cell = {"cell_type": "markdown", "id": "m", "source": HOSTILE[name], "metadata": {}}
    else:
        cell = code_cell(shown({kind: HOSTILE[name], "text/plain": "fallback"}))
    page = page_of(cell)

    assert "kept" in page
    assert page.count("<header") == 1
    assert_can_do_nothing(page)


def test_svg_is_a_picture_in_which_nothing_runs():
    page = page_of(code_cell(shown({"image/svg+xml": SVG})))

    assert "data:image/svg+xml;base64," in page
    assert_can_do_nothing(page)


@pytest.mark.parametrize(
    "data",
    [
        {"image/png": '"><script>alert(1)</script>'},
        {"image/png": "not base64"},
        {"text/html": "<script>alert(1)</script>"},
        {"application/x": "?"},
    ],
)
def test_what_cannot_be_shown_is_told(data):
    page = page_of(code_cell(shown(data)))

    assert "Not shown on this page" in page
    assert_can_do_nothing(page)


def test_every_word_of_the_record_is_text_on_the_page():
    evil = "</title><script>alert(1)</script>\" onload='x"
    file = {"id": evil, "path": evil, "outcome": evil, "read": evil, "version_id": evil, "detail": [evil]}
    page = report.build(
        body(
            status=evil,
            cause=evil,
            error={"type": evil, "message": evil, "cell_id": evil},
            function={"title": evil, "version": evil, "description": evil, "effects": [evil]},
            files=[file],
            inputs=[file],
            outputs=[file],
            platform_writes=[{"kind": "hash", "file_id": evil, "algorithm": evil, "value": evil}],
            payload={"function_params": {evil: evil}},
            redactions=[{"cell": evil, "where": evil}],
            cells=[{"cell_id": evil, "status": evil, "started": None, "ended": None}],
        ),
        node_of(code_cell(name=evil, number=evil)),
        [{"at": evil, "type": evil, "message": evil, "file_id": evil}],
        {"packages": [{"name": evil, "version": evil}]},
    ).decode()

    assert_can_do_nothing(page)


def test_characters_that_hide_or_turn_text_are_seen():
    page = page_of(code_cell(stream("a\u202egnp.exe\x00\x07\ud800")))

    assert "a[U+202E]gnp.exe␀␇[U+D800]" in page


@pytest.mark.parametrize(
    ("raw", "made"),
    [
        ("\x1b[31mr\x1b[0m.", '<span class="af1">r</span>.'),
        ("\x1b[1;92mb", '<span class="ab af10">b</span>'),
        ("\x1b[38;5;196mx\x1b[39my", '<span style="color:#ff0000">x</span>y'),
        ("\x1b[48;2;1;2;300mx", '<span style="background-color:#0102ff">x</span>'),
        ("\x1b]8;;http://x\x07<a>\x1b[2K\x1b", "&lt;a&gt;"),
        ("\x1b]never ended", "]never ended"),
    ],
)
def test_terminal_colours(raw, made):
    assert ansi(raw) == made


# Bounds ----------------------------------------------------------------------------------------------------------


def test_of_a_long_output_the_beginning_and_the_end_are_shown():
    page = page_of(code_cell(stream("first " + "word " * 100_000 + "last")))

    assert "first word" in page
    assert "word last" in page
    assert "characters left out of this page; executed.ipynb holds them." in page
    assert len(page) < 150_000


def test_a_large_notebook_makes_a_bounded_page_in_linear_time():
    many = [
        code_cell(*[stream("<" * 9_000)] * 5, source="x = 1\n" * 100, name=f"c{number}", number=number)
        for number in range(1_000)
    ]
    failed = code_cell(
        {"output_type": "error", "ename": "Late", "evalue": "", "traceback": ["it failed here"]}, name="z"
    )
    began = time.process_time()
    page = page_of(*many, failed, status="failed", error={"type": "Late", "message": "", "cell_id": "z"})

    assert time.process_time() - began < 10
    assert len(page) < 25_000_000
    assert re.search(r"[\d,]+ cells left out of this page", page)
    assert "it failed here" in page


def test_pictures_have_a_bound_of_their_own():
    large = base64.b64encode(bytes(6_000_000)).decode()
    page = page_of(*(code_cell(shown({"image/png": large}), name=f"c{number}") for number in range(3)))

    assert page.count("<img") == 1
    assert page.count("is left out; executed.ipynb holds it") == 2


def test_half_of_an_encoded_file_is_never_shown():
    packed = gzip.compress(random.Random(1).randbytes(150_000), mtime=0)
    for text in (base64.b64encode(packed).decode(), base64.encodebytes(packed).decode(), packed.hex()):
        page = report.build(body(), node_of(code_cell(stream(f"before {text} after"))), [], None)

        assert b"before" in page
        assert scan_document(SecretSet(), page, name="report.html").clean


@pytest.mark.parametrize(
    "raw", ["<div>" * 50_000, "<p>" * 30_000, "<b><p>" * 15_000, "[" * 20_000, "*a " * 6_000]
)
def test_deep_nesting_takes_no_more_time_than_it_should(raw):
    began = time.process_time()
    page_of(
        code_cell(shown({"text/html": raw})), {"cell_type": "markdown", "id": "m", "source": raw[:19_000]}
    )

    assert time.process_time() - began < 5


def test_very_many_cells_files_and_messages():
    states = [
        {
            "cell_id": f"c{number}",
            "status": "completed",
            "started": "2026-11-25T09:22:06+00:00",
            "ended": "2026-11-25T09:22:07+00:00",
        }
        for number in range(5_000)
    ]
    states[2_500]["status"] = "failed"
    inputs = [{"id": str(number), "path": f"/{number}", "read": "none"} for number in range(5_000)]
    said = [{"at": "2026-11-25T09:22:06.000+00:00", "type": "INFO", "message": "m", "file_id": None}] * 5_000
    page = report.build(body(cells=states, inputs=inputs), node_of(), said, None).decode()

    assert page.count('class="bar ') == 150
    assert page.count('class="bar bad"') == 1
    assert page.count("4,000 more rows") == 2
    assert "4,850 shorter cells" in page


# What there may be little of -------------------------------------------------------------------------------------


def test_a_lost_machine_makes_a_page():
    page = report.build(LOST, None, [], None).decode()

    assert "Could not be executed" in page
    assert "nothing was heard of it" in page
    assert "not known" in page
    assert "There is no notebook" in page
    assert "Timeline" not in page
    assert_can_do_nothing(page)


@pytest.mark.parametrize("status", ["completed", "failed", "errored", "timeout", "cancelled"])
def test_each_status_has_a_word_and_a_colour(status):
    page = page_of(status=status)

    assert f'class="outcome {status}"' in page
    assert re.search(r'class="badge"><span aria-hidden="true">.</span> \w+', page)


def test_the_same_evidence_makes_the_same_bytes_in_each_process():
    code = (
        "import hashlib; from test_report import *;"
        "print(hashlib.sha256(page_of(*(code_cell(shown({'text/html': each})) for each in HOSTILE.values())).encode()).hexdigest())"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=str(__file__).rsplit("/", 1)[0],
        ).stdout
        for _ in range(3)
    }

    assert len(made) == 1


# A real browser --------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a page from the disk; gives it with all that it asked for, said and did."""
    happened = []
    page = browser.new_page()
    page.on("request", lambda request: happened.append(request.url))
    page.on("console", lambda message: happened.append(message.text))
    page.on("pageerror", lambda error: happened.append(str(error)))
    page.on("dialog", lambda dialog: (happened.append("dialog"), dialog.dismiss()))

    def visit(made):
        path = tmp_path / "report.html"
        path.write_bytes(made)
        page.goto(path.as_uri())
        page.wait_for_timeout(300)
        return page, [each for each in happened if each != path.as_uri() and not each.startswith("data:")]

    yield visit
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("failed", [False, True])
def test_a_browser_shows_a_run_and_asks_for_nothing(failed, run, notebook, stored, visit):
    page, happened = visit(stored(run(notebook(*(CELLS if failed else CELLS[:1]))), "report.html"))

    assert happened == []
    assert page.locator("h1").count() == 1
    assert page.locator("h1").is_visible()
    assert page.locator("#timeline-picture").is_visible()
    assert page.locator(".badge").inner_text() == ("✗ Failed" if failed else "✓ Completed")
    assert page.evaluate("document.querySelector('.picture img').naturalWidth") == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
def test_a_browser_runs_and_loads_nothing_of_what_is_foreign(visit):
    cells = [code_cell(shown({"text/html": each}), name=name) for name, each in HOSTILE.items()]
    cells += [{"cell_type": "markdown", "id": f"m-{name}", "source": each} for name, each in HOSTILE.items()]
    cells.append(code_cell(shown({"image/svg+xml": SVG}), name="svg"))
    page, happened = visit(report.build(body(), node_of(*cells), [], None))

    assert happened == []
    assert page.locator("h1").is_visible()
    assert page.locator("#check").count() == 1


@pytest.fixture
def outside():
    """A server that a page might ask; gives its address and what it was asked for."""
    asked = []

    class Outside(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.browser
@pytest.mark.parametrize("policy", [True, False])
def test_the_policy_alone_would_hold(policy, visit, outside, monkeypatch):
    """Without the sanitiser the policy still lets nothing run or load; without both, all of it happens."""
    address, asked = outside
    monkeypatch.setattr("libsafe_nb.report.outputs.sanitised", lambda raw: (raw, []))
    if not policy:
        monkeypatch.setattr(report, "POLICY", "default-src * 'unsafe-inline'")
    hostile = [
        each.replace("http://outside.invalid", address) for name, each in HOSTILE.items() if name != "meta"
    ]
    cells = [code_cell(shown({"text/html": each})) for each in hostile]
    _, happened = visit(report.build(body(), node_of(*cells), [], None))

    assert ("dialog" in happened) != policy
    assert (asked == []) == policy


@pytest.mark.browser
def test_the_page_of_a_lost_machine_opens_too(visit):
    page, happened = visit(report.build(LOST, None, [], None))

    assert happened == []
    assert page.locator(".badge").is_visible()
