"""A plain handler runs unmodified, and leaves the evidence of any run."""

import hashlib
import json

import nbformat
import pytest
from handler_samples import NEWER, OLDER
from test_run import REAL, command

from libsafe_nb import errors, handlers, notebook
from libsafe_nb.check import check
from libsafe_nb.compat import called
from libsafe_nb.replay import replay
from libsafe_nb.upload import upload
from libsafe_nb.verifying import verify


@pytest.fixture
def handler(tmp_path):
    def handler(source, name="relate.py"):
        path = tmp_path / name
        path.write_text(source)
        return path

    return handler


@pytest.fixture
def letter(connection, container):
    connection.storage.put(container, "/letter.txt", b"Dear archive")
    return connection.client.file_by_path(container, "letter.txt")["id"]


def test_a_handler_of_the_newer_layout_runs_as_it_is(handler, run, letter, connection, stored):
    path = handler(NEWER)
    done = run(path, files=["/letter.txt"], params={"record": "12"})

    assert done.status == "completed", done.error
    assert done.scraps["response"] == {"status_code": 200, "content_type": "text/plain", "body": "related"}
    assert connection.client.metadata(letter) == [
        {"iecode": "relation", "value": ["aspace:/repositories/2/archival_objects/12"]}
    ]
    messages = list(connection.client.messages(done.job))
    assert [each["message"] for each in messages if each["file_id"] == letter] == ["related"]
    assert [each["message"] for each in messages if each["type"] == "WARNING"] == [
        f'no metadata yet {{"file": "{letter}"}}'
    ]
    record = json.loads(stored(done, "record.json"))
    assert record["function"]["name"] == "relate.py"
    assert record["function"]["notebook_sha256"] == hashlib.sha256(NEWER.encode()).hexdigest()
    executed = nbformat.reads(stored(done, "executed.ipynb").decode(), as_version=4)
    of_the_author = [cell for cell in executed.cells if "handler" in cell.metadata.get("tags", [])]
    assert [cell.source for cell in of_the_author] == [NEWER]
    assert "INFO called with" in executed.cells[-1].outputs[0].text


def test_its_evidence_is_verified_and_replayed_as_any(handler, run, letter, platform):
    logging = OLDER.replace("request.job_init()", "context.logger.info('begun'); request.job_init()")
    done = run(handler(logging), files=[letter])
    report = verify(done.evidence, settings=platform.settings)
    again = replay(done.evidence, settings=platform.settings)

    assert report.exit_code == 0, report.checks
    assert again.exit_code == 0, again


def test_a_handler_of_the_older_layout_runs_as_it_is(handler, run, letter, connection):
    done = run(handler(OLDER), files=[letter])

    assert done.status == "completed", done.error
    assert connection.client.file(letter)["hashes"]["md5"] == hashlib.md5(b"Dear archive").hexdigest()
    assert done.scraps == {}


def test_the_context_and_event_are_nuclios(handler, run, stored):
    source = """
from __future__ import annotations
import multiprocessing, pickle, nuclio_sdk

def init_context(context):
    context.user_data.began = True

def double(number):
    return 2 * number

async def handler(context, event: nuclio_sdk.Event):
    assert isinstance(event.body, bytes) and event.size == len(event.body)
    assert vars(nuclio_sdk.Event()).keys() <= vars(event).keys()
    assert {name for name in dir(nuclio_sdk.Logger) if name[0] != "_"} - {"set_handler"} <= set(dir(context.logger))
    assert event.get_header("X-Absent") is None and event.trigger.kind == "http"
    context.logger.bind(run=1)
    context.logger.error("%d too many", "x")
    context.logger.debug_with("shown", at=2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        numbers = pool.map(double, [1, 2])
    assert pickle.loads(pickle.dumps(double)) is double and __name__ == "shapes"
    return nuclio_sdk.Response(body={"began": context.user_data.began, "numbers": numbers}, status_code=201)
"""
    done = run(handler(source, "shapes.py"))

    assert done.status == "completed", done.error
    assert done.scraps["response"]["status_code"] == 201
    assert json.loads(done.scraps["response"]["body"]) == {"began": True, "numbers": [2, 4]}
    printed = stored(done, "executed.ipynb").decode()
    assert "DEBUG shown" in printed
    assert "ERROR %d too many ('x',)" in printed


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("return context.Response(body='no', status_code=500)", "failed"),
        ("return 404, {'msg': 'no such'}", "failed"),
        ("raise ValueError('x')", "failed"),
        ("return (part for part in ('a', b'b'))", "completed"),
        ("return context.Response(body=(part for part in ('a', bytearray(b'b'))))", "completed"),
        ("async def later(): return 'ab'\n    return later()", "completed"),
        ("async def parts():\n        yield 'a'\n        yield 'b'\n    return parts()", "completed"),
        ("return 'no status', 'ab'", "failed"),
        ("return context.Response(body='ab', status_code=None)", "failed"),
        ("return '404', None", "failed"),
    ],
)
def test_what_it_answers_counts(handler, run, body, status):
    done = run(handler(f"def handler(context, event):\n    {body}\n"))

    assert done.status == status
    if status == "completed":
        assert done.scraps["response"]["body"] == "ab"


def test_an_answer_of_any_shape_is_told_as_text_and_in_part():
    endless = (f"{number:09},".encode() for number in range(100_000))
    streamed = called.described(endless)
    assert len(streamed["body"]) < called.LONGEST + 50
    assert streamed["body"].endswith("… (1000000 characters)")
    assert called.described("x" * (called.LONGEST + 1))["body"].endswith(
        f"… ({called.LONGEST + 1} characters)"
    )
    assert called.described(called.Response(body=None, status_code=204))["body"] == ""
    assert called.described((201, b"\xff"))["body"] == "\ufffd"
    assert called.described(("a", "b", "c"))["body"] == "('a', 'b', 'c')"
    for status in ("no", None, float("nan"), float("inf"), [], "x" * 10**6):
        with pytest.raises(TypeError, match="returned the status") as caught:
            called.described((status, ""))
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        ("async def init_context(context): context.user_data.n = 1", "completed"),
        ("init_context = lambda context: setattr(context.user_data, 'n', 1)", "completed"),
        ("def init_context(context): raise RuntimeError('never ready')", "failed"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_it_begins_as_on_nuclio(handler, run, begin, status, kind):
    """In a file whose name is a module's, which it does not hide."""
    done = run(
        handler(
            f"import json\n{begin}\n{kind} handler(c, e):\n    return json.dumps(c.user_data.n)\n", "json.py"
        )
    )

    assert done.status == status, done.error
    if status == "completed":
        assert done.scraps["response"]["body"] == "1"
    else:
        assert done.error["message"].endswith("never ready")


def test_a_literal_of_its_own_is_left_alone(handler, run):
    done = run(handler("json_sample = {'a': 1}\ndef handler(context, event):\n    return json_sample\n"))

    assert json.loads(done.scraps["response"]["body"])["a"] == 1


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("def handler(context, event):\n    pass\n", True),
        ("async def handler(c, e, more=1):\n    pass\n", True),
        ("def handler(*all):\n    pass\n", True),
        ("def handler(event):\n    pass\n", False),
        ("def handler(a, b, c):\n    pass\n", False),
        ("class A:\n    def handler(self, event): pass\n", False),
        ("def main(context, event): pass\nhandler = main\n", True),
        ("def main(event): pass\nhandler = main\n", False),
        ("class Main:\n    def __call__(self, context, event): pass\nhandler = Main()\n", True),
        ("handler = lambda context, event: None\n", True),
        ("try:\n    x\nexcept NameError:\n    def handler(context, event): pass\n", True),
        ("if __name__ == '__main__':\n    def handler(context, event): pass\n", False),
        ("import logging\nhandler = logging.StreamHandler()\n", False),
        ("def handler(context, event) pass\n", False),
        ("\x00", False),
    ],
)
def test_which_files_are_handlers(source, is_one):
    assert handlers.is_handler(source.encode()) is is_one


def test_cells_win_over_a_handler_and_a_handler_over_a_script(handler, platform, container):
    cells = notebook.parse(b"# %%\ndef handler(context, event): pass\n# %%\n1\n", name="a.py")
    assert (cells.is_handler, len(cells.node.cells)) == (False, 2)

    path = handler("def handler(context, event):\n    print('called')\n")
    done = command(platform, "exec", str(path))
    assert done.returncode == 2
    assert f"libsafe-nb run {path}" in done.stderr
    path.write_text(path.read_text() + "print('a script')\n")
    assert command(platform, "exec", str(path), "--container", container).returncode == 0


def test_it_is_checked_and_uploaded_as_a_notebook(handler, platform, connection, container):
    path = handler(NEWER)
    assert check(path) == []
    upload([path], container=container, settings=platform.settings)
    path.write_text(NEWER + f"\napi_key = '{REAL}'\n")

    assert [each.code for each in check(path)] == ["LSN001"]
    with pytest.raises(errors.NotebookError, match="LSN001"):
        upload([path], container=container, settings=platform.settings)
    assert connection.storage.get(container, "/relate.py") == NEWER.encode()


def test_what_is_no_handler_is_told():
    for source in (b"x = 1\n", b"def handler(context", b"\xff"):
        with pytest.raises(errors.NotebookError, match=r"a\.py: expected"):
            handlers.as_notebook(source, "a.py")
