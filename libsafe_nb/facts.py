"""
What is settled of a run before its first step, as plain data that outlive its process (`facts.json`).

Whoever finishes the run, its runner or a recovery on this machine, makes the record from these, so they hold all that
the record says of the time before cell 1. They hold no secret.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libsafe_nb import atomic

SCHEMA = "libsafe-nb-run/1"
FILE = "facts.json"


@dataclass(frozen=True)
class Facts:
    """
    Attributes
    ----------
    job
        Of the payload or asked for; empty where one is to be created.
    function
        Names the folder of the evidence: the function's key, else the notebook's stem.
    notebook
        The notebook's file name.
    url, platform
        Where the platform is; `platform` is the path of a local platform's `platform.json`, else None.
    started
        As the record writes times.
    files
        The run's files as they stood at its start: `id`, `fullpath`, `size`, `version_id`.
    record
        What the record says that is known beforehand. The job's id is not in it.
    """

    run: str
    container: str
    job: str
    function: str
    notebook: str
    url: str
    platform: str | None
    host: str
    started: str
    files: list[dict[str, Any]]
    record: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Keep them in a run's folder, durably."""
        atomic.write_text(
            folder / FILE, json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, ensure_ascii=False)
        )

    @classmethod
    def read(cls, folder: Path) -> Facts | None:
        """Those of a run's folder; None where there are none, or none that this version can read."""
        try:
            found = json.loads((folder / FILE).read_bytes())
            if found.pop("schema") != SCHEMA:
                return None
            return cls(**found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
