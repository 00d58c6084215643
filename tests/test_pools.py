"""Whose workers are given which calls, what a call says in place of its function, and looks at many calls at once."""

import contextlib
import threading
import time
import uuid

import pytest

from libsafe_nb import errors
from libsafe_nb import functions as functions_
from libsafe_nb.client import Client
from libsafe_nb.functions import Functions
from libsafe_nb.local import queuetables
from libsafe_nb.local.database import MIGRATIONS, SCHEMA, Database


@pytest.fixture
def held(functions, publish):
    """A function that no worker of the platform begins."""
    key = publish("print(1)")
    functions.update(key, paused=True)
    return key


@pytest.fixture
def workflow(connection, container):
    """The job of a workflow with its own hosts, and the functions as it sees them."""
    job = connection.client.create_job(container, name="workflow")["id"]
    connection.client.call("job_update", job=job, json={"hosts": "own", "status": "RUNNING"})
    settings = connection.settings
    with Client(settings.url, settings.key_user, job=job) as client:
        yield job, Functions(client)
    with contextlib.suppress(errors.Conflict):
        connection.client.update_job(job, status="CANCELLED")


def host(job, slots=1, name="h1/"):
    return {"root": job, "host": name, "slots": slots}


def test_what_a_workflow_with_own_hosts_calls_is_given_to_these_alone(
    connection, functions, publish, workflow, container
):
    job, mine = workflow
    key = publish("print(1)")
    made = mine.call(key, container=container, timeout=7, attempts=2)
    assert (made["root_job_id"], made["timeout"], made["attempts_most"]) == (job, 7, 2)
    assert functions.claim("x/1", lease=60, wait=0.5) is None
    assert functions.claim("h9/1", lease=60, wait=0, host=host(str(int(job) + 1000), name="h9/")) is None
    assert functions.host(job, "h1/", 1) == {"hire": True, "open": True}
    assert not functions.host(job, "h1/", 1, alive=1)["hire"]
    taken = functions.claim("h1/1", lease=60, wait=0, host=host(job))
    assert (taken["id"], taken["timeout"]) == (made["id"], 7)

    # What it calls is of the same workflow; it holds no place while it waits, at any depth.
    settings = connection.settings
    with Client(settings.url, settings.key_user, job=taken["job_id"]) as client:
        below = Functions(client).call(key, container=container)
    assert below["root_job_id"] == job
    assert functions.host(job, "h1/", 1, alive=1)["hire"]
    assert functions.claim("h1/2", lease=60, wait=0, host=host(job))["id"] == below["id"]
    mine.call(key, container=container)
    assert functions.claim("h1/3", lease=60, wait=0, host=host(job)) is None
    assert functions.claim("h2/1", lease=60, wait=0, host=host(job, name="h2/")) is not None

    # Those of a host that died are free at once, and those of an ended workflow the platform's.
    assert functions.host(job, "h2/", 1, died=["h1/1", "h2/"])["hire"]
    assert functions.claim("h2/2", lease=60, wait=0, host=host(job, name="h2/")) is not None


def test_what_a_workflow_leaves_is_run_by_the_platform(connection, functions, publish, workflow, container):
    job, mine = workflow
    made = mine.call(publish("print(1)"), container=container)
    time.sleep(0.5)
    assert functions.get_call(made["id"])["status"] == "queued"
    connection.client.update_job(job, status="FAILED")
    ended = functions.look([made["id"]], ended=True, wait=20)

    assert [(each["status"], each["job"]["status"]) for each in ended] == [("completed", "COMPLETED")]
    assert ended[0]["job"]["result"]["evidence"].startswith("libsafe://")


def test_many_calls_are_looked_at_at_once_and_an_end_is_told_when_it_comes(functions, held, container):
    made = [functions.call(held, container=container)["id"] for _ in range(3)]
    assert [(each["id"], each["status"]) for each in functions.look([*made, "999999999"])] == [
        (each, "queued") for each in made
    ]
    assert functions.look(made, ended=True) == []
    said = []

    def wait():
        found = functions.look(made, ended=True, wait=10)
        said.append((time.monotonic(), [each["id"] for each in found]))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    functions.cancel(made[1])
    ended = time.monotonic()
    waiting.join()
    assert said[0][1] == [made[1]]
    assert said[0][0] - ended < 0.5
    for each in made:
        functions.cancel(each)


def test_a_function_by_path_has_one_version_for_equal_bytes_and_no_trigger(functions, container):
    key = functions_.key_by_path("/some where/Größe 1.ipynb")
    assert key == "by-path.gr-e-1"
    one, two = (f'{{"x": "{uuid.uuid4()}"}}'.encode() for _ in "12")
    made = [
        functions.publish(key, data, name="n.ipynb", listed=False)["version"] for data in (one, two, one, two)
    ]
    assert made[:2] == made[2:]
    assert made[1] == made[0] + 1
    assert key not in [each["key"] for each in functions.all()]
    assert key in [each["key"] for each in functions.all(unlisted=True)]
    with pytest.raises(errors.PlatformError, match="calls by path"):
        functions.add_trigger(key, "on_demand")
    with pytest.raises(errors.PlatformError, match="begins with by-path"):
        functions.publish("by-path.x", one, name="n.ipynb")
    with pytest.raises(errors.PlatformError, match="attempts: expected a number from 1 to 100"):
        functions.call(key, container=container, attempts=0)


def test_rows_of_the_version_before_get_their_workflows(tmp_path):
    """A chain of three calls below a job that is none's."""
    path = tmp_path / "rows.sqlite3"
    db = Database(path)
    db.close()
    path.unlink()
    import sqlite3

    old = sqlite3.connect(path)
    old.executescript(f"{SCHEMA}{queuetables.TABLES}PRAGMA user_version=2;")
    old.executescript("INSERT INTO user (id, name, date_create) VALUES (1, 'u', '');"
        "INSERT INTO container (id, name, owner_id, date_create) VALUES (1, 'c', 1, '');"
        "INSERT INTO function (id, key, version, date_create) VALUES (1, 'f', 1, '');")  # fmt: skip
    for job, call, parent in ((1, None, None), (2, 1, 1), (3, 2, 2), (4, 3, 3), (5, 4, None)):
        old.execute(
            "INSERT INTO job (id, container_id, user_id, status, date_create, call_id) VALUES (?, 1, 1, 'RUNNING', '', ?)",
            (job, call),
        )
        if call:
            old.execute(
                "INSERT INTO call (id, function_id, trigger, container_id, user_id, files, params, status, job_id, parent_job,"
                " date_create) VALUES (?, 1, '{}', 1, 1, '{}', '{}', 'queued', ?, ?, '')",
                (call, job, parent),
            )
    old.commit()
    old.close()
    db = Database(path)
    with contextlib.closing(db):
        assert max(MIGRATIONS) == db.one("PRAGMA user_version")[0]
        assert [row["root_job"] for row in db.all("SELECT * FROM call ORDER BY id")] == [1, 1, 1, None]
