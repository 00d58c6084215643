"""
What version 3 of the schema adds: counts, so that no look at the queue reads all of it; and why a trigger was disabled.

`tally` is kept by SQLite itself, whoever changes a call; `batch` by `firing`, which alone makes and takes events.
"""

TABLES = """
ALTER TABLE function_trigger ADD COLUMN error TEXT;  -- why the platform disabled it; null: it did not
CREATE INDEX trigger_due ON function_trigger (next_due) WHERE next_due IS NOT NULL;

CREATE TABLE batch (  -- events of one trigger and container, and of the same causes, that become calls together
  trigger_id INTEGER NOT NULL REFERENCES function_trigger(id) ON DELETE CASCADE,
  container_id INTEGER NOT NULL,
  ancestors TEXT NOT NULL,
  waiting INTEGER NOT NULL,
  due REAL NOT NULL,  -- when it is full, or its first event has waited long enough
  PRIMARY KEY (trigger_id, container_id, ancestors)
) WITHOUT ROWID;
CREATE INDEX batch_due ON batch (due);
INSERT INTO batch SELECT trigger_id, container_id, ancestors, count(*), 0 FROM event GROUP BY 1, 2, 3;

CREATE TABLE tally (  -- how many calls are in each state; `pruned` are those whose rows are gone
  function_id INTEGER NOT NULL,
  status TEXT NOT NULL,
  calls INTEGER NOT NULL,
  PRIMARY KEY (function_id, status)
) WITHOUT ROWID;
INSERT INTO tally SELECT function_id, status, count(*) FROM call GROUP BY 1, 2;
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

DROP INDEX call_queue;
CREATE INDEX call_queue ON call (status, function_id, depth, priority DESC, id, not_before, container_id);
CREATE INDEX call_asked ON call (function_id, depth, priority DESC, id) WHERE status = 'queued' AND parent_job IS NOT NULL;
CREATE INDEX call_later ON call (function_id, not_before) WHERE status = 'queued';
CREATE INDEX call_place ON call (function_id, container_id) WHERE status = 'queued';
CREATE INDEX call_status ON call (status, id);
CREATE INDEX call_function ON call (function_id, id);
CREATE INDEX call_ended ON call (date_end, id) WHERE status IN ('completed', 'failed', 'cancelled');
"""
