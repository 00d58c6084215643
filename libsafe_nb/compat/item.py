"""What the stand-in answers: the platform's own objects, read as attributes or as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Item(dict[str, Any]):
    """
    One file, container, job or message: `item.id` and `item["id"]` are the same.

    It is a dictionary, so `json.dumps` and `Util.format_json_item` take it, and whatever else a platform sends
    stays in it. Ids are strings.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            known = ", ".join(sorted(self))
            raise AttributeError(f"no {name!r} in this object of the platform; it has {known}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self})


def id_of(thing: Any) -> str:
    """The id of an object, or the id itself, as a string."""
    if isinstance(thing, Mapping):
        thing = thing["id"]
    return str(getattr(thing, "id", thing))
