"""
Killed between any two statements: nothing is lost, nothing is done twice, and the counts stay true.

One story is told over and over by a process that ends itself at its first statement, at its second, and so on, each time
with a file of its own; and each time a process after it tells the story to its end.
"""

import subprocess
import sys

STORY = '''
import json, os, shutil, sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from local.rows import new_file, trigger
from libsafe_nb.local import accounts, firing, pruning, queue, schedule
from libsafe_nb.local.database import Database, now

folder = Path(sys.argv[1])
AT = 1_800_000_000.0


def opened(path):
    db = Database(path)
    db.execute("PRAGMA synchronous=OFF")  # a kill is no power loss
    return db


def begin(path):
    db = opened(path)
    accounts.found(db, key_user="u" * 20, key_root="r" * 20, s3_access_key="")
    made = db.insert("function", key="f", version=1, date_create=now(), backoff=0)
    db.execute(
        "INSERT INTO function_version VALUES (?, 1, '', 'notebook', 'f.ipynb', 'f', '', '[]', 1, '')", (made,)
    )
    trigger(db, made, type="file_created", batch_files=2, batch_seconds=0)
    trigger(db, made, type="day", next_due=AT - 5)
    old = queue.make(db, queue.Order(made, 1, 1, {"type": "old"}))
    queue.end_job(db, queue.find(db, old)["job_id"], "COMPLETED", "completed", "", AT)
    db.execute("UPDATE call SET date_end = '2000-01-01'")
    db.close()


def story(db):
    """As the platform tells it: the index, the gathering, the clock, a worker that fails once, pruning."""
    for name in "abc":
        # The stream tells it again; a row that is there is no change.
        if db.one("SELECT 1 FROM file WHERE path = ?", (name,)) is None:
            with db.transaction():
                file = new_file(db, name)
                firing.fire(db, "file_created", db.one("SELECT * FROM file WHERE id = ?", (file,)), None)
    firing.gather(db, AT * 2)
    schedule.fire_due(db, AT)
    with db.transaction():
        queue.abandon_leases(db)
    first = db.one("SELECT id FROM call WHERE trigger LIKE '%file_created%' ORDER BY id")["id"]
    for number in range(9):
        with db.transaction():
            call = queue.claim(db, queue.Claimer(f"w{number}"), 60, AT)
        if call is None:
            break
        once = db.one("SELECT count(*) FROM job WHERE call_id = ?", (call["id"],))[0] == 1
        with db.transaction():
            failed = call["id"] == first and once
            queue.end_job(db, call["job_id"], *(("FAILED", "errored") if failed else ("COMPLETED", "completed")), "x", AT)
    while pruning.prune_calls(db, 1_000_000_000.0):
        pass


def true(db):
    def same(one, other):
        assert sorted(map(tuple, db.all(one))) == sorted(map(tuple, db.all(other))), one

    same("SELECT function_id, status, count(*) FROM call GROUP BY 1, 2",
         "SELECT * FROM tally WHERE calls <> 0 AND status <> 'pruned'")
    same("SELECT trigger_id, count(*) FROM event GROUP BY 1", "SELECT trigger_id, sum(waiting) FROM batch GROUP BY 1")
    same("SELECT id FROM call", "SELECT c.id FROM call c JOIN job j ON j.id = c.job_id AND j.call_id = c.id")
    same("SELECT 1 WHERE 0", "SELECT id FROM job WHERE call_id IS NOT NULL AND call_id NOT IN (SELECT id FROM call)")
    waiting = [row["path"] for row in db.all("SELECT path FROM event JOIN file ON file.id = file_id")]
    called = [path for row in db.all("SELECT files FROM call") for path in json.loads(row[0])["paths"]]
    told = [row["path"] for row in db.all("SELECT path FROM file WHERE type = 'FILE'")]
    assert sorted([*waiting, *(path[1:] for path in called)]) == sorted(told), (waiting, called, told)


begin(folder / "first.sqlite3")
step = 0
while True:
    path = folder / "each.sqlite3"
    for left in folder.glob("each.sqlite3*"):
        left.unlink()
    shutil.copy(folder / "first.sqlite3", path)
    child = os.fork()
    if not child:
        db = opened(path)
        count = 0

        def killed(_):
            global count
            count += 1
            if count > step:
                os._exit(9)

        db.connection.set_trace_callback(killed)
        story(db)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    db = opened(path)
    true(db)
    story(db)
    true(db)
    ended = [tuple(row) for row in db.all("SELECT status, count(*) FROM call GROUP BY 1")]
    assert ended == [("completed", 3)], (step, ended)
    assert db.one("SELECT count(*) FROM call WHERE trigger LIKE '%day%'")[0] == 1
    assert db.one("SELECT calls FROM tally WHERE status = 'pruned'")[0] == 1
    db.close()
    if code == 0:
        break
    step += 1
print(step)
'''


def test_killed_between_any_two_statements_nothing_is_lost_or_done_twice(tmp_path):
    tests = __file__.rpartition("/local/")[0]
    done = subprocess.run(
        [sys.executable, "-c", STORY, str(tmp_path), tests], capture_output=True, text=True, timeout=200
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80
