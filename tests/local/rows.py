"""Rows of a platform, made by the tests."""

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
