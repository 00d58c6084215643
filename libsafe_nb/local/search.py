"""
Advanced file search: the vendor's properties and operators, as SQL with bound values.

Pages are in the order of the ids, each from where the one before ended. So the rows are walked by id, or looked up by
what is asked for, id or whole path. An index of anything else would have each page find and sort all that fits: with
the number of files the time of a whole search would grow by its square. The unary `+` keeps SQLite from such indices.
"""

from __future__ import annotations

from typing import Any

from libsafe_nb.local import files
from libsafe_nb.local.ask import MAX_ID, Problem

_COLUMNS = {
    "id": "file.id",
    "container_id": "+file.container_id",
    "parent": "file.parent",
    "filename": "file.filename",
    "fullpath": "('/' || file.path)",
    "deleted": "file.deleted",
    "size": "file.size",
    "type": "file.type",
    "structure": "file.structure",
    "format": "file.format",
    "mime": "file.mime",
    "date_create": "file.date_create",
    "date_update": "file.date_update",
    "storage_class_id": "file.storage_class_id",
}
_NUMBERS = {"id", "container_id", "parent", "deleted", "size"}
_METADATA = "metadata."
_COMPARISONS = {"gt": ">", "lt": "<", "gte": ">=", "lte": "<="}
_TEXTUAL = {"like", "starts_with", "ends_with"}
OPERATORS = (*sorted(_TEXTUAL), "eq", "!eq", "in", "not_in", *_COMPARISONS)
MAX_CONDITIONS = 50
MAX_VALUES = 1000

Clause = tuple[str, list[Any]]


def query(conditions: Any, *, user: int | None, after: int, limit: int) -> Clause:
    """
    The rows for which all conditions hold, from the id `after` on, `limit` at most, with what `files.shape` needs.

    Only files of containers that `user` may see; None sees all.

    Raises
    ------
    Problem
        As `where`.
    """
    clause, values = where(conditions)
    mine = f"{_COLUMNS['container_id']} IN (SELECT container_id FROM access WHERE user_id = ?)"  # noqa: S608 - constants
    if user is not None:
        clause, values = f"{clause} AND {mine}", [*values, user]
    if _by_path(conditions):
        # Whole paths are found in the index of containers and paths.
        clause = clause.replace(_COLUMNS["container_id"], "file.container_id")
    return f"{files.SELECT} WHERE file.id > ? AND {clause} ORDER BY file.id LIMIT ?", [after, *values, limit]


def _by_path(conditions: Any) -> bool:
    return any(each["property"] == "fullpath" and each["operator"] in ("eq", "in") for each in conditions)


def where(conditions: Any) -> Clause:
    """
    SQL for which all conditions hold, and its values. Deleted files are left out unless `deleted` is asked about.

    Raises
    ------
    Problem
        400 for a property or an operator that does not exist, or a value that it cannot take.
    """
    if not isinstance(conditions, list) or len(conditions) > MAX_CONDITIONS:
        raise Problem(400, f"conditions: expected a list of at most {MAX_CONDITIONS}")
    clauses: list[str] = []
    values: list[Any] = []
    asked: set[Any] = set()
    for at, condition in enumerate(conditions):
        place = f"conditions[{at}]"
        if not isinstance(condition, dict):
            raise Problem(400, f"{place}: expected an object with property, operator and value")
        clause, bound = _one(condition, place)
        clauses.append(clause)
        values += bound
        asked.add(condition["property"])
    if "deleted" not in asked:
        clauses.append("NOT file.deleted")
    return " AND ".join(f"({clause})" for clause in clauses), values


def _one(condition: dict[str, Any], place: str) -> Clause:
    name, operator = condition.get("property"), condition.get("operator")
    if operator not in OPERATORS:
        known = ", ".join(OPERATORS)
        raise Problem(400, f"{place}.operator: expected one of {known}, got {str(operator)[:50]!r}")
    if "value" not in condition:
        raise Problem(400, f"{place}.value: is missing")
    if isinstance(name, str) and name.startswith(_METADATA) and len(name) > len(_METADATA):
        return _metadata(name.removeprefix(_METADATA), operator, condition["value"], place)
    if not isinstance(name, str) or name not in _COLUMNS:
        known = ", ".join([*_COLUMNS, "metadata.IECODE"])
        raise Problem(400, f"{place}.property: expected one of {known}, got {str(name)[:50]!r}")
    if name == "fullpath" and operator in ("eq", "in"):
        return _whole_path(operator, condition["value"], place)
    # The children of one folder are by id in the index of folders; those of several are not.
    walked = "+" if name == "parent" and operator != "eq" else ""
    return _compare(walked + _COLUMNS[name], operator, condition["value"], place, numeric=name in _NUMBERS)


def _whole_path(operator: str, value: Any, place: str) -> Clause:
    """On the column itself, without the slash that all paths are shown with: on that there is an index."""
    clause, values = _compare("file.path", operator, value, place, numeric=False)
    # What has no slash is no file's path; nor is null.
    return clause, [each[1:] if isinstance(each, str) and each.startswith("/") else None for each in values]


def _metadata(iecode: str, operator: str, value: Any, place: str) -> Clause:
    """Any of the descriptor's values; the negated operators want that none of them is."""
    negated = {"!eq": "eq", "not_in": "in"}.get(operator)
    clause, values = _compare("each_value.value", negated or operator, value, place, numeric=None)
    # Constants only: the IECODE and the values are bound.
    described = "file_metadata described, json_each(described.value) each_value"
    exists = f"EXISTS (SELECT 1 FROM {described} WHERE described.owner_id = file.id AND described.iecode = ? AND {clause})"  # noqa: S608
    return ("NOT " if negated else "") + exists, [iecode, *values]


def _compare(column: str, operator: str, value: Any, place: str, *, numeric: bool | None) -> Clause:
    """`numeric` None takes numbers and strings as they come."""
    if operator in ("in", "not_in"):
        if not isinstance(value, list) or len(value) > MAX_VALUES:
            raise Problem(400, f"{place}.value: expected a list of at most {MAX_VALUES} values")
        marks = ", ".join("?" * len(value))
        bound = [_scalar(each, place, numeric) for each in value]
        if operator == "not_in":
            # A file that has no such property is none of the values either.
            return f"coalesce({column}, '') NOT IN ({marks})", bound
        return f"{column} IN ({marks})", bound
    if operator in _TEXTUAL:
        if not isinstance(value, str):
            raise Problem(400, f"{place}.value: expected a string, got {type(value).__name__}")
        return _textual(column, operator, value)
    bound_value = _scalar(value, place, numeric)
    if operator == "eq":
        return f"{column} IS ?", [bound_value]
    if operator == "!eq":
        return f"{column} IS NOT ?", [bound_value]
    if bound_value is None:
        raise Problem(400, f"{place}.value: null cannot be greater or less")
    same_kind = "" if numeric is not None else f" AND typeof({column}) {_kind(bound_value)}"
    return f"{column} {_COMPARISONS[operator]} ?{same_kind}", [bound_value]


def _textual(column: str, operator: str, value: str) -> Clause:
    written = f"CAST({column} AS TEXT)"
    if operator == "like":
        # Only % is a wildcard there.
        return f"{written} LIKE ? ESCAPE '\\'", [value.replace("\\", "\\\\").replace("_", "\\_")]
    if not value:
        return "1", []
    if operator == "starts_with":
        return f"substr({written}, 1, ?) = ?", [len(value), value]
    return f"substr({written}, ?) = ?", [-len(value), value]


def _kind(value: Any) -> str:
    return "= 'text'" if isinstance(value, str) else "IN ('integer', 'real')"


def _scalar(value: Any, place: str, numeric: bool | None) -> Any:
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, str) and any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        raise Problem(400, f"{place}.value: holds a character that is none")
    if value is None or (numeric is None and isinstance(value, (str, float))):
        return value
    if numeric is False:
        if isinstance(value, (int, float)):
            return str(value)
        if isinstance(value, str):
            return value
    elif isinstance(value, (int, float)) and abs(value) <= MAX_ID:
        return value
    elif isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) < 19:
        return int(value)
    wanted = "a number" if numeric else "a string or a number"
    raise Problem(400, f"{place}.value: expected {wanted}, got {str(value)[:50]!r}")
