"""
`job_init` and `job_end` on every path of a function that makes a Request.

Under a runner of ours a job that is never ended is COMPLETED; on the platform it stays RUNNING, and a path that forgot
to say that it failed is one that succeeded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

from libsafe_nb.checking.cells import Program, called_name
from libsafe_nb.checking.examined import Examined, Found
from libsafe_nb.checking.paths import Paths, State, States, TooManyError
from libsafe_nb.checking.places import names_of_libnova

_CALLS = ("job_init", "job_end")
_LEAVING = ("sys.exit", "exit", "quit", "os._exit", "os.abort")
_HARMLESS = frozenset(
    ("print", "repr", "str", "type", "id", "isinstance", "len", "display", "dir", "vars", "hasattr", "bool")
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Job:
    """Lines of the program where a way begins, or ends, the job it should not, and where the Request is made."""

    request: int = 0
    not_begun: tuple[int, ...] = ()
    not_ended: tuple[int, ...] = ()
    has_begin: bool = False
    has_end: bool = False


def begins(examined: Examined) -> Iterator[Found]:
    job = examined.once(_job)
    for line in job.not_begun:
        yield (
            *examined.program.place(line),
            "job_init is not called on every way to here, so the job is not RUNNING: call it right after the Request is"
            " made"
            if job.has_begin
            else "the Request is made and job_init is never called, so the job is not RUNNING: call it next",
        )


def ends(examined: Examined) -> Iterator[Found]:
    job = examined.once(_job)
    for line in job.not_ended:
        yield (
            *examined.program.place(line),
            "a way through here leaves the notebook without job_end, and its job stays RUNNING: call job_end(True) or"
            " job_end(False) on it"
            if job.has_end
            else "the Request is made and job_end is never called, so the job stays RUNNING: call it in the last cell",
        )


def _job(examined: Examined) -> Job:
    program = examined.program
    requests = _requests(program)
    if not requests:
        return Job()
    calls = [node for node in program.nodes if isinstance(node, ast.Call)]
    done = {name for call in calls if (name := called_name(call)) in _CALLS}
    functions = _functions(program)
    if functions is None or _is_unclear(program, functions):
        return Job()
    begun_late: set[int] = set()
    request_names, defined = _request_names(program, requests), _defined(program)

    def happens(call: ast.Call, states: States) -> States:
        name = called_name(call)
        if call in requests:
            return frozenset(
                state if state.made else replace(state, made=True, line=call.lineno) for state in states
            )
        if name == "job_init":
            return frozenset(replace(state, begun=True) for state in states)
        if name == "job_end":
            if any(state.made and not state.begun for state in states):
                begun_late.add(call.lineno)
            return frozenset(replace(state, ended=True, begun=True) for state in states)
        if _is_given(call, request_names) and name not in _HARMLESS and name not in defined:
            # Code from elsewhere has the Request: it may do with the job what it likes.
            return frozenset(replace(state, ended=True, begun=True) for state in states)
        return states

    paths = Paths(functions, _interesting(program, functions, requests, request_names), happens, _leaves)
    try:
        ways = paths.walk(program.body)
    except TooManyError:
        return Job()
    last: set[State] = {state for state in ways.next | ways.exited | ways.returned if state.made}
    first = min(call.lineno for call in requests)
    not_begun = begun_late or ({first} if any(not state.begun for state in last) else set())
    not_ended = {state.line for state in last if not state.ended}
    if "job_init" not in done and not_begun:
        not_begun = {first}
    if "job_end" not in done and not_ended:
        not_ended = {first}
    return Job(
        first, tuple(sorted(not_begun)), tuple(sorted(not_ended)), "job_init" in done, "job_end" in done
    )


def _requests(program: Program) -> set[ast.Call]:
    """Calls that make a Request: of the vendor's library, and not `urllib.request.Request`."""
    platform = names_of_libnova(program)
    found = set()
    for node in program.nodes:
        if isinstance(node, ast.Call) and called_name(node) == "Request":
            root: ast.expr = node.func
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in platform:
                found.add(node)
    aliases = _aliases_of_request(program)
    return found | {
        node
        for node in program.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in aliases
    }


def _aliases_of_request(program: Program) -> set[str]:
    """`from libnova.com.Nuclio.Request import Request as R`."""
    return {
        alias.asname
        for node in program.nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("libnova.")
        for alias in node.names
        if alias.name == "Request" and alias.asname
    }


def _request_names(program: Program, requests: set[ast.Call]) -> set[str]:
    found = set()
    for request in requests:
        parent = program.parents.get(request)
        if isinstance(parent, (ast.Assign, ast.AnnAssign, ast.NamedExpr)):
            targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def _functions(program: Program) -> dict[str, Function] | None:
    """Functions and methods of the notebook in which something happens to its job; None where two have one name."""
    all_of = [node for node in program.nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {
        node: [
            name if name in _CALLS or name == "Request" else "exit" if _leaves(each) else name
            for each in ast.walk(node)
            if isinstance(each, ast.Call) and (name := called_name(each))
        ]
        for node in all_of
    }
    wanted = {*_CALLS, "Request", "exit"}
    while True:
        more = {node.name for node, names in inside.items() if wanted & set(names)} - wanted
        if not more:
            break
        wanted |= more
    found: dict[str, Function] = {}
    for node in all_of:
        if node.name in wanted:
            if node.name in found:
                return None
            found[node.name] = node
    # A class is called, and its `__init__` is walked.
    for kind in [node for node in program.nodes if isinstance(node, ast.ClassDef)]:
        for each in kind.body:
            if isinstance(each, ast.FunctionDef) and each is found.get("__init__"):
                found[kind.name] = each
    return found


def _is_unclear(program: Program, functions: dict[str, Function]) -> bool:
    """Whether the job is begun or ended in ways that are not seen here: then nothing is said."""
    if any(cell.unread and "job_" in cell.source for cell in program.cells):
        return True
    if any("job end" in each.text or each.name in ("run", "load") for each in program.commands):
        return True
    hidden = {
        "__enter__",
        "__exit__",
        "__aenter__",
        "__aexit__",
        "__del__",
        "__call__",
        "__iter__",
        "__next__",
    }
    if hidden & set(functions):
        return True
    for node in program.nodes:
        parent = program.parents.get(node)
        is_called = isinstance(parent, ast.Call) and parent.func is node
        if isinstance(node, ast.Constant) and node.value in _CALLS:
            return True
        if isinstance(node, ast.Attribute) and node.attr in _CALLS and not is_called:
            return True
        if isinstance(node, ast.Lambda) and any(
            isinstance(each, ast.Attribute) and each.attr in _CALLS for each in ast.walk(node)
        ):
            return True
        is_given = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in functions
        if is_given and not is_called:
            return True
    return False


def _interesting(
    program: Program, functions: dict[str, Function], requests: set[ast.Call], request_names: set[str]
) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in program.nodes:
        if isinstance(node, ast.Call):
            name = called_name(node)
            matters = (
                name in _CALLS
                or node in requests
                or name in functions
                or _leaves(node)
                or _is_given(node, request_names)
            )
        else:
            matters = isinstance(node, (ast.Return, ast.Raise, ast.Break, ast.Continue))
        above: ast.AST | None = node if matters else None
        while above is not None and above not in found:
            found.add(above)
            above = program.parents.get(above)
    return found


def _is_given(call: ast.Call, names: set[str]) -> bool:
    given = (*call.args, *(keyword.value for keyword in call.keywords))
    return any(isinstance(each, ast.Name) and each.id in names for each in given)


def _defined(program: Program) -> set[str]:
    return {
        node.name
        for node in program.nodes
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }


def _leaves(call: ast.Call) -> bool:
    return isinstance(call.func, (ast.Name, ast.Attribute)) and ast.unparse(call.func) in _LEAVING
