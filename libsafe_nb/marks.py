"""
Whose write an object is: the mark that a run leaves in the metadata of what it stores.

Metadata travels with every copy, and anybody may write some. So where the platform gives a job a key for it, the mark is
bound to container and path: on a copy under another name it says nothing, and who has no key cannot make one.
"""

from __future__ import annotations

import hashlib
import hmac

NAME = "libsafe-job"
"""The metadata's name."""


def mark(job: str, container: str, path: str, key: str | None) -> str:
    """`JOB:SIGNATURE`; the job's id alone for a platform that gives no key. `path` may begin with a slash."""
    if key is None:
        return job
    place = f"{job}\n{container}/{path.removeprefix('/')}"
    return f"{job}:{hmac.new(key.encode(), place.encode(), hashlib.sha256).hexdigest()}"


def job_of(said: str | None) -> str | None:
    """The id in a signed mark, which is not believed for that; None for anything else."""
    job, colon, _ = (said or "").partition(":")
    return job if colon and job.isascii() and job.isdecimal() and len(job) < 19 else None
