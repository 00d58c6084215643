"""The text of a handler around the cells of a notebook. Pure."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Any

from libsafe_nb.declared import Parameter
from libsafe_nb.errors import NotebookError

# In what follows, `_nb_` stands for how the names begin that are not the author's (`names.prefix`).

_HEAD = '''\
"""{title}

A handler for Nuclio, made of {name} by libsafe-nb convert. It needs the vendor's libnova only.
"""

{future}import builtins as _nb_builtins
import json as _nb_json

try:
    from libnova.common.nuclio.Request import Request as _nb_Request
except ImportError:
    from libnova.com.Nuclio.Request import Request as _nb_Request


{async_}def handler(context, event):
    """The job ends once the cells have run: as they say, else COMPLETED, and FAILED where one raises."""
    payload = _nb_json.loads(_nb_json.dumps(event.body) if isinstance(event.body, dict) else event.body)
    job_end, said = _nb_Request.job_end, []

    def told(request, success=True):
        if _nb_job(getattr(request, "JSONData", payload)) in ("", _nb_job(payload)):
            said.append(bool(success))
        else:
            job_end(request, success)

    _nb_Request.job_end = told
    try:
        payload["function_params"] = _nb_bound(payload.get("function_params") or {{}})
        returned, good = _nb_answer({await_}_nb_run(context, event, payload))
        said.append(good)
    except SystemExit as left:
        # To leave with 0 or nothing completes a notebook. The worker lives on.
        returned = None
        if str(left) not in ("", "0", "None", "False"):
            said.append(False)
            raise RuntimeError(f"a cell left with {{left}}") from left
    except BaseException:
        said.append(False)
        raise
    finally:
        _nb_Request.job_end = job_end
        job_end(_nb_Request(context, event), all(said))
    return returned


def _nb_job(payload):
    return str(payload.get("function_data", {{}}).get("job", {{}}).get("id") or "")


'''

_BOUND = '''\
_nb_FITS = {{
{fits}}}


def _nb_bound(given):
    """The parameters of a call: the notebook's defaults count, and text is read as what a parameter is declared as."""
    bound = {defaults}
    for name, value in given.items():
        fits = _nb_FITS.get(name{unknown})
        if fits is None:
            raise ValueError(f"function_params.{{name}}: is no parameter of the notebook")
        if not fits(value) and isinstance(value, str):
            words = {{"true": True, "false": False, "none": None, "null": None, "": None}}
            value = words[value.lower()] if value.lower() in words else _nb_json.loads(value)
        if not fits(value):
            raise ValueError(f"function_params.{{name}}: is not what the notebook declares")
        bound[name] = value
    return bound


'''

_UNBOUND = """\
def _nb_bound(given):
    return dict(given)


"""

_ANSWER = '''\
def _nb_answer(returned):
    """What was returned, a stream of it read to its end, and whether its status is below 400."""
    if hasattr(returned, "__await__"):
        raise TypeError("the handler returned what is to be awaited; expected an async def")
    status = 200
    if isinstance(returned, tuple) and len(returned) == 2:
        status = returned[0]
    elif hasattr(returned, "status_code") and hasattr(returned, "body"):
        status, returned.body = returned.status_code, _nb_read(returned.body)
    return _nb_read(returned), int(status) < 400


def _nb_read(body):
    if hasattr(body, "gi_frame"):
        parts = list(body)
        return (part for part in parts)
    return body


'''

_NAMED = '''\
def _nb_named(made):
    """A class by the name that it has in a notebook: what shows its objects shows that, too."""
    if isinstance(made, type) and "_nb_run.<locals>." in made.__qualname__:
        made.__qualname__ = made.__qualname__.replace("_nb_run.<locals>.", "")
        made.__module__ = "__main__"
        for each in list(vars(made).values()):
            _nb_named(each)


'''

_NO_ANSWER = """\
def _nb_answer(returned):
    return returned, True


"""

GLUE = """class {name}:  # scrapbook's glue: results go to the log
    glue = staticmethod(lambda name, data, *more, **options: _nb_context.logger.info("%s = %s", name, data))"""

CALL = "_nb_result = handler(_nb_context, _nb_event)"
AWAITED = """\
if hasattr(_nb_result, "__await__"):
    _nb_result = await _nb_result
if hasattr(_nb_result, "__anext__"):
    _nb_parts = [part async for part in _nb_result]
    _nb_result = (part for part in _nb_parts)"""
BEGIN = "init_context(_nb_context)"
BEGIN_AWAITED = """\
_nb_begun = init_context(_nb_context)
if hasattr(_nb_begun, "__await__"):
    await _nb_begun"""
BEGIN_PLAIN = """\
if hasattr(init_context(_nb_context), "__await__"):
    raise TypeError("init_context returned what is to be awaited; expected an async def")"""
RETURN = "return _nb_result"


def expected(text: str, *, added: str, hidden: bool) -> str:
    """A cell that may raise; `hidden` where the author gave the errors' names to something else."""
    of = f"{added}builtins." if hidden else ""
    return f"try:\n{text}\nexcept ({of}Exception, {of}SystemExit):\n    pass  # as the notebook expects"


def head(*, title: str, name: str, future: Iterable[str], awaited: bool, added: str) -> str:
    lifted = "\n".join(dict.fromkeys(future))
    return _HEAD.replace("_nb_", added).format(
        title=title,
        name=name,
        future=f"{lifted}\n\n" if lifted else "",
        async_="async " if awaited else "",
        await_="await " if awaited else "",
    )


def named(*, classes: bool, added: str) -> str:
    return _NAMED.replace("_nb_", added) if classes else ""


def answer(*, returns: bool, added: str) -> str:
    return (_ANSWER if returns else _NO_ANSWER).replace("_nb_", added)


def bound(parameters: Mapping[str, Parameter], *, strict: bool, name: str, added: str) -> str:
    """How the parameters of a call are bound, as a run binds them (`declared.bind`)."""
    if not parameters and not strict:
        return _UNBOUND.replace("_nb_", added)
    fits = "".join(f"    {key!r}: lambda value: {_fits(each, name)},\n" for key, each in parameters.items())
    return _BOUND.replace("_nb_", added).format(
        fits=fits,
        defaults=repr({each.name: each.default for each in parameters.values() if each.in_payload}),
        unknown="" if strict else ", lambda value: True",
    )


def injected(payload_name: str, parameters: Mapping[str, Parameter]) -> str:
    """What a run injects after the parameters cell."""
    lines = [f"{payload_name} = _nb_payload"]
    for each in parameters.values():
        if not each.in_payload:
            lines.append(f'if "{each.name}" in _nb_payload["function_params"]:')
            lines.append(f'    {each.name} = _nb_payload["function_params"]["{each.name}"]')
    return "\n".join(lines)


def _fits(parameter: Parameter, name: str) -> str:
    found = "isinstance(value, str)" if parameter.secret else _test(parameter.type, "value")
    if found is None:
        raise NotebookError(
            f"{name}: the parameter {parameter.name} has a type that a handler cannot tell; declare one of JSON's",
            notebook=name,
        )
    return found


def _test(kind: Any, value: str) -> str | None:
    """Python that says whether a value is of a declared type (`declared.convert`); None where it cannot be said."""
    if kind is Any:
        return "True"
    if kind is None or kind is type(None):
        return f"{value} is None"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        each = f"any({value} == each and type({value}) is type(each) for each in {arguments!r})"
        return each if all(isinstance(one, (str, int, bool, type(None))) for one in arguments) else None
    if origin in (list, dict):
        item = _test(arguments[-1], f"{value}_")
        items = value if origin is list else f"{value}.values()"
        test = f"(isinstance({value}, {origin.__name__}) and all({item} for {value}_ in {items}))"
        return test if item is not None else None
    if arguments:
        tests = [_test(each, value) for each in arguments]
        found = [f"({each})" for each in tests if each is not None]
        return " or ".join(found) if len(found) == len(tests) else None
    if kind in (int, float):
        number = "int" if kind is int else "(int, float)"
        return f"isinstance({value}, {number}) and not isinstance({value}, bool)"
    if kind in (str, bool, list, dict):
        return f"isinstance({value}, {kind.__name__})"
    # A tuple, say: no value of JSON is one.
    return "False" if isinstance(kind, type) else None
