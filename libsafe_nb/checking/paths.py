"""
The ways that a program can take, and in what state of its job it comes out of each. Pure.

Each statement turns the set of states before it into the set after it; functions of the notebook are walked where they
are called. What cannot be told, such as which way an `if` goes, goes both ways; two `if` of one test go the same way. A
statement in a `try` may raise, so its handlers begin in any state that the body has before one of its statements. Where
an exception is caught by nobody the run fails, and its job with it: such a way has nothing to end.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from libsafe_nb.checking import conditions
from libsafe_nb.checking.cells import called_name, catches

MOST_STATES = 32
"""At one place; where there are more, those that differ in where they parted are taken as one."""

MOST_STEPS = 20_000
"""Statements that are gone through. Functions are walked at each call and loops again: it can be as many as 2 to the 50."""


class TooManyError(Exception):
    """The ways are too many to follow."""


@dataclass(frozen=True)
class State:
    """
    Where a job stands: made (there is a Request), begun (`job_init`), ended (`job_end`).

    `line` is where this way parted from those that ended the job; `tests` is what the way has found true or false.
    """

    made: bool = False
    begun: bool = False
    ended: bool = False
    line: int = 1
    tests: conditions.Known = frozenset()


States = frozenset[State]
Call = Callable[[ast.Call, States], States]


@dataclass
class Ways:
    """How a block is left: at its end, or early."""

    next: States = frozenset()
    broken: States = frozenset()
    continued: States = frozenset()
    returned: States = frozenset()
    exited: States = frozenset()
    """By `sys.exit` and its like."""

    def early(self, other: Ways) -> None:
        """Take over the early ends of a part of the block."""
        self.broken |= other.broken
        self.continued |= other.continued
        self.returned |= other.returned
        self.exited |= other.exited


@dataclass
class Paths:
    """
    Walks a program.

    Parameters
    ----------
    functions
        The notebook's own, by name; those with nothing of interest in them may be left out.
    interesting
        Nodes below which something happens to the job or to the way; all else is passed over.
    happens
        What a call does to the states, where it is no call of a function of the notebook.
    leaves
        Whether a call ends the process.
    """

    functions: Mapping[str, ast.FunctionDef | ast.AsyncFunctionDef]
    interesting: set[ast.AST]
    happens: Call
    leaves: Callable[[ast.Call], bool]
    _raised: list[set[State]] = field(default_factory=lambda: [set()])
    _within: list[str] = field(default_factory=list)
    _steps: int = 0

    def walk(self, body: Iterable[ast.stmt]) -> Ways:
        """All ways through a program's top level."""
        return self._block(body, frozenset((State(),)))

    def _block(self, body: Iterable[ast.stmt], states: States) -> Ways:
        ways = Ways(states)
        for statement in body:
            if not ways.next:
                break
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise TooManyError
            self._raised[-1] |= ways.next
            states = self._bounded(ways.next)
            if statement in self.interesting:
                inner = self._statement(statement, states)
                ways.early(inner)
                states = inner.next
            ways.next = _forgetting(statement, states)
        return ways

    def _bounded(self, states: States) -> States:
        if len(states) <= MOST_STATES:
            return states
        first: dict[tuple[bool, bool, bool], State] = {}
        for each in sorted(states, key=lambda state: state.line):
            first.setdefault((each.made, each.begun, each.ended), replace(each, tests=frozenset()))
        return frozenset(first.values())

    def _statement(self, node: ast.stmt, states: States) -> Ways:
        if isinstance(node, ast.If):
            return self._if(node, states)
        if isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            return self._loop(node, states)
        if isinstance(node, (ast.Try, ast.TryStar)):
            return self._try(node, states)
        if isinstance(node, (ast.With, ast.AsyncWith)):
            return self._with(node, states)
        if isinstance(node, ast.Match):
            return self._match(node, states)
        if isinstance(node, ast.Break):
            return Ways(broken=states)
        if isinstance(node, ast.Continue):
            return Ways(continued=states)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            # Walked where it is called.
            return Ways(states)
        ways = Ways()
        states = self._expressions(ast.iter_child_nodes(node), states, ways)
        if isinstance(node, ast.Return):
            ways.returned |= _parted(states, node.lineno)
        elif isinstance(node, ast.Raise):
            self._raised[-1] |= states
            if node.exc is not None and "SystemExit" in ast.unparse(node.exc):
                ways.exited |= _parted(states, node.lineno)
        else:
            ways.next = states
        return ways

    # Statements with others in them -----------------------------------------------------------------------------

    def _if(self, node: ast.If, states: States) -> Ways:
        ways = Ways()
        states = self._expressions([node.test], states, ways)
        test, is_plain = conditions.test(node.test)
        then: set[State] = set()
        other: set[State] = set()
        for state in states:
            known = next((value for text, value in (*conditions.ALWAYS, *state.tests) if text == test), None)
            for branch, value in ((then, is_plain), (other, not is_plain)):
                if test is None or known is None:
                    branch.add(replace(state, tests=conditions.also(state.tests, test, value)))
                elif known == value:
                    branch.add(state)
        parts = [self._block(node.body, frozenset(then)), self._block(node.orelse, frozenset(other))]
        for part in parts:
            ways.early(part)
        ways.next = _merged(states, [part.next for part in parts], node.lineno)
        return ways

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While, states: States) -> Ways:
        ways = Ways()
        head = node.test if isinstance(node, ast.While) else node.iter
        states = self._expressions([head], states, ways)
        endless = isinstance(head, ast.Constant) and bool(head.value) and isinstance(node, ast.While)
        # What is known in one round may be otherwise in the next.
        around = _forgetting(node, states)
        broken, passed = States(), States()
        for _ in range(8):
            before = around
            part = self._block(node.body, around)
            ways.returned |= part.returned
            ways.exited |= part.exited
            broken |= part.broken
            passed |= part.next | part.continued
            around = _forgetting(node, states | passed)
            if around == before:
                break
        over = States() if endless else _merged(states, [states, passed], node.lineno)
        rest = self._block(node.orelse, over)
        ways.early(rest)
        ways.next = _merged(states, [rest.next, broken], node.lineno)
        return ways

    def _try(self, node: ast.Try | ast.TryStar, states: States) -> Ways:
        self._raised.append(set())
        body = self._block(node.body, states)
        raised = frozenset(self._raised.pop())
        self._raised.append(set())
        ways = Ways()
        rest = self._block(node.orelse, body.next)
        parts, lines = [rest], [node.lineno]
        exited = body.exited
        for handler in node.handlers:
            begin = raised
            if catches(handler, ("BaseException", "SystemExit")):
                begin, exited = raised | exited, States()
            parts.append(self._block(handler.body, begin))
            lines.append(handler.lineno)
        ways.early(Ways(broken=body.broken, continued=body.continued, returned=body.returned, exited=exited))
        ended = any(state.ended for part in parts for state in part.next)
        for part, line in zip(parts, lines, strict=True):
            ways.early(part)
            came = ended and not any(state.ended for state in states)
            ways.next |= _parted(part.next, line) if came else part.next
        onward = frozenset(self._raised.pop())
        if not any(catches(handler, ("BaseException", "Exception")) for handler in node.handlers):
            onward |= raised
        return self._finally(node.finalbody, ways, onward)

    def _finally(self, body: list[ast.stmt], ways: Ways, raised: States) -> Ways:
        """Whatever way the block is left, `finally` is on it."""
        if not body:
            self._raised[-1] |= raised
            return ways
        done = Ways()
        for name in ("next", "broken", "continued", "returned", "exited"):
            part = self._block(body, getattr(ways, name))
            done.early(
                Ways(broken=part.broken, continued=part.continued, returned=part.returned, exited=part.exited)
            )
            setattr(done, name, getattr(done, name) | part.next)
        self._raised[-1] |= self._block(body, raised).next
        return done

    def _with(self, node: ast.With | ast.AsyncWith, states: States) -> Ways:
        ways = Ways()
        states = self._expressions([item.context_expr for item in node.items], states, ways)
        suppresses = any("suppress" in ast.unparse(item.context_expr) for item in node.items)
        self._raised.append(set())
        part = self._block(node.body, states)
        raised = frozenset(self._raised.pop())
        ways.early(part)
        if suppresses:
            ways.next = _merged(states, [part.next, raised], node.lineno)
        else:
            ways.next = part.next
            self._raised[-1] |= raised
        return ways

    def _match(self, node: ast.Match, states: States) -> Ways:
        ways = Ways()
        states = self._expressions([node.subject], states, ways)
        parts = [self._block(case.body, states) for case in node.cases]
        for part in parts:
            ways.early(part)
        last = node.cases[-1]
        whole = last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
        ways.next = _merged(states, [part.next for part in parts] + ([] if whole else [states]), node.lineno)
        return ways

    # Expressions ------------------------------------------------------------------------------------------------

    def _expressions(self, nodes: Iterable[ast.AST], states: States, ways: Ways) -> States:
        for node in nodes:
            if node in self.interesting and states:
                states = self._expression(node, states, ways)
        return states

    def _expression(self, node: ast.AST, states: States, ways: Ways) -> States:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            return states
        if isinstance(node, ast.BoolOp):
            states = self._expressions(node.values[:1], states, ways)
            return states | self._expressions(node.values[1:], states, ways)
        if isinstance(node, ast.IfExp):
            states = self._expressions([node.test], states, ways)
            return self._expressions([node.body], states, ways) | self._expressions(
                [node.orelse], states, ways
            )
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            return states | self._expressions(ast.iter_child_nodes(node), states, ways)
        states = self._expressions(ast.iter_child_nodes(node), states, ways)
        if not isinstance(node, ast.Call):
            return states
        if self.leaves(node):
            self._raised[-1] |= states
            ways.exited |= _parted(states, node.lineno)
            return States()
        name = called_name(node)
        if name in self.functions:
            return self._function(name, states, ways)
        return self.happens(node, states)

    def _function(self, name: str, states: States, ways: Ways) -> States:
        if name in self._within:
            return states
        self._within.append(name)
        part = self._block(
            self.functions[name].body, frozenset(replace(each, tests=frozenset()) for each in states)
        )
        self._within.pop()
        ways.exited |= part.exited
        return part.next | part.returned


def _parted(states: States, line: int) -> States:
    return frozenset(state if state.ended else replace(state, line=line) for state in states)


def _merged(before: States, branches: list[States], line: int) -> States:
    """Branches that come together; where one ended the job, the others parted from it here."""
    found = frozenset().union(*branches)
    if any(each.ended for each in found) and not any(each.ended for each in before):
        return _parted(found, line)
    return found


def _forgetting(statement: ast.stmt, states: States) -> States:
    if not any(state.tests for state in states):
        return states
    names = conditions.changed(statement)
    return frozenset(replace(state, tests=conditions.without(state.tests, names)) for state in states)
