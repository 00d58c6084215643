"""What a worker does with calls that it cannot run, and with its lease while it waits."""

import contextlib
import sqlite3
import threading
import time
import uuid

import pytest
from engine_runs import wait_for

from libsafe_nb import recover, worker
from libsafe_nb.client import Client
from libsafe_nb.errors import Forbidden
from libsafe_nb.local.root import Root


@pytest.fixture
def rows(platform):
    """The platform's rows, changed behind its back: no call takes a grant away."""

    def rows(sql, *values):
        with (
            contextlib.closing(sqlite3.connect(Root(platform.root).database, timeout=30)) as database,
            database,
        ):
            database.execute(sql, values)

    return rows


@pytest.fixture
def theirs(platform):
    """A container of another user's, in which functions may work."""
    with Client(platform.settings.url, platform.settings.key_root) as root:
        made = root.create_user(f"other {uuid.uuid4()}")
    with Client(platform.settings.url, made["key"]) as other:
        found = other.create_container("theirs")["id"]
        other.grant(found, "1")
    return found


@pytest.fixture
def waiting(functions, publish, theirs, rows):
    """A call that waits in a container whose grant is withdrawn then; its function is paused."""
    key = publish("print(1)")
    functions.update(key, paused=True)
    call = functions.call(key, container=theirs)
    rows("DELETE FROM access WHERE user_id = 1 AND container_id = ?", int(theirs))
    return call


@pytest.fixture
def root_functions(platform):
    with Client(platform.settings.url, platform.settings.key_root) as root:
        yield worker.Functions(root)


def test_a_call_whose_grant_was_withdrawn_while_it_waited_fails_with_the_true_sentence(
    functions, waiting, root_functions, theirs
):
    functions.update(waiting["function"], paused=False)
    found = wait_for(
        lambda: (
            (seen := root_functions.get_call(waiting["id"]))["status"] not in ("queued", "running") and seen
        ),
        60,
    )
    assert (found["status"], found["attempts"]) == ("failed", 1)
    assert f"container {theirs}: the platform's own user" in found["error"]
    assert "workers" not in functions.queue()["trouble"]


@pytest.mark.parametrize(("job", "then"), [("QUEUED", "queued"), ("RUNNING", "running")])
def test_a_worker_settles_a_call_whose_job_it_may_not_see_any_more(
    connection, waiting, root_functions, rows, job, then
):
    """Withdrawn between the claim and the run, or amid the run."""
    working = worker.Worker(connection)
    rows(
        "UPDATE call SET status = 'running', attempts = 1, lease_owner = ?, lease_until = ? WHERE id = ?",
        working.owner,
        time.time() + 300,
        int(waiting["id"]),
    )
    rows("UPDATE job SET status = ? WHERE id = ?", job, int(waiting["job_id"]))
    with pytest.raises(Forbidden) as refused:
        working._ready(waiting)
    working._refused(waiting, refused.value)
    found = root_functions.get_call(waiting["id"])

    assert (found["status"], found["worker"]) == (then, None)
    if job == "QUEUED":
        assert "belongs to a container that is not yours" in found["error"]
        root_functions.cancel(waiting["id"])
    else:
        # Evidence may wait on this machine: it is not said to have failed.
        assert found["error"] is None
        root_functions._client.update_job(waiting["job_id"], status="CANCELLED")


def test_the_lease_is_kept_while_what_others_left_is_finished(connection, monkeypatch):
    """However long that takes: another would be given the same call."""
    renewed = threading.Event()
    monkeypatch.setattr(worker, "KEEP", 0.02)

    class Calls:
        claimed = iter([{"id": "1", "job_id": "1"}, None])

        def claim(self, owner, **_):
            return next(self.claimed)

        def renew(self, call, owner, *, lease):
            assert (call, lease) == ("1", worker.LEASE)
            renewed.set()
            return True

        def release(self, *_, **__):
            return {"status": "running"}

    def finishing(**_):
        # The storage is away.
        assert renewed.wait(30)
        raise Forbidden("enough", status=403)
        yield

    monkeypatch.setattr(recover, "recover", finishing)
    working = worker.Worker(connection)
    working.functions = Calls()
    working.work()
    assert renewed.is_set()
