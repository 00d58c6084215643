"""
What one look of the platform's queue costs with 100,000 waiting events and 100,000 queued calls of 20 functions.

    python benchmarks/queue_ticks.py

Prints milliseconds, the longest of several looks; the rows are made in a temporary folder.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libsafe_nb.local import accounts, firing, queue, schedule
from libsafe_nb.local.database import Database, now

FUNCTIONS, CALLS, EVENTS, LOOKS = 20, 100_000, 100_000, 7


def function(db: Database, number: int, **settings: Any) -> int:
    made = db.insert("function", key=f"f-{number}", version=1, date_create=now(), **settings)
    db.execute(
        "INSERT INTO function_version VALUES (?, 1, '', 'notebook', 'f.ipynb', 'f', '', '[]', 1, ?)",
        (made, now()),
    )
    return made


def events(db: Database, trigger: int, count: int, container: int = 1, prefix: str = "in") -> None:
    for number in range(count):
        path = f"{prefix}/{number:08d}.tif"
        file = db.insert(
            "file", container_id=container, path=path, filename=f"{number:08d}.tif", type="FILE", date_create=now(), date_update=now()
        )  # fmt: skip
        firing.fire(db, "file_created", db.one("SELECT * FROM file WHERE id = ?", (file,)), None)
    assert trigger


def longest(name: str, what: Callable[[], Any]) -> Any:
    """The longest of several, and how much of it was our own processor's time: other programs may have had the rest."""
    took, ours, answer = 0.0, 0.0, None
    for _ in range(LOOKS):
        began, busy = time.perf_counter(), time.process_time()
        answer = what()
        took, ours = max(took, time.perf_counter() - began), max(ours, time.process_time() - busy)
    print(f"{took * 1000:9.2f} ms, processor {ours * 1000:6.2f} ms  {name}: {str(answer)[:60]}")
    return answer


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        db = Database(Path(folder) / "rows.sqlite3")
        accounts.found(db, key_user="u" * 20, key_root="r" * 20, s3_access_key="")
        functions = [function(db, number) for number in range(FUNCTIONS)]
        trigger = db.insert(
            "function_trigger",
            function_id=functions[0],
            type="file_created",
            batch_files=10_000,
            batch_seconds=3600,
            date_create=now(),
        )
        with db.transaction():
            for number in range(CALLS):
                queue.make(db, queue.Order(functions[number % FUNCTIONS], 1, 1, {"id": "0"}, file_ids=()))
            # Nine triggers' worth: none is full, all wait for their time.
            for each in range(EVENTS // 9000):
                if each:
                    db.execute("INSERT INTO container (id, name, owner_id, date_create) VALUES (?, '', 1, '')", (each + 1,))  # fmt: skip
                    db.execute("INSERT INTO access VALUES (1, ?)", (each + 1,))
                events(db, trigger, 9000, each + 1)
        print(json.dumps({"events": db.one("SELECT count(*) FROM event")[0], "calls": db.one("SELECT count(*) FROM call")[0]}))  # fmt: skip
        at = time.time()
        longest("gather, nothing due", lambda: firing.gather(db, at))
        longest("clocks, none due", lambda: schedule.fire_due(db, at))
        longest("work waits", lambda: queue.work_waits(db, queue.Claimer("w"), at))
        longest(
            "claim (rolled back)",
            lambda: rolled_back(db, lambda: queue.claim(db, queue.Claimer("w"), 60, at)["id"]),
        )
        db.execute("UPDATE call SET not_before = ?", (at + 3600,))
        longest("work waits, all calls in back-off", lambda: queue.work_waits(db, queue.Claimer("w"), at))
        db.execute("UPDATE call SET not_before = 0")
        for _ in range(4):
            queue.claim(db, queue.Claimer(f"w{_}"), 3600, at)
        longest(
            "work waits, the container of all calls is full",
            lambda: queue.work_waits(db, queue.Claimer("w"), at),
        )
        longest("a look at 99,000 due events, 9,000 a call", lambda: firing.gather(db, at + 7200, 0.01))
        for files in (1, 100):
            db.execute("UPDATE function_trigger SET batch_files = ?", (files,))
            longest(f"the same, {files} a call", lambda: firing.gather(db, at + 7200, 0.01))
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:9.0f} MiB at most")
        db.close()


def rolled_back(db: Database, what: Callable[[], Any]) -> Any:
    db.execute("BEGIN IMMEDIATE")
    try:
        return what()
    finally:
        db.execute("ROLLBACK")


if __name__ == "__main__":
    main()
