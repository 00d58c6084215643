"""The housekeeper: prunes rows and bytes that nobody needs, and keeps the logs bounded, for as long as the platform runs."""

from __future__ import annotations

import asyncio
import logging
import time

from libsafe_nb.local import answers, logs, pruning
from libsafe_nb.local.database import Database
from libsafe_nb.local.root import Root

log = logging.getLogger(__name__)

PERIOD = 10.0
"""Seconds between two rounds."""
PAUSE = 0.02
"""Seconds for others between two steps of one round."""


async def keep_house(root: Root, database: Database, trouble: dict[str, str]) -> None:
    """For ever; what cannot be done is logged, told in `trouble`, and tried in the next round."""
    while True:
        try:
            await one_round(root, database)
            trouble.pop("housekeeping", None)
        except Exception as exc:
            if "housekeeping" not in trouble:
                log.exception("housekeeping failed; trying again")
            trouble["housekeeping"] = f"old rows and logs cannot be removed ({exc})"
        await asyncio.sleep(PERIOD)


async def one_round(root: Root, database: Database) -> None:
    while pruning.prune_calls(database, time.time()):
        await asyncio.sleep(PAUSE)
    while answers.forget_old(database):
        await asyncio.sleep(PAUSE)
    pruning.prune_bytes(database, root.functions)
    for path in root.logs.glob("*.log"):
        if not path.name.endswith(".old.log"):
            await asyncio.to_thread(logs.bound, path)
