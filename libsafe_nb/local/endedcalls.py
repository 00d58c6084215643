"""The REST call by which whoever made many calls learns of their ends: one question for all of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from typing import Any

from libsafe_nb.local.ask import Ask, Problem, number, text

LOOK_SECONDS = 0.04
"""Between two looks for somebody who waits for an end; a client that has gone away is noticed at every tenth."""
LONGEST_WAIT = 20.0
MAX_CALLS = 10_000
HURRIES = 1000
"""Names of questions that are to be answered at once and may not have arrived yet; the oldest are forgotten."""

_hurried: OrderedDict[str, None] = OrderedDict()


async def call_ended(ask: Ask) -> dict[str, Any]:
    """
    Which of `calls` neither wait nor run any more, those left out that the user may not see; answered when there is one, or
    after `wait` seconds, or when another question says `hurry` with the name that this one has as its `question`.
    """
    fields = ask.fields()
    calls = fields.get("calls")
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise Problem(400, f"calls: expected a list of at most {MAX_CALLS} ids")
    ids = json.dumps([number(each, name="calls") for each in calls])
    wait = fields.get("wait", 0)
    if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait <= LONGEST_WAIT:
        raise Problem(400, f"wait: expected seconds from 0 to {LONGEST_WAIT:g}, got {str(wait)[:50]!r}")
    if fields.get("hurry") is not None:
        _hurried[f"{ask.user.id}/{text(fields['hurry'], 'hurry', most=64)}"] = None
        while len(_hurried) > HURRIES:
            _hurried.popitem(last=False)
    named = fields.get("question")
    question = None if named is None else f"{ask.user.id}/{text(named, 'question', most=64)}"
    deadline, looks = time.monotonic() + wait, 0
    while True:
        found = _ended(ask, ids)
        if found or (question in _hurried) or time.monotonic() >= deadline:
            break
        looks += 1
        if looks % 10 == 0 and await ask.request.is_disconnected():
            break
        await asyncio.sleep(LOOK_SECONDS)
    if question is not None:
        _hurried.pop(question, None)
    return {"ended": found}


def _ended(ask: Ask, ids: str) -> list[str]:
    mine = (
        "" if ask.user.root else " AND c.container_id IN (SELECT container_id FROM access WHERE user_id = ?)"
    )
    open_ = f"SELECT 1 FROM call c WHERE c.id = value AND c.status IN ('queued', 'running'){mine}"
    rows = ask.db.all(
        f"SELECT value FROM json_each(?) WHERE NOT EXISTS ({open_})",  # noqa: S608 - constants
        [ids, *([] if ask.user.root else [ask.user.id])],
    )
    return [str(row["value"]) for row in rows]
