"""`check` finds each planted fault where it is, and nothing in the twin that is well."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import scrapbook
from click.testing import CliRunner
from expected_codes import EXPECTED
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from planted import BASH, KEY, LIBSAFE, PARAMETERS, PLANTED, REQUEST, function

from libsafe_nb import check, errors
from libsafe_nb.cli import cli
from libsafe_nb.redact import SecretSet
from libsafe_nb.secrets import Secret

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(
    path
    for module in (papermill, scrapbook)
    for path in (Path(module.__file__).parent / "tests" / "notebooks").rglob("*.ipynb")
)
MINE = "Zq7Lm2vXc9Rt4Bn8Ks1Wd6Yh3Pg5Jf0Tx4Ue"
SECRETS = SecretSet([Secret("key_user", MINE)])


def found(book, secrets=None):
    return check.examine(check.Examined("f.ipynb", json.loads(json.dumps(book)), secrets or SecretSet()))


def places(findings):
    return [(each.cell, each.line, each.code) for each in findings]


def told(*arguments, **changes):
    """What is found in a function with this work, or with what else is named."""
    return [str(each) for each in found(function(*arguments, **changes))]


# What is planted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_where_it_is(name, tmp_path):
    row = PLANTED[name]
    path = tmp_path / "f.ipynb"
    nbformat.write(function(**row.fault), path)

    told = check.check(path)

    assert places(told) == row.found, [str(each) for each in told]
    assert all(str(each).startswith(f"{path}:{each.cell or '-'}:{each.line}: LSN") for each in told)


@pytest.mark.parametrize("name", PLANTED)
def test_the_twin_without_it_finds_nothing(name):
    assert told(**PLANTED[name].twin) == []


def test_the_table_has_every_code():
    assert len(PLANTED) >= 40
    assert {code for row in PLANTED.values() for _, _, code in row.found} == {
        rule.code for rule in check.RULES
    }


# What is well ----------------------------------------------------------------------------------------------------


def name(path):
    return f"{next(each.name for each in path.parents if each.parent.name == 'site-packages')}-{path.stem}"


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_the_notebooks_of_papermill_have_the_codes_that_were_reviewed(path):
    assert " ".join(each.code for each in check.check(path)) == EXPECTED[name(path)]


def test_every_shipped_notebook_was_reviewed():
    assert set(map(name, SHIPPED)) == set(EXPECTED)


WELL = {
    "magics": "%matplotlib inline\nx = 1\n\n!echo it's {x}\nfiles = !ls \\\n  -l\nprint(files)\nx?\n%time y = 2",
    "a magic in a block": "for file in request.Files:\n    !echo {file.id}\n    %time print(1)",
    "a cell magic with Python in it": "%%time\nx = 1\nprint(x)",
    "a cell magic that binds": "%%capture out\nprint(1)",
    "a magic without its sign": "\ncd ../data\n",
    "a cell in bash": "%%bash\nif [ -e x ]; then (echo $x; fi",
    "a magic that looks like one in a text": "x = '''\n%matplotlib inline\n!ls\n'''\nprint(x)",
    "await at the top": "import asyncio\nawait asyncio.sleep(0)",
    "comprehensions": "a = [x for y in ((1, 2), (3,)) for x in y]\nb = {k: v for k, v in zip(a, a)}\nprint(b)",
    "walrus": "while (n := len(request.Files)) > 9:\n    print(n)\nprint(n, [m for i in (1, 2) if (m := i)], m)",
    "a class": "class A:\n    size = 1\n    other = size + 1\n    def f(self):\n        return A, self.later\nA().f()",
    "recursion": "def f(n):\n    return g(n - 1) if n else 0\n\ndef g(n):\n    return f(n)\n\nf(3)",
    "decorators": "import functools\n@functools.cache\ndef f(a, *b, c=1, **d):\n    return a, b, c, d\nf(1)",
    "global": "def f():\n    global conf\n    conf = 1\n\nf()\nprint(conf)",
    "a name that is tried": "try:\n    print(gone)\nexcept NameError:\n    gone = 1",
    "names that come from elsewhere": "from os.path import *\nprint(join('a', 'b'))",
    "match": "match request.Files:\n    case [first, *rest]:\n        print(first, rest)\n    case {'a': b, **c}:\n        print(b, c)",
    "lambda": "key = lambda v, /, w=1: v + w\nprint(sorted([1], key=key))",
    "an earlier output": "1\n_\nprint(_, _3, In, Out, display)",
    "another Request": "from urllib.request import Request as R, urlopen\nR('https://x')",
    "a REST call and a pattern": "import re\nprint('/job/1', '/', re.match(r'\\\\d+\\\\w', 'x'), 'a:/b', '%H:%M')",
    "a path in a container": "File.upload('1', '/media/film.mov', b'')\nFile.get_by_path('1', f'/home/{1}/x')",
    "patterns": "import re\nprint(re.findall(r'd:\\s*(.+)', 'x'), re.compile(r'[a-z]:\\w+'))",
    "an address": "base = 'https://x'\nprint(base + '/home/index.html', f'{base}/users/1', base + '/opt/x')",
    "a storage of its own": "class S:\n    def open(self, p):\n        return p\nstorage = S()\nstorage.open('/letters/1.txt')",
    "a cell in what no one knows": "%%timer --of it\nx = 1",
    "an interpreter": "!/usr/bin/env bash x.sh",
    "a docstring": "def f():\n    '/home/ann/x is where it was'\n    return 1\nf()",
    "everything of the entries": "print(dict(request.function_params))",
    "a submodule": "import os.path, xml.etree.ElementTree as ET\nprint(os, ET)",
}  # fmt: skip


@pytest.mark.parametrize("of", WELL)
def test_what_is_well_finds_nothing(of):
    assert told(WELL[of]) == []


@pytest.mark.parametrize(
    "use",
    [
        "table = request.Files\nprint(table.query('n > @size'))",
        "!convert -resize {size}",
        "%%sql\nselect * from files where n > :size",
        "await print(size)",
        "size: int\nprint(size)",
        "def f(n=size):\n    return n",
        "size += 1",
    ],
)
def test_a_parameter_may_be_read_in_many_ways(use):
    assert told(use, parameters=f"{PARAMETERS}\nsize = 1") == []


ENDED = {
    "by each branch": "if request.Files:\n    request.job_end(True)\nelif 1:\n    request.job_end(False)\nelse:\n    request.job_end(True)",
    "in the end, whatever came": "try:\n    print(1)\nfinally:\n    request.job_end(True)",
    "before it leaves": "import sys\ntry:\n    if request.Files:\n        sys.exit(1)\nfinally:\n    request.job_end(False)",
    "by a handler that catches the exit": "try:\n    raise SystemExit\nexcept SystemExit:\n    request.job_end(False)\nrequest.job_end(True)",
    "where it is run": "if __name__ == '__main__':\n    request.job_end(True)",
    "by opposite tests around a loop": "n = request.Files\nif not n:\n    request.job_end(False)\nif n:\n    for f in n:\n        if f:\n            continue\n        print(f)\nif n:\n    request.job_end(True)",
    "or it raises": "if not request.Files:\n    raise ValueError('no files')\nrequest.job_end(True)",
    "by a function": "def end(ok):\n    request.job_end(ok)\n\ndef main():\n    if request.Files:\n        return end(True)\n    end(False)\nmain()",
    "by a method": "class Job:\n    def run(self):\n        request.job_end(True)\nJob().run()",
    "by opposite tests": "n = 3\nif n > 2:\n    request.job_end(False)\nprint(n)\nif not n > 2:\n    request.job_end(True)",
    "by an expression": "request.job_end(bool(request.Files))",
    "out of an endless loop": "while True:\n    if request.Files:\n        request.job_end(True)\n        break",
    "in a match": "match len(request.Files):\n    case 0:\n        request.job_end(False)\n    case _:\n        request.job_end(True)",
    "at exit": "import atexit\natexit.register(request.job_end, True)",
    "by another's code": "import my_library  # noqa: LSN013\nmy_library.finish(request)",
    "by the command": "!libsafe-nb job end",
    "asynchronously": "import asyncio\nasync def main():\n    request.job_end(True)\nawait main()",
    "in a with": "import contextlib\nwith contextlib.suppress(OSError):\n    print(1)\nrequest.job_end(True)",
    "by two, of which the first counts": "if not request.Files:\n    request.job_end(False)\nrequest.job_end(True)",
}  # fmt: skip


@pytest.mark.parametrize("how", ENDED)
def test_a_job_that_is_ended_on_every_way_finds_nothing(how):
    assert told(end=ENDED[how]) == []


NOT_ENDED = {
    "a test that changed": ("n = 3\nif n:\n    request.job_end(True)\nn = 0\nif not n:\n    request.job_end(False)", 2),
    "suppressed": ("import contextlib\nwith contextlib.suppress(OSError):\n    print(1)\n    request.job_end(True)", 2),
    "a case that is none": ("match 1:\n    case 1:\n        request.job_end(True)", 1),
    "an exit in a function": ("import os\ndef stop():\n    os._exit(1)\nif request.Files:\n    stop()\nrequest.job_end(True)", 3),
    "a function that is not called": ("def end():\n    request.job_end(True)", None),
    "and": ("request.Files and request.job_end(True)", None),
}  # fmt: skip


@pytest.mark.parametrize("how", NOT_ENDED)
def test_a_way_past_the_end_is_found(how):
    source, line = NOT_ENDED[how]
    (only,) = found(function(end=source))

    assert only.code == "LSN015"
    assert line is None or (only.cell, only.line) == (5, line)


def test_a_function_that_never_ends_its_job_because_it_has_no_request_is_well():
    assert told(request="import json\nprint(json.dumps(json_sample))", work="print(1)", end="print(2)") == []


def test_lines_stay_where_they_are_behind_magics():
    work = "\n\n!echo it's \\\n  one\nx = %time 1\n%%timeit?\n\nfiles = !ls (\nprint(gone)\n"

    assert places(found(function(work))) == [(4, 9, "LSN012")]


def test_an_expected_error_is_none():
    assert told("x = (", work_tags=["raises-exception"]) == []


# Switched off ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "codes"),
    [
        ("print(gone)  # noqa", []),
        ("print(gone)  # noqa: LSN012", []),
        ("print(gone)  # NOQA: F821,LSN012 as it is", []),
        ("print(gone)  # noqa: LSN010", ["LSN012"]),
        ("# libsafe-nb: noqa: LSN012, LSN010\nprint(gone)\nopen('/home/a/b')", []),
        ("# libsafe-nb: noqa: LSN012\nopen('/home/a/b')", ["LSN010"]),
        ("x = '''/mnt/a/b\n'''  # noqa: LSN010\nprint(x)", []),
        ("!pip install x  # noqa: LSN016", []),
        ("%%bash\npip install x  # noqa: LSN016", []),
        (f"key_user = '{KEY}'  # noqa: LSN001", ["LSN001"]),
        (f"# libsafe-nb: noqa: LSN001\nkey_user = '{KEY}'  # noqa", ["LSN001"]),
    ],
)
def test_a_finding_is_switched_off_on_its_line_or_for_the_notebook_and_a_key_never(work, codes):
    assert [each.code for each in found(function(work))] == codes


def test_what_belongs_to_no_cell_is_switched_off_as_well():
    assert [each.code for each in found(function(libsafe=None))] == ["LSN020"]
    assert told("# libsafe-nb: noqa: LSN020", libsafe=None) == []


# Whatever there is -----------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        PARAMETERS,
        REQUEST,
        "request.job_end(True)",
        "if x:",
        "    request.job_init()",
        "try:\n    import yaml\nfinally:\n    sys.exit(1)",
        "%%bash",
        "!pip install x",
        "%time",
        "x = !ls '",
        "def f(a, b=c):\n    global d\n    return d",
        "class A(f()): pass",
        "[x async for x in y]",
        "open('/home/a')",
        "while True:\n    break",
        "lambda: (yield)",
        f"key_user = '{KEY}'",
        f"key_user = {KEY}",
        f"import {KEY}.x",
        f"from {MINE} import y",
        f"open('/home/{MINE}')",
        f"{MINE}: int = '{MINE}'",
        f"request.function_params['{MINE}']",
        "# libsafe-nb: noqa: LSN009",
        "\ud800",
        "\x00",
        "(" * 300,
        "-" * 3000 + "1",
        "+1" * 3000,
        "x = 1 # noqa: " + "9" * 50,
    ]
)
CELLS = st.lists(
    st.builds(
        lambda pieces, tags, kind, count: {
            "cell_type": kind,
            "id": "x",
            "metadata": {"tags": tags},
            "source": "\n".join(pieces),
            **({"execution_count": count, "outputs": []} if kind == "code" else {}),
        },
        st.lists(PIECES | st.text(max_size=20), max_size=6),
        st.sampled_from([[], ["parameters"], ["injected-parameters"]]),
        st.sampled_from(["code", "code", "code", "markdown", "raw"]),
        st.none() | st.integers(0, 9),
    ),
    max_size=5,
)
JSON = st.recursive(st.none() | st.text(max_size=5) | st.integers(), lambda each: st.lists(each, max_size=2))


@settings(max_examples=75, deadline=None)
@given(CELLS, JSON, st.sampled_from(["python", "R", "bash"]))
def test_whatever_a_notebook_holds_is_checked_and_no_key_is_told(cells, libsafe, language):
    metadata = {"kernelspec": {"name": "x", "language": language, "display_name": "x"}, "libsafe": libsafe}
    book = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}

    printed = "\n".join(map(str, check.examine(check.Examined("f.ipynb", book, SECRETS))))

    assert KEY not in printed
    assert MINE not in printed
    printed.encode()


def deep(levels):
    found = "x"
    for _ in range(levels):
        found = [found]
    return found


JUNK = st.sampled_from([
    None, True, -1, 1.5, 10**30, "", "parameters", "%%bash\nls", "\ud800", "\x00", "x = (", [], {}, [None], [{}],
    {"a": 1}, {"name": [1]}, [["parameters"]], [{"cell_type": "code"}], *map(deep, (60, 150, 300, 480)),
])  # fmt: skip


def parts(value, depth=0):
    """Where the parts of a JSON stand: what holds each, and its name or place in that."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inside if depth < 9 else ():
        yield value, name
        yield from parts(part, depth + 1)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_notebook_is_checked_or_refused(tmp_path_factory, data):
    book = json.loads(json.dumps(function(**PLANTED[data.draw(st.sampled_from(sorted(PLANTED)))].fault)))
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(parts(book))
        if places:
            holder, name = places[data.draw(st.integers(0, len(places) - 1))]
            holder[name] = copy.deepcopy(data.draw(JUNK))
    content = json.dumps(book).encode()
    path = tmp_path_factory.getbasetemp() / "damaged.ipynb"
    path.write_bytes(content[: data.draw(st.integers(0, 5 * len(content)))])

    try:
        found = check.check(path)
    except errors.NotebookError as exc:
        assert str(path) in str(exc)
    else:
        assert isinstance(json.dumps([each.to_json() for each in found]), str)
        "\n".join(map(str, found)).encode()


CALLS = "".join(f"def f{n}():\n    f{n - 1}()\n    f{n - 1}()\n" for n in range(1, 60))
HOSTILE = {
    "ways without number": (f"def f0():\n    request.job_end(True)\n{CALLS}f59()\nprint(gone)", ["LSN012"]),
    "loops in loops": ("\n".join(" " * n + "for a in [1]:" for n in range(18)) + f"\n{' ' * 18}request.job_end(a)", []),
    "calls in a chain": ("".join(f"def f{n}():\n    f{n + 1}()\n" for n in range(2000)) + "f0()\n" * 2000, ["LSN012"]),
    "unary minus": ("-" * 3000 + "1", []),
    "a sum": ("1" + "+1" * 3000, []),
    "attributes": ("x" + ".a" * 100_000, []),
    "brackets": ("(" * 300, ["LSN009"]),
    "lambdas": ("lambda:" * 3000 + "1", []),
    "a list of 6 MB": ("x = [" + "1," * 3_000_000 + "]", []),
    "a text of 10 MB": ("x = '" + "a" * 10_000_000 + "'", []),
    "commands": ("x = 1\n!\n" * 20_000, []),
    "a zero byte": ("\x00", ["LSN009"]),
    "half a character": ("print('\ud800')", ["LSN009"]),
    "blanks": (" " * 1_000_000, []),
    "signs": ("%" * 100_000, []),
}  # fmt: skip


@pytest.mark.parametrize("of", HOSTILE)
def test_what_is_made_to_break_it_does_not(of, tmp_path):
    work, codes = HOSTILE[of]
    path = tmp_path / "f.ipynb"
    path.write_text(json.dumps(function(work)))

    assert [each.code for each in check.check(path)] == codes


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 99, b"[" * 200_000, b"{", json.dumps(deep(900)).encode()], ids=len
)
def test_what_is_no_notebook_is_bad_usage_and_the_others_are_checked(content, tmp_path):
    broken, well = tmp_path / "broken.ipynb", tmp_path / "f.ipynb"
    broken.write_bytes(content)
    nbformat.write(function("print(gone)"), well)
    result = CliRunner().invoke(cli, ["check", str(broken), str(well)])

    assert result.exit_code == 2
    assert result.stdout.startswith(f"{well}:4:1: LSN012 ")
    assert result.stderr.startswith(f"libsafe-nb: {broken}: expected a Jupyter notebook")


# Kept as Python text ---------------------------------------------------------------------------------------------

PERCENT = f"""# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   libsafe: {json.dumps(LIBSAFE)}
# ---

# %% [markdown]
# # A title
#
# and a text

# %% tags=["parameters"]
{PARAMETERS}

# %%

# %%
# !pip install lxml
# %time x = 1

text = '''
# %%
'''
print(gone)
print(lost)  # noqa: LSN012

# %% [markdown]
'''
A note
'''

# %%
open("/home/ann/x")
# %% password="{KEY}"
y = 1
"""


def test_of_a_notebook_kept_as_text_the_lines_are_those_of_the_file(tmp_path):
    path = tmp_path / "f.py"
    path.write_text(PERCENT)
    lines = PERCENT.splitlines()

    told = check.check(path)

    assert [(each.cell, each.code, lines[each.line - 1]) for each in told] == [
        (4, "LSN012", "print(gone)"),
        (4, "LSN016", "# !pip install lxml"),
        (6, "LSN010", 'open("/home/ann/x")'),
        (7, "LSN003", f'# %% password="{KEY}"'),
    ]


# In pre-commit ---------------------------------------------------------------------------------------------------


def test_it_is_a_hook_of_pre_commit_as_the_docs_show_it(tmp_path):
    """In a real repository: the commit with a fault is refused, that without is not, and all files are asked."""
    page = (ROOT / "docs" / "check.md").read_text()
    config = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / ".pre-commit-config.yaml").write_text(config)
    for number in range(30):
        nbformat.write(function(), tmp_path / f"f{number}.ipynb")
    nbformat.write(function("print(gone)"), tmp_path / "bad one.ipynb")
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "PATH": places,
        "HOME": str(tmp_path),
        "PRE_COMMIT_HOME": str(tmp_path / ".cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "PRE_COMMIT_COLOR": "never",
    }

    def call(*command):
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    call("git", "init", "-q")
    assert call("pre-commit", "install").returncode == 0
    call("git", "add", "*.ipynb", ".pre-commit-config.yaml")

    refused = call("git", *who, "commit", "-m", "first")
    assert refused.returncode == 1
    assert (
        "bad one.ipynb:4:1: LSN012 gone is used and no cell above defines it"
        in refused.stdout + refused.stderr
    )

    nbformat.write(function(), tmp_path / "bad one.ipynb")
    call("git", "add", "bad one.ipynb")
    done = call("git", *who, "commit", "-m", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert call("pre-commit", "run", "--all-files").returncode == 0


def test_a_plain_notebook_of_another_language_is_asked_for_little():
    book = new_notebook(cells=[new_code_cell("ls", id="a")], metadata={"kernelspec": BASH})

    assert found(book) == []
    book.cells.append(new_code_cell("libsafe-nb job end", id="b"))
    assert [each.code for each in found(book)] == ["LSN020"]
    assert told("ls", kernel=BASH, libsafe=LIBSAFE) == []
