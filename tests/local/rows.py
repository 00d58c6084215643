"""Rows of a platform, made by the tests."""

import json

from libsafe_nb.local import firing, queue
from libsafe_nb.local.database import now


def order(function, **more):
    return queue.Order(function, 1, 1, {"id": "0", "type": "on_demand", "regex": ""}, **more)


def trigger(db, function, **columns):
    return db.insert(
        "function_trigger", function_id=function, date_create=now(), **{"container_id": 1, **columns}
    )


def new_file(db, path, **columns):
    row = {"mime": "text/plain", "size": 5, "date_create": now(), "date_update": now(), **columns}
    return db.insert("file", container_id=1, path=path, filename=path.rpartition("/")[2], type="FILE", **row)


def fire(db, file, kind="file_created", job=None):
    firing.fire(db, kind, db.one("SELECT * FROM file WHERE id = ?", (file,)), job)


def new_function(db, key="f", **settings):
    made = db.insert("function", key=key, version=1, date_create=now(), **settings)
    db.insert(
        "function_version",
        function_id=made,
        number=1,
        sha256="0" * 64,
        kind="notebook",
        name="f.ipynb",
        title=key,
        description="",
        parameters="[]",
        user_id=1,
        date_create=now(),
    )
    return made


def status(db, call):
    return queue.find(db, call)["status"]


def end(db, call, status, result=None, at=0.0):
    """The end of the call's job, as `job_update` writes it."""
    job = queue.find(db, call)["job_id"]
    db.execute("UPDATE job SET status = ?, result = ? WHERE id = ?", (status, json.dumps(result), job))
    queue.job_ended(db, job, at)


ERRORED = {"status": "errored", "error": {"type": "KernelDied", "message": "it died", "cell_id": None}}


def begun(db, call):
    db.execute("UPDATE job SET status = 'RUNNING' WHERE id = ?", (queue.find(db, call)["job_id"],))


def child(db, parent, function, **more):
    """A call that a running call asks for."""
    row = queue.find(db, parent)
    return queue.make(db, order(function, parent_job=row["job_id"], depth=row["depth"] + 1, **more))


def claims(db, count=20):
    """What so many workers get, each of which goes on."""
    found = (
        queue.claim(db, queue.Claimer(f"w{n}-{db.one('SELECT count(*) FROM call')[0]}"), 60, 0.0)
        for n in range(count)
    )
    return [each["id"] for each in found if each]
