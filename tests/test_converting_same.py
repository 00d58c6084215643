"""What is converted does the same as what it was made of, or is refused with the place named: a table of ways to differ."""

import contextlib
import io
import json
import sys
import types

import nbformat
import nbformat.v4
import pytest

from libsafe_nb import errors, handlers, notebook
from libsafe_nb.compat import called
from libsafe_nb.converting import to_handler, to_notebook

JOB = "7"
PAYLOAD = {
    "api": {"url": "u"},
    "function_data": {"job": {"id": JOB}, "files": {"ids": ["1"]}},
    "function_params": {"n": "5"},
}


@pytest.fixture
def platform(monkeypatch):
    """A `libnova` whose Request remembers how each job was ended."""
    ended = []

    class Request:
        def __init__(self, context, event):
            self.JSONData = json.loads(event.body) if event is not None else PAYLOAD

        def job_end(self, success):
            ended.append((self.JSONData["function_data"]["job"]["id"], success))

    class Context(called.Context):
        def __init__(self):
            super().__init__()
            self.logger = types.SimpleNamespace(info=lambda text, *more: print("INFO", text % more))

    for name in ("libnova", "libnova.common", "libnova.common.nuclio", "libnova.common.nuclio.Request"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["libnova.common.nuclio.Request"].Request = Request
    monkeypatch.setattr(called, "Context", Context)
    return ended


@pytest.fixture
def seen(platform, monkeypatch):
    """Runs code as a function that is `"handler"` or `"notebook"`; what it printed and answered, and how its job ends."""

    def seen(run):
        platform.clear()
        printed, answers, told, failed = io.StringIO(), [], [], False
        monkeypatch.setattr(called, "record", lambda returned: answers.append(called._waited(returned)))
        with contextlib.redirect_stdout(printed):
            try:
                run(answers)
                told = [called.described(each) for each in answers if each is not None]
            except SystemExit as left:
                failed = str(left) not in ("", "0", "None", "False")
            except BaseException as exc:
                print("RAISED", type(exc).__name__)
                failed = True
        verdict = all(ok for job, ok in platform if job == JOB) and not failed
        verdict = verdict and all(each["status_code"] < 400 for each in told)
        others = [each for each in platform if each[0] != JOB]
        return printed.getvalue(), told, verdict, others

    return seen


@pytest.fixture
def of_handler(seen, monkeypatch, platform):
    def of_handler(source, *, converted=False, calls=1):
        def run(answers):
            module = types.ModuleType("function")
            monkeypatch.setitem(sys.modules, "function", module)
            exec(compile(source, "function.py", "exec", dont_inherit=True), module.__dict__)
            for _ in range(calls):
                context, event = called.Context(), called.Event(PAYLOAD)
                if hasattr(module, "init_context") and not converted:
                    called._waited(module.init_context(context))
                try:
                    answers.append(called._waited(module.handler(context, event)))
                except RuntimeError as exc:
                    # Leaving: the platform's worker is told that it failed, as it is by a run.
                    if not isinstance(exc.__cause__, SystemExit):
                        raise
                    raise exc.__cause__ from None

        found = seen(run)
        if converted:
            assert len([each for each in platform if each[0] == JOB]) == calls, "each job is ended once"
        return found

    return of_handler


@pytest.fixture
def of_notebook(seen, monkeypatch):
    def of_notebook(node):
        def run(_):
            function = notebook.parse(nbformat.writes(node).encode(), name="f.ipynb")
            given = notebook.bind(function, PAYLOAD["function_params"], known_only=False)
            injected = {function.payload_name: {**PAYLOAD, "function_params": given}}
            injected.update({key: given[key] for key in function.parameters if key in given})
            module = types.ModuleType("__main__")
            names, flags = module.__dict__, 0
            monkeypatch.setitem(sys.modules, "__main__", module)
            tagged = any("parameters" in cell.metadata.get("tags", []) for cell in function.node.cells)
            if not tagged:
                names.update(injected)
            for cell in function.node.cells:
                tags = cell.metadata.get("tags", [])
                if cell.cell_type != "code" or "skip-execution" in tags:
                    continue
                try:
                    code = compile(
                        cell.source.replace("await ", ""), "cell", "exec", flags, dont_inherit=True
                    )
                    flags |= code.co_flags & 0x1000000
                    exec(code, names)
                except (Exception, SystemExit):
                    if "raises-exception" not in tags:
                        raise
                if "parameters" in tags:
                    names.update(injected)

        monkeypatch.setattr(called, "call_async", called.call)
        return seen(run)

    return of_notebook


HANDLERS = {
    "an imported name is bound anew": "from os import path\ndef fix(p): return path.basename(p)\n"
    "def handler(context, event):\n    path = '/a/b.txt'\n    print(fix(path))\n",
    "the same import": "import json\ndef handler(context, event):\n    import json\n    print(json.loads('1'))\n",
    "a name of the shim": "from threading import Event\ndef helper(): return Event().is_set()\n"
    "def handler(context, event):\n    n = type(event.body)\n    print(helper(), n)\n",
    "it calls itself": "import types\ndef handler(context, event):\n    if event.body == b'stop':\n        print('in')\n"
    "    else:\n        handler(context, types.SimpleNamespace(body=b'stop'))\n",
    "it has attributes": "def handler(context, event):\n    print(handler.cache)\nhandler.cache = 1\n",
    "star": "def handler(*args):\n    print(type(args[1].body))\n",
    "a default": "def handler(context, event, level=5):\n    print(level)\n",
    "a default that does something": "def handler(context, event=print('once')):\n    print('x')\n",
    "by name": "def handler(context, event, *, level=5):\n    print(level)\n",
    "else of main": "if __name__ == '__main__':\n    A = 1\nelse:\n    A = 2\ndef handler(context, event):\n    print(A)\n",
    "not main": "A = 1\nif __name__ != '__main__':\n    A = 2\ndef handler(context, event):\n    print(A)\n",
    "another's name": "def f(): pass\nA = 1\nif f.__name__ == 'f':\n    A = 2\ndef handler(context, event):\n    print(A)\n",
    "main alone": "def handler(context, event):\n    print(1)\nif __name__ == '__main__':\n    handler(None, None)\n",
    "its own name": "def handler(context, event):\n    print(__name__)\n",
    "the context is handed on": "def helper(context, x):\n    context.logger.info(x)\n"
    "def handler(context, event):\n    helper(context, 'hello')\n",
    "a capture": "LIMIT = 3\ndef limit(): return LIMIT\ndef handler(context, event):\n    match 7:\n"
    "        case LIMIT:\n            print(limit())\n",
    "locals": "def handler(context, event):\n    a = 1\n    print('json_sample' in locals(), 'a' in locals())\n",
    "vars": "def handler(context, event):\n    a = 1\n    print(len(vars()))\n",
    "a status of 500": "def handler(context, event):\n    print(1)\n    return context.Response(status_code=500)\n",
    "a status in a pair": "def handler(context, event):\n    return 404, 'no'\n",
    "an answer that raises": "def handler(context, event):\n    print(1)\n    return 1 / 0\n",
    "an early answer": "def handler(context, event):\n    if event.body:\n        return 'early'\n    print(1)\n",
    "a stream": "def handler(context, event):\n    return (print(i) or str(i) for i in range(3))\n",
    "a stream that raises": "def handler(context, event):\n    yield 'a'\n    print('b')\n    1 / 0\n",
    "async": "async def handler(context, event):\n    print('x')\n    return 'later'\n",
    "async parts": "async def handler(context, event):\n    yield 'a'\n    yield 'b'\n",
    "async beginning": "async def init_context(context):\n    print('begun')\ndef handler(context, event):\n    print('x')\n",
    "decorated": "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def g(*a):\n        f(*a)\n        return f(*a)\n"
    "    return g\n@twice\ndef handler(context, event):\n    print('x')\n",
    "another's function": "def main(context, event):\n    print('x')\n    return 'y'\nhandler = main\n",
    "an object": "class Main:\n    def __call__(self, context, event):\n        return 'called'\nhandler = Main()\n",
    "a lambda": "handler = lambda context, event: print('x')\n",
    "in a try": "try:\n    import nothing_of_the_kind\nexcept ImportError:\n    def handler(context, event):\n        print('x')\n",
    "wrapped later": "def handler(context, event):\n    return 'x'\nold = handler\ndef handler(context, event):\n    return old(context, event) * 2\n",
    "nonlocal": "def handler(context, event):\n    n = 0\n    def inner():\n        nonlocal n\n        n += 1\n        return n\n"
    "    print(inner(), inner())\n",
    "a builtin shadowed": "def handler(context, event):\n    sum = sum([1])\n    print(sum)\n",
    "a builtin shadowed for helpers": "def total(xs): return sum(xs)\ndef handler(context, event):\n    sum = 3\n    print(total([1]), sum)\n",
    "not bound yet": "def handler(context, event):\n    try:\n        print(max)\n    except NameError:\n        print('no')\n    max = 1\n",
    "a class": "def handler(context, event):\n    x = 1\n    class C:\n        x = x\n    print(C.x)\n",
    "a class's name": "def handler(context, event):\n    class C: pass\n    print(C.__qualname__)\n",
    "an annotation": "def handler(context, event):\n    x: nothing = 1\n    print(x)\n",
    "an object of the payload": "def handler(context, event):\n    json_sample = {'a': 1}\n    print(json_sample)\n",
    "what it calls the payload": "import json\ndef handler(context, event):\n    payload = json.loads(event.body)\n    print(payload)\n",
    "a payload of its own": "def handler(context, event):\n    payload = {'a': 1}\n    print(payload)\n",
    "the helper's global": "def helper():\n    try:\n        return n\n    except NameError:\n        return 'none'\n"
    "def handler(context, event):\n    n = 1\n    print(helper(), n)\n",
    "a helper that sets": "def helper():\n    global n\n    n = 5\ndef handler(context, event):\n    n = 1\n    helper()\n    print(n)\n",
    "late lambdas": "def handler(context, event):\n    fs = [lambda: i for i in range(3)]\n    for i in (7, 8): pass\n    print([f() for f in fs], i)\n",
    "walrus": "def handler(context, event):\n    print([y := i for i in range(3)], y)\n",
    "underscores": "def handler(context, event):\n    for _, __x in [(1, 2)]:\n        print(_, __x)\n    print(_)\n",
    "one line with its docstring": '"""About."""; X = 1\ndef handler(context, event):\n    print(X)\n',
    "semicolons": "import json; X = 1\ndef handler(context, event):\n    a = 1; b = 2\n    print(a, b, X); print(3)\n",
    "magics in texts": "def handler(context, event):\n    x = '''\n%%time\n!ls\n?'''\n    print(x)\n",
    "a future": "from __future__ import annotations\ndef f(x: nothing): return f.__annotations__\ndef handler(context, event):\n    print(f(1))\n",
    "state": "STATE = []\ndef add(x): STATE.append(x)\ndef handler(context, event):\n    add(1)\n    print(STATE)\n",
    "assert": "def handler(context, event):\n    assert not event.body, 'full'\n",
    "with": "import contextlib\ndef handler(context, event):\n    with contextlib.suppress(KeyError):\n        {}[1]\n    print('x')\n",
    "del": "def handler(context, event):\n    x = 1\n    del x\n    try:\n        print(x)\n    except NameError:\n        print('gone')\n",
    "names of ours": "_nb_called = 1\ndef handler(context, event):\n    _nb_run = 2\n    print(_nb_called, _nb_run)\n",
    "job_end": "from libnova.common.nuclio.Request import Request\ndef handler(context, event):\n"
    "    Request(context, event).job_end(False)\n    print('x')\n",
    "leaving": "import sys as s\ndef handler(context, event):\n    print('x')\n    s.exit(0)\n",
    "leaving with one": "import sys as s\ndef handler(context, event):\n    s.exit(1)\n",
}


@pytest.mark.parametrize("source", HANDLERS.values(), ids=HANDLERS)
def test_a_handler_does_the_same_as_a_notebook_and_back(source, of_handler, of_notebook):
    assert handlers.is_handler(source.encode())
    node = to_notebook(source.encode(), "function.py")
    expected = of_handler(source)

    assert of_notebook(node) == expected, "\n\n".join(cell.source for cell in node.cells)
    try:
        back = to_handler(nbformat.writes(node).encode(), "function.ipynb")
    except errors.NotebookError as refused:
        assert ", line" in str(refused)
    else:
        assert of_handler(back, converted=True) == expected, back


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print(__file__)", "line 2: uses __file__"),
        ("print(__doc__)", "uses __doc__"),
        ("from . import other", "line 2: imports from its own package"),
        ("import __main__", "imports __main__"),
        ("global json_sample\n    json_sample = 1", "uses json_sample"),
        ("try:\n        get_ipython()\n    except NameError:\n        pass", "uses get_ipython"),
        ("global _i\n    _i = 1", "uses the name _i"),
    ],
)
def test_what_a_notebook_has_not_is_refused(code, said):
    with pytest.raises(errors.NotebookError, match=said):
        to_notebook(f"def handler(context, event):\n    {code}\n".encode(), "f.py")


IMPORT = "from libnova.common.nuclio.Request import Request\n"
NOTEBOOKS = {
    "main": ["def main(): print('work')\nif __name__ == '__main__':\n    main()"],
    "event": ["for event in [1, 2]:\n    print(event)"],
    "context": ["context = 'abc'\nprint(context)"],
    "no context": ["try:\n    context\nexcept NameError:\n    print('none')"],
    "_request": ["def _request(): return 1\nprint(_request())\nhandler = _run = json = 2\nprint(handler, _run, json)"],
    "names of ours": ["_nb_run = 1\nprint(_nb_run)"],
    "job_end in a branch": [IMPORT + "if not json_sample:\n    Request(None, None).job_end(False)\nprint('ok')"],
    "job_end": [IMPORT + "Request(None, None).job_end(False)", "print('ok')"],
    "job_end twice": [IMPORT + "r = Request(None, None)\nr.job_end(False)\nr.job_end(True)"],
    "job_end and then an error": [IMPORT + "Request(None, None).job_end(True)", "1 / 0"],
    "another's job": [
        IMPORT + "import json\nother = {'function_data': {'job': {'id': '8'}}}\n"
        "Request(None, type('E', (), {'body': json.dumps(other)})()).job_end(False)"
    ],
    "job_end in a comment": ["# the platform calls job_end\nprint('ok')"],
    "a builtin bound": ["sizes = [1, 2]\nsum = sum(sizes)\nprint(sum)"],
    "a builtin before": ["print(max(1, 2))", "max = 3\nprint(max)"],
    "a builtin as default": ["def f(x=len): return x([1])\nprint(f())", "len = 5\nprint(len)"],
    "tuple": ["print(a, b)", "json_sample = {}\na, b = 1, 2"],
    "number": ["print(n + 1)", "json_sample = {}\nn: int = 1"],
    "a computed one": ["print(n, twice)", "json_sample = {}\nn: int = 1\ntwice = n * 2"],
    "an optional one": ["print(n)", "from typing import Optional\nn: Optional[int] = None"],
    "of the payload": ["print(json_sample['function_params'])", 'json_sample = {"function_params": {"n": 1, "m": 2}}'],
    "a wrong one": ["print(n)", "n: list[int] = []"],
    "the sample is used": ["print(x)", 'json_sample = {"a": 1}\nx = json_sample["a"]'],
    "future": ["from __future__ import annotations; x = 1\nprint(x)"],
    "future after a parameter": ["from __future__ import annotations\ndef f(x: no): pass\nprint(f.__name__)", "n: int = 1"],
    "leaving": ["print(1)\nraise SystemExit(0)", "print(2)"],
    "leaving by sys": ["import sys as s\ns.exit()"],
    "leaving with one": ["import sys\nsys.exit('no')"],
    "leaving as expected": [("raise SystemExit(1)", "raises-exception"), "print(1)"],
    "expected": [("print(1)\n1/0", "raises-exception"), "print(1)"],
    "a comment that may raise": [("# nothing", "raises-exception"), "print(1)"],
    "skipped": [("print('never')", "skip-execution"), "print(1)"],
    "class": ["k = [1]\nclass C:\n    v = [i for i in k]\n    def f(self): return k\nprint(C.v, C().f())"],
    "a class's name": ["class C:\n    class D: pass\nprint(C, C.D)\nif C:\n\tclass E: pass  # here\n\tprint(E)"],
    "a dataclass": ["import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\nprint(P(1), f'{P(2)}')"],
    "an enum": ["import enum\nclass E(enum.Enum):\n    A = 1\nprint(E, E.A, list(E))"],
    "errors by other names": ["class Exception(Exception): pass", ("1 / 0", "raises-exception"), "print(2)"],
    "vars of something": ["class C: pass\nc = C()\nc.x = 1\nprint(vars(c))"],
    "star": ["a, *b = 1, 2, 3\nprint(a, b)"],
    "texts": ["x = f'''a\n  {1+\n1}\n b'''\nprint(repr(x))"],
    "late": ["def f(): return z", "z = 3\nprint(f())", "del z", "z = 4\nprint(f())"],
    "walrus": ["print([y := i for i in range(3)], y)"],
    "lambdas": ["fs = [lambda: i for i in range(2)]\ni = 9\nprint([f() for f in fs])"],
    "generator": ["def g():\n    yield from (j for j in 'ab')\nprint(list(g()))"],
    "underscore": ["for _ in range(2): pass\nprint(_)"],
    "semicolon": ["1 + 1;", "x = 1; print(x)"],
    "carriage return": ["x = 1\r\nif x:\r\n    print('a')"],
    "unannotated": ["x: int\ntry:\n    print(x)\nexcept NameError:\n    print('no')"],
    "another error": ["print(1)\nraise KeyboardInterrupt"],
}  # fmt: skip


def made(*cells, parameters="json_sample = {}"):
    found = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for each in cells:
        source, *tags = (each,) if isinstance(each, str) else each
        found.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=found, metadata={"kernelspec": spec})


@pytest.mark.parametrize("cells", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_notebook_does_the_same_as_a_handler(cells, of_handler, of_notebook):
    last = cells[-1] if isinstance(cells[-1], str) else ""
    has_own = len(cells) > 1 and last.startswith(("json_sample = {", "from typing", "n: "))
    node = made(*cells[:-1], parameters=last) if has_own else made(*cells)
    source = to_handler(nbformat.writes(node).encode(), "f.ipynb")
    expected = of_notebook(node)

    if cells == NOTEBOOKS["a wrong one"]:
        # A run of the notebook is not begun.
        expected = ("RAISED ValueError\n", [], False, [])
    assert of_handler(source, converted=True) == expected, source
    if expected[2]:
        assert of_handler(source, converted=True, calls=2)[0] == expected[0] * 2, (
            "nothing is carried from call to call"
        )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "timeout = 5\nclass C:\n    timeout = timeout",
            "cell 2, line 1: a class both reads and binds timeout",
        ),
        ("x = 1\nprint(globals()['x'])", "cell 2, line 2: uses globals"),
        ("print(locals())", "uses locals"),
        ("exec('y = 1')", "uses exec"),
        ("f = lambda s: eval(s)", "uses eval"),
        ("print(vars())", "uses vars"),
        ("import typing\ntyping.get_type_hints(print)", "uses get_type_hints"),
        ("sum = 1\ndel sum", "deletes sum"),
        ("print(__file__)", "uses __file__"),
        ("print(_)", "uses _"),
        ("_i = 1", "uses the name _i"),
        ("import os\nos.chdir('/')", "uses os.chdir"),
        ("import os\nos._exit(0)", "uses os._exit"),
        ("from os import _exit as leave", "imports os._exit"),
        ("import atexit", "imports atexit"),
        ("from . import x", "its own package"),
        ("import __main__", "imports __main__"),
        (
            "from __future__ import annotations\nfrom functools import singledispatch",
            "singledispatch reads annotations",
        ),
        ("return 1", "expected plain Python"),
        ("yield 1", "expected plain Python"),
        ("x: print('told') = 1", "an annotation"),
        ("print([x async for x in y])", "awaits"),
        ("async with x: pass", "awaits"),
        ("name = input()", "uses input"),
        ("print(handler)", "uses handler"),
        ("import inspect\ninspect.getsource(print)", "uses getsource"),
        ("from multiprocessing import Pool", "imports multiprocessing.Pool"),
        ("from libnova.com.Api import Job\nJob.set_status(1, 'FAILED')", "sets a job's status"),
        ("Driver.put('/job/1', {})", "changes a job"),
    ],
)
def test_what_a_handler_would_do_otherwise_is_refused(code, said):
    with pytest.raises(errors.NotebookError, match=said):
        to_handler(nbformat.writes(made(code)).encode(), "f.ipynb")


def test_what_counts_from_a_cell_on_is_refused_after_what_it_would_change():
    cells = made("def f(x: int): pass", "from __future__ import annotations")
    with pytest.raises(
        errors.NotebookError, match="cell 3: from __future__ import annotations must come before"
    ):
        to_handler(nbformat.writes(cells).encode(), "f.ipynb")


def test_a_cell_that_was_changed_after_a_conversion_is_not_taken_for_ours():
    node = to_notebook(b"def handler(context, event):\n    context.logger.info('x')\n", "f.py")
    shim = next(cell for cell in node.cells if cell.metadata.get("tags") == ["nuclio-shim"])
    shim.source += "\nprint('mine')"

    with pytest.raises(errors.NotebookError, match="imports libsafe_nb"):
        to_handler(nbformat.writes(node).encode(), "f.ipynb")
