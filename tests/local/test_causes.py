"""Marks, by a clock of the test's own."""

import time

import pytest

from libsafe_nb.local import causes
from libsafe_nb.local.database import date_of, now

SECOND = 10**9


@pytest.fixture
def job(db):
    return db.insert("job", container_id=1, user_id=1, status="RUNNING", date_create=now())


@pytest.mark.parametrize(
    ("after", "own"), [(-3600, True), (causes.AFTER_END - 1, True), (causes.AFTER_END + 1, False)]
)
def test_a_write_is_its_jobs_by_when_it_was_made_not_by_when_it_is_read(db, job, after, own):
    """As what was stored while the platform was down, and is read when the job has long ended."""
    ended = time.time_ns() - 10 * 3600 * SECOND
    db.execute("UPDATE job SET status = 'COMPLETED', date_end = ? WHERE id = ?", (date_of(ended), job))
    said = causes.mark(db, job, 1, "a")

    assert causes.job_of(db, said, 1, "a", ended + int(after * SECOND)) == (job if own else None)


def test_a_mark_is_good_for_one_place_and_one_job(db, job):
    said = causes.mark(db, job, 1, "a")
    at = time.time_ns()
    other = db.insert("job", container_id=1, user_id=1, status="RUNNING", date_create=now())

    assert causes.job_of(db, said, 1, "a", at) == job
    assert causes.job_of(db, said, 1, "b", at) is None
    assert causes.job_of(db, said, 2, "a", at) is None
    assert causes.job_of(db, said.replace(str(job), str(other), 1), 1, "a", at) is None
    assert causes.job_of(db, str(job), 1, "a", at) is None
    assert causes.job_of(db, None, 1, "a", at) is None
    assert causes.job_of(db, said + "é", 1, "a", at) is None
