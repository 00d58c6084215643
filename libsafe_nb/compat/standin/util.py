"""Small conversions."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["format_json_item", "parse_json_item"]


def format_json_item(item: Any) -> str:
    """JSON of any item as text for people to read, indented. Vendor; what JSON does not know is written as text."""
    return json.dumps(item, indent=4, ensure_ascii=False, default=str)


def parse_json_item(text: str | bytes) -> Any:
    """The item that JSON text stands for. Ours."""
    return json.loads(text)
