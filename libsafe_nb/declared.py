"""
Declared parameters of a function: their types, how values are checked against them, and the plain data that tells of them.

    {"name": "size", "type": "int", "default": 3, "secret": false, "help": "…"}

Pure. Shared by whoever reads the notebook and by the local platform, which knows a published version's parameters by such
data alone.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from libsafe_nb import syntax
from libsafe_nb.errors import ParameterError
from libsafe_nb.secrets import PLACEHOLDER, Secret


@dataclass(frozen=True)
class Parameter:
    """A declared parameter; `type` is what values are checked against (`typing.Any`: nothing is known)."""

    name: str
    type: Any
    default: Any
    in_payload: bool
    """Declared in the default payload's `function_params`, not as a name of its own."""

    @property
    def secret(self) -> bool:
        """Annotated `Secret`: its value is supplied apart (`supplied.py`) and never stored."""
        return self.type is Secret


_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, list, dict)},
    **{name: getattr(typing, name) for name in ("Any", "Literal", "Optional", "Union", "List", "Dict")},
    "Secret": Secret,
    "None": None,
}


def annotation(source: str) -> Any:
    """The type an annotation names; `Any` for one that is not built from JSON's own types."""
    text = re.sub(r"\b(typing|libsafe_nb)\.", "", source)
    try:
        tree = syntax.parse_expression(text)
        if isinstance(tree.body, ast.Constant) and isinstance(tree.body.value, str):
            # A quoted annotation, as `from __future__ import annotations` has taught people to write.
            tree = syntax.parse_expression(tree.body.value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Any
    allowed = (
        ast.Expression,
        ast.Name,
        ast.Subscript,
        ast.Tuple,
        ast.Constant,
        ast.BinOp,
        ast.BitOr,
        ast.Load,
        ast.UnaryOp,
        ast.USub,
    )
    if not all(isinstance(each, allowed) for each in ast.walk(tree)):
        return Any
    try:
        # Only the names above, subscripts and `|` can stand in it: nothing of the author's is called.
        return eval(compile(tree, "<annotation>", "eval"), {"__builtins__": {}}, _NAMES)  # noqa: S307
    except Exception:
        return Any


def type_of(default: Any) -> Any:
    return Any if default is None else type(default)


def bind(
    function: str, parameters: Mapping[str, Parameter], given: Mapping[str, Any], *, known_only: bool
) -> dict[str, Any]:
    """
    Check values against the declared parameters and return them converted, defaults of the payload filled in.

    A string is converted to a declared number, boolean, list or object (the command line and, as far as is known,
    the platform send strings). Undeclared names pass untouched unless `known_only`.

    Raises
    ------
    ParameterError
        An undeclared name with `known_only`, or a value of another type.
    """
    bound = {each.name: copy.deepcopy(each.default) for each in parameters.values() if each.in_payload}
    for name, value in given.items():
        found = parameters.get(name)
        if found is None:
            if known_only:
                known = ", ".join(sorted(parameters)) or "none"
                raise ParameterError(
                    f"{function}: unknown parameter {name!r}; declared are: {known}", name=name
                )
            bound[name] = value
        else:
            bound[name] = convert(value, found)
    return bound


def convert(value: Any, parameter: Parameter) -> Any:
    """`value` as the parameter's type; see `bind`. That of a secret is text, or a placeholder for it."""
    if parameter.secret:
        if isinstance(value, str) or value == {PLACEHOLDER: parameter.name}:
            return value
        raise ParameterError(
            f"function_params.{parameter.name}: expected text, as it is a secret, got something else",
            name=parameter.name,
        )
    if _fits(value, parameter.type):
        return value
    if isinstance(value, str):
        for candidate in _readings(value):
            if _fits(candidate, parameter.type):
                return candidate
    shown = repr(value)[:60]
    raise ParameterError(
        f"function_params.{parameter.name}: expected {_name(parameter.type)}, got {shown}",
        name=parameter.name,
    )


def _readings(text: str) -> Iterable[Any]:
    words = {"true": True, "false": False, "none": None, "null": None, "": None}
    if text.lower() in words:
        yield words[text.lower()]
    try:
        yield json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in typing.get_args(kind))
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(kind))
    # `List` and `Dict` as they stand say nothing of what is in them.
    inner = (typing.get_args(kind) or (Any,))[-1]
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, inner) for each in value.values())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _name(kind: Any) -> str:
    return (
        kind.__name__
        if isinstance(kind, type) and typing.get_origin(kind) is None
        else str(kind).replace("typing.", "")
    )


# As plain data -------------------------------------------------------------------------------------------------------


def word(parameter: Parameter) -> str:
    """The type, as `annotation` reads it again."""
    kind = parameter.type
    if parameter.secret:
        return "secret"
    return "any" if kind is Any else _name(kind)


def of_plain(told: Iterable[Mapping[str, Any]]) -> dict[str, Parameter]:
    """
    The parameters that such data tells of, by name; what does not name itself is left out.

    Of a type that the data cannot tell (a tuple's), every value is taken: the run looks again.
    """
    found: dict[str, Parameter] = {}
    for each in told:
        name, said = each.get("name"), each.get("type")
        if isinstance(name, str):
            kind = annotation(said) if isinstance(said, str) else Any
            found[name] = Parameter(
                name, Secret if each.get("secret") else kind, each.get("default"), in_payload=False
            )
    return found


def check_queued(
    function: str, told: Iterable[Mapping[str, Any]], given: Mapping[str, Any], *, handler: bool
) -> None:
    """
    Whether a published function can be called with these values, which are stored plainly until it is.

    Parameters
    ----------
    function
        Its key, for the sentence.
    told
        The version's parameters as plain data.
    handler
        It is a plain handler, which declares none and takes what it is given.

    Raises
    ------
    ParameterError
        An undeclared name, a value of another type, a secret, or what stands for one.
    """
    parameters = of_plain(told)
    refuse_placeholders(given)
    refuse_secrets(function, parameters, given)
    if not handler:
        bind(function, parameters, given, known_only=True)


def refuse_secrets(function: str, parameters: Mapping[str, Parameter], given: Iterable[str]) -> None:
    """
    A secret comes from where the runner's machine keeps it: arguments, and what the platform stores, can be read by others.

    Raises
    ------
    ParameterError
        One of the names is that of a secret parameter.
    """
    for name in given:
        if name in parameters and parameters[name].secret:
            raise ParameterError(
                f"{function}: {name} is a secret, and is not taken from an argument; set LIBSAFE_SECRET_{name.upper()}",
                name=name,
            )


def refuse_placeholders(given: Mapping[str, Any], parameters: Mapping[str, Parameter] | None = None) -> None:
    """
    `{"$secret": NAME}` stands in a payload for a value that was kept out of it; whoever may write one chooses a secret of
    the machine that fills it in. So it is taken for a secret parameter only, and under its own name.

    Raises
    ------
    ParameterError
        There is another one, however deep.
    """
    for name, value in given.items():
        declared = (parameters or {}).get(name)
        if declared is not None and declared.secret and value == {PLACEHOLDER: name}:
            continue
        for place in _placeholders(value, f"function_params.{name}"):
            raise ParameterError(
                f'{place}: expected a value, got {{"{PLACEHOLDER}": …}}, which is for a parameter that the notebook'
                " declares as Secret, under its own name",
                name=name,
            )


def _placeholders(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        if PLACEHOLDER in value:
            yield place
        for name, each in value.items():
            yield from _placeholders(each, f"{place}.{name}")
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from _placeholders(each, f"{place}[{index}]")
