"""
The rows of functions, triggers, events and calls: what version 2 of the schema adds, and version 3 for workflows.

No look at the queue reads all of it: `batch` and `tally` hold counts, and every question has its index. `tally` is kept by
SQLite itself, whoever changes a call; `batch` by `firing`, which alone makes and takes events.
"""

TABLES = """
CREATE TABLE function (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  version INTEGER NOT NULL,            -- the current one; going back points it to an older one
  enabled INTEGER NOT NULL DEFAULT 1,  -- 0: no event counts, nothing is started
  paused INTEGER NOT NULL DEFAULT 0,   -- 1: calls are taken and wait
  concurrency INTEGER,                 -- calls of it that run at once; null: as many as there are workers
  container_concurrency INTEGER NOT NULL DEFAULT 4,  -- calls that run at once in a container for one of it to start
  attempts INTEGER NOT NULL DEFAULT 3, -- of a call that could not be executed
  backoff REAL NOT NULL DEFAULT 5,     -- seconds before the second attempt, doubled for each further one
  timeout REAL,                        -- seconds of one execution
  queue_limit INTEGER NOT NULL DEFAULT 1000,  -- waiting calls beyond which one on demand is refused for now
  date_create TEXT NOT NULL
);
CREATE TABLE function_version (  -- the bytes never change; they lie in ROOT/functions under their digest
  function_id INTEGER NOT NULL REFERENCES function(id),
  number INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  title TEXT NOT NULL,
  description TEXT NOT NULL,
  parameters TEXT NOT NULL,
  user_id INTEGER NOT NULL REFERENCES user(id),
  date_create TEXT NOT NULL,
  PRIMARY KEY (function_id, number)
) WITHOUT ROWID;

CREATE TABLE function_trigger (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  function_id INTEGER NOT NULL REFERENCES function(id),
  type TEXT NOT NULL,
  container_id INTEGER REFERENCES container(id),  -- null: any
  path_regex TEXT,
  name_regex TEXT,
  mime TEXT,
  size_min INTEGER,
  size_max INTEGER,
  schedule TEXT,
  batch_files INTEGER NOT NULL DEFAULT 100,
  batch_seconds REAL NOT NULL DEFAULT 1,
  params TEXT NOT NULL DEFAULT '{}',
  enabled INTEGER NOT NULL DEFAULT 1,
  next_due REAL,  -- of a clock trigger
  date_create TEXT NOT NULL,
  error TEXT  -- why the platform disabled it; null: it did not
);
CREATE INDEX trigger_due ON function_trigger (next_due) WHERE next_due IS NOT NULL;
CREATE INDEX trigger_type ON function_trigger (type, enabled);

CREATE TABLE event (  -- what has happened and is in no call yet
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  trigger_id INTEGER NOT NULL REFERENCES function_trigger(id) ON DELETE CASCADE,
  container_id INTEGER NOT NULL,
  file_id INTEGER NOT NULL,
  ancestors TEXT NOT NULL,  -- functions whose jobs led to it, as a JSON list in order
  cause_job INTEGER,
  at REAL NOT NULL
);
CREATE INDEX event_group ON event (trigger_id, container_id, ancestors);

CREATE TABLE batch (  -- events of one trigger and container, and of the same causes, that become calls together
  trigger_id INTEGER NOT NULL REFERENCES function_trigger(id) ON DELETE CASCADE,
  container_id INTEGER NOT NULL,
  ancestors TEXT NOT NULL,
  waiting INTEGER NOT NULL,
  due REAL NOT NULL,  -- when it is full, or its first event has waited long enough
  PRIMARY KEY (trigger_id, container_id, ancestors)
) WITHOUT ROWID;
CREATE INDEX batch_due ON batch (due);

CREATE TABLE call (  -- one execution that is to be, is, or was
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  function_id INTEGER NOT NULL REFERENCES function(id),
  trigger_id INTEGER,
  trigger TEXT NOT NULL,     -- as the payload tells it
  container_id INTEGER NOT NULL REFERENCES container(id),
  user_id INTEGER NOT NULL REFERENCES user(id),
  files TEXT NOT NULL,       -- {"ids", "paths"}
  params TEXT NOT NULL,
  version INTEGER,           -- that was asked for; null: the current one when it starts
  ran INTEGER,               -- the version of the last attempt
  status TEXT NOT NULL,
  job_id INTEGER NOT NULL REFERENCES job(id),  -- of the current or last attempt
  attempts INTEGER NOT NULL DEFAULT 0,
  priority INTEGER NOT NULL DEFAULT 0,
  not_before REAL NOT NULL DEFAULT 0,
  lease_owner TEXT,
  lease_until REAL,
  ancestors TEXT NOT NULL DEFAULT '[]',
  depth INTEGER NOT NULL DEFAULT 0,
  cause_job INTEGER,
  parent_job INTEGER,        -- whose function asked for it, by `libsafe_nb.call`
  parent_run TEXT,           -- of that job, where it said so
  error TEXT,
  date_create TEXT NOT NULL,
  date_end TEXT
);
CREATE INDEX call_queue ON call (status, function_id, depth, priority DESC, id, not_before, container_id);
CREATE INDEX call_asked ON call (function_id, depth, priority DESC, id) WHERE status = 'queued' AND parent_job IS NOT NULL;
CREATE INDEX call_later ON call (function_id, not_before) WHERE status = 'queued';
CREATE INDEX call_place ON call (function_id, container_id) WHERE status = 'queued';
CREATE INDEX call_status ON call (status, id);
CREATE INDEX call_function ON call (function_id, id);
CREATE INDEX call_ended ON call (date_end, id) WHERE status IN ('completed', 'failed', 'cancelled');
CREATE INDEX call_waiting ON call (function_id, user_id) WHERE status = 'queued';
CREATE INDEX call_parent ON call (parent_job) WHERE parent_job IS NOT NULL;
CREATE INDEX call_trigger ON call (trigger_id, status);
ALTER TABLE job ADD COLUMN call_id INTEGER;
CREATE INDEX job_call ON job (call_id) WHERE call_id IS NOT NULL;

CREATE TABLE tally (  -- how many calls are in each state; `pruned` are those whose rows are gone
  function_id INTEGER NOT NULL,
  status TEXT NOT NULL,
  calls INTEGER NOT NULL,
  PRIMARY KEY (function_id, status)
) WITHOUT ROWID;

CREATE TRIGGER call_made AFTER INSERT ON call BEGIN
  INSERT INTO tally VALUES (NEW.function_id, NEW.status, 1)
    ON CONFLICT (function_id, status) DO UPDATE SET calls = calls + 1;
END;
CREATE TRIGGER call_moved AFTER UPDATE OF status ON call WHEN NEW.status <> OLD.status BEGIN
  UPDATE tally SET calls = calls - 1 WHERE function_id = OLD.function_id AND status = OLD.status;
  INSERT INTO tally VALUES (NEW.function_id, NEW.status, 1)
    ON CONFLICT (function_id, status) DO UPDATE SET calls = calls + 1;
END;
CREATE TRIGGER call_pruned AFTER DELETE ON call BEGIN
  UPDATE tally SET calls = calls - 1 WHERE function_id = OLD.function_id AND status = OLD.status;
  INSERT INTO tally VALUES (OLD.function_id, 'pruned', 1)
    ON CONFLICT (function_id, status) DO UPDATE SET calls = calls + 1;
END;
"""

WORKFLOWS = """
ALTER TABLE function ADD COLUMN listed INTEGER NOT NULL DEFAULT 1;  -- 0: made for calls by path, and in no list
ALTER TABLE job ADD COLUMN hosts TEXT NOT NULL DEFAULT 'platform';  -- who runs what is called below it: platform, or own
ALTER TABLE call ADD COLUMN root_job INTEGER;       -- of the topmost caller; null where no job asked for it
ALTER TABLE call ADD COLUMN pool INTEGER NOT NULL DEFAULT 0;  -- the root job whose own workers run it; 0: the platform's do
ALTER TABLE call ADD COLUMN timeout REAL;           -- seconds of one execution; null: as the function says
ALTER TABLE call ADD COLUMN attempts_most INTEGER;  -- null: as the function says
WITH RECURSIVE below(id, root) AS (
  SELECT c.id, c.parent_job FROM call c JOIN job j ON j.id = c.parent_job LEFT JOIN call p ON p.id = j.call_id
    WHERE p.parent_job IS NULL
  UNION SELECT c.id, b.root FROM below b JOIN job j ON j.call_id = b.id JOIN call c ON c.parent_job = j.id
)
UPDATE call SET root_job = below.root FROM below WHERE call.id = below.id;
DROP INDEX call_queue;
DROP INDEX call_asked;
DROP INDEX call_later;
DROP INDEX call_place;
CREATE INDEX call_queue ON call (status, function_id, pool, depth, priority DESC, id, not_before, container_id);
CREATE INDEX call_asked ON call (function_id, pool, depth, priority DESC, id)
  WHERE status = 'queued' AND parent_job IS NOT NULL;
CREATE INDEX call_later ON call (function_id, pool, not_before) WHERE status = 'queued';
CREATE INDEX call_place ON call (function_id, pool, container_id) WHERE status = 'queued';
CREATE INDEX call_root ON call (root_job, status) WHERE root_job IS NOT NULL;
"""
