"""
Notebooks with a planted fault, as a table: what differs from a function that is well, and what `check` finds then.

A function that is well has these cells:

    1  a title                     2  the parameters cell
    3  imports, Request, job_init  4  its work
    5  job_end

Each row gives the work, or whatever else is named, with the fault and without it; the twin without it finds nothing.
"""

from dataclasses import dataclass, field

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

KEY = "f7Gh39sLqP0zXvB2kW5n"

PARAMETERS = """json_sample = {
    "api": {"url": "", "key_user": "", "key_root": ""},
    "function_data": {"container": {"id": "1"}, "files": {"ids": [], "paths": []}, "job": {"id": ""}},
    "function_params": {},
}"""

REQUEST = """import json

from libnova.com.Api import File, JobMessage
from libnova.com.Nuclio.Request import Request

request = Request(None, type("Event", (), {"body": json.dumps(json_sample)})())
request.job_init()"""

WORK = "for file in request.Files:\n    request.log(file.fullpath)"
END = "request.job_end(True)"

LIBSAFE = {
    "title": "T",
    "description": "D",
    "version": "1",
    "author": "A",
    "license": "NOASSERTION",
    "effects": [],
}
PYTHON = {"name": "python3", "language": "python", "display_name": "Python 3"}
BASH = {"name": "bash", "language": "bash", "display_name": "Bash"}
R = {"name": "ir", "language": "R", "display_name": "R"}


def function(
    work=WORK,
    *,
    parameters=PARAMETERS,
    request=REQUEST,
    end=END,
    tags=("parameters",),
    work_tags=(),
    counts=(None, None, None, None),
    outputs=(),
    libsafe=LIBSAFE,
    kernel=PYTHON,
):
    """A notebook as the module's docstring shows it."""
    cells = [new_code_cell(source) for source in (parameters, request, work, end)]
    for cell, count in zip(cells, counts, strict=True):
        cell["execution_count"] = count
    cells[0].metadata["tags"], cells[2].metadata["tags"] = list(tags), list(work_tags)
    cells[2]["outputs"] = list(outputs)
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    metadata = {"kernelspec": kernel} | ({"libsafe": libsafe} if libsafe is not None else {})
    return new_notebook(cells=[new_markdown_cell("# T", id="title"), *cells], metadata=metadata)


@dataclass(frozen=True)
class Planted:
    """One row: what `function` is given with the fault, what without it, and cell, line and code of what is found."""

    fault: dict
    twin: dict
    found: list = field(default_factory=list)


def work(fault, twin, *found):
    return Planted({"work": fault}, {"work": twin}, list(found))


def end(fault, twin, *found):
    return Planted({"end": fault}, {"end": twin}, list(found))


def typed(fault, twin, *found, use="print(size)"):
    """Further lines of the parameters cell; they begin on its line 6."""
    return Planted(
        {"parameters": f"{PARAMETERS}\n{fault}", "work": use},
        {"parameters": f"{PARAMETERS}\n{twin}", "work": use},
        list(found),
    )


def entry(entries, fault, twin, *found):
    """The payload's `function_params`, on its line 4."""
    parameters = PARAMETERS.replace('"function_params": {}', f'"function_params": {entries}')
    return Planted(
        {"parameters": parameters, "work": fault}, {"parameters": parameters, "work": twin}, list(found)
    )


PLANTED = {
    # Keys
    "key in source": work(f"key_user = '{KEY}'", "key_user = '<your key>'", (4, 1, "LSN001")),
    "key in an output": Planted(
        {"outputs": [new_output("stream", text=f"x\ntoken = '{KEY}'\n")]},
        {"outputs": [new_output("stream", text="x\ntoken = '[redacted:key_user]'\n")]},
        [(4, 2, "LSN002")],
    ),
    "key in metadata": Planted(
        {"libsafe": {**LIBSAFE, "password": KEY}}, {"libsafe": LIBSAFE}, [(None, 1, "LSN003")]
    ),
    # The description
    "no author": Planted({"libsafe": {**LIBSAFE, "author": ""}}, {}, [(None, 1, "LSN004")]),
    "requirements in one text": Planted(
        {"libsafe": {**LIBSAFE, "requirements": "pillow"}},
        {"libsafe": {**LIBSAFE, "requirements": ["pillow>=10"]}},
        [(None, 1, "LSN004")],
    ),
    "a requirement that is none": Planted(
        {"libsafe": {**LIBSAFE, "requirements": ["pillow", "lots of it"]}},
        {"libsafe": {**LIBSAFE, "requirements": ["pillow", "lxml; python_version > '3'"]}},
        [(None, 1, "LSN004")],
    ),
    "no description": Planted({"libsafe": None}, {}, [(None, 1, "LSN020")]),
    # The parameters cell
    "parameters cell not tagged": Planted({"tags": ()}, {}, [(2, 1, "LSN005")]),
    "no parameters cell": Planted(
        {"tags": (), "parameters": "1"}, {"parameters": PARAMETERS}, [(None, 1, "LSN005")]
    ),
    "two parameters cells": Planted(
        {"work_tags": ["parameters"]}, {"work_tags": ["other"]}, [(4, 1, "LSN006")]
    ),
    "no payload in it": Planted({"parameters": "size = 1", "work": "print(size)"}, {}, [(2, 1, "LSN007")]),
    "a payload that is computed": Planted(
        {"parameters": "import json\njson_sample = json.loads(open('payload.json').read())"},
        {},
        [(2, 2, "LSN007")],
    ),
    "two payloads": typed("payload = {}", "size = 1", (2, 6, "LSN007"), use="print(globals())"),
    "a text for a number": typed("size: int = '3'", "size: int = 3", (2, 6, "LSN008")),
    "None for a number": typed("size: int = None", "size: int | None = None", (2, 6, "LSN008")),
    "a number that is none of the choices": typed(
        "from typing import Literal\nsize: Literal[1, 2] = 3",
        "from typing import Literal\nsize: Literal[1, 2] = 2",
        (2, 7, "LSN008"),
    ),
    "a default that is computed": typed("size = 3 * 2", "size = -6", (2, 6, "LSN008")),
    "other work in the parameters cell": typed("size = 3\nprint(size)", "size = 3\n'a note'", (2, 7, "LSN008")),
    # Syntax
    "no Python": work("if True:\n    x = (1", "if True:\n    x = (1)", (4, 2, "LSN009")),
    "return outside a function": work("1\nreturn 2", "1\n2", (4, 2, "LSN009")),
    # Paths
    "a path of a home": work(
        "text = open('/home/ann/data.csv').read()",
        "text = open('data.csv').read()",
        (4, 1, "LSN010"),
    ),
    "a path of Windows": work("p = r'C:\\data\\in.csv'", "p = r'data\\in.csv'", (4, 1, "LSN010")),
    "a path in an f-string and one in a command": work(
        "name = 'x'\np = f'/mnt/share/{name}.csv'\n!cp /Users/ann/x.csv .",
        "name = 'x'\np = f'{name}/mnt/share.csv'\n!cp Users/ann/x.csv .",
        (4, 2, "LSN010"),
        (4, 3, "LSN010"),
    ),
    "a path that is opened": work(
        "from pathlib import Path\nPath('/data/in').mkdir()",
        "File.upload('1', '/data/in.txt', b'')",
        (4, 2, "LSN010"),
    ),
    # Order
    "cells run out of order": Planted(
        {"counts": (1, 2, 7, 4)}, {"counts": (1, 2, 4, 7)}, [(5, 1, "LSN011")]
    ),
    "used before the cell that defines it": Planted(
        {"work": "print(total)", "end": "total = 1\nrequest.job_end(True)"},
        {"work": "total = 1", "end": "print(total)\nrequest.job_end(True)"},
        [(4, 1, "LSN012")],
    ),
    "defined by no cell": work("x = 1\nprint(x + gone)", "x = gone = 1\nprint(x + gone)", (4, 2, "LSN012")),
    "called before its names are there": Planted(
        {"work": "def f():\n    return total\n\nf()", "end": "total = 1\nrequest.job_end(True)"},
        {"work": "def f():\n    return total\n", "end": "total = 1\nf()\nrequest.job_end(True)"},
        [(4, 4, "LSN012")],
    ),
    "the file of a module": work("print(__file__)", "print(__name__)", (4, 1, "LSN012")),
    # Imports
    "an import that is not declared": Planted(
        {"work": "import os\nfrom PIL import Image"},
        {"work": "import os\nfrom PIL import Image", "libsafe": {**LIBSAFE, "requirements": ["Pillow>=10"]}},
        [(4, 2, "LSN013")],
    ),
    "an import in a function, and one that is tried": work(
        "def f():\n    import yaml\n    return yaml",
        "try:\n    import yaml\nexcept ImportError:\n    yaml = None",
        (4, 2, "LSN013"),
    ),
    # The job
    "never begun": Planted(
        {"request": REQUEST.replace("\nrequest.job_init()", "")}, {}, [(3, 6, "LSN014")]
    ),
    "begun on one way": Planted(
        {"request": REQUEST.replace("request.job_init()", "if request.Files:\n    request.job_init()")},
        {},
        [(5, 1, "LSN014")],
    ),
    "never ended": end("print('done')", END, (3, 6, "LSN015")),
    "ended on one branch": end(
        "failed = 0\nif not failed:\n    request.job_end(True)",
        "failed = 0\nif not failed:\n    request.job_end(True)\nif failed:\n    request.job_end(False)",
        (5, 2, "LSN015"),
    ),
    "an early exit": work(
        "import sys\nif not request.Files:\n    sys.exit(0)",
        "import sys\nif not request.Files:\n    request.job_end(False)\n    sys.exit(0)",
        (4, 3, "LSN015"),
    ),
    "an early return": end(
        "def main():\n    if not request.Files:\n        return\n    request.job_end(True)\n\nmain()",
        "def main():\n    if not request.Files:\n        return\n    print(1)\n\nmain()\nrequest.job_end(True)",
        (5, 3, "LSN015"),
    ),
    "an exception that is swallowed": end(
        "try:\n    print(1)\n    request.job_end(True)\nexcept OSError as exc:\n    print(exc)",
        "try:\n    print(1)\n    request.job_end(True)\nexcept OSError as exc:\n    request.job_end(False)",
        (5, 4, "LSN015"),
    ),
    "ended in a loop over files": end(
        "for file in request.Files:\n    request.job_end(True)",
        "for file in request.Files:\n    print(file)\nelse:\n    request.job_end(True)",
        (5, 1, "LSN015"),
    ),
    # Installing
    "pip by a magic": work("1\n%pip install -q lxml", "1\n%pip list", (4, 2, "LSN016")),
    "pip by the shell": work("!pip3 install lxml", "!pip3 list", (4, 1, "LSN016")),
    "conda in a bash cell": work(
        "%%bash\nls\nconda install -y lxml", "%%bash\nls\n# conda install -y lxml", (4, 3, "LSN016")
    ),
    "pip as a process": work(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install', 'lxml'])",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'list'])\nprint('pip install lxml')",
        (4, 2, "LSN016"),
    ),
    # What is read
    "a parameter that is never read": typed(
        "size = 1\nname = 'x'", "size = 1\n", (2, 7, "LSN017"), use="print(size)"
    ),
    "an entry that is never read": entry(
        '{"size": 1}', "print(1)", "print(request.function_params['size'])", (2, 4, "LSN017")
    ),
    "a parameter that is lost": typed("size = 1", "size = 1", (4, 1, "LSN018"), use="size = 5\nprint(size)"),
    "a payload that is lost": Planted(
        {"request": "import json\njson_sample = json.loads('{}')\n" + REQUEST},
        {"request": "import json\njson_sample = {}\n" + REQUEST},
        [(3, 2, "LSN018")],
    ),
    "an entry that is not declared": entry(
        '{"size": 1}',
        "p = request.function_params\nprint(p['size'], p.get('sise'))",
        "p = request.function_params\nprint(p['size'], p.get('size'))",
        (4, 2, "LSN019"),
    ),
    # Other languages
    "a path in bash": Planted(
        {"kernel": BASH, "work": "ls\ncat /home/ann/x.txt"}, {"kernel": BASH, "work": "ls\ncat x.txt"}, [(4, 2, "LSN010")]
    ),
    "a package in R": Planted(
        {"kernel": R, "work": "x <- 1\ninstall.packages('xml2')"}, {"kernel": R, "work": "library(xml2)"}, [(4, 2, "LSN016")]
    ),
}  # fmt: skip

# The name is lost with the fault and read first without it.
PLANTED["a parameter that is lost"].twin["work"] = "print(size)\nsize = 5"
