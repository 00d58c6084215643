"""
The functions of a platform, their triggers and their queue: the client's calls about them.

All are ours (`unverified` in `endpoints.py`): the vendor's functions are made in its web interface.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from libsafe_nb.client import Client
from libsafe_nb.errors import PlatformError
from libsafe_nb.record import BY_PATH
from libsafe_nb.shapes import Job

Shape = dict[str, Any]


def key_by_path(name: str) -> str:
    """The key of the function that a file of this name is when it is called by its path."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", PurePath(name).stem.lower())[:80].strip("-.")
    return f"{BY_PATH}{stem or 'notebook'}"


class Functions:
    """
    Parameters
    ----------
    client
        Of the platform's own user, or with the root key: functions run with that user's keys, so others may only call
        them (`call`) and look.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    # Functions and their versions

    def publish(
        self,
        key: str,
        data: bytes,
        *,
        name: str,
        kind: str = "notebook",
        title: str = "",
        description: str = "",
        parameters: Sequence[Mapping[str, Any]] = (),
        listed: bool = True,
    ) -> Shape:
        """
        Store `data` as a new version, which becomes the current one; bytes that equal the current one's make none.

        `name` is the file's, whose extension says how it is read: equal bytes that are read otherwise are a new version.

        Without `listed` it is for calls by path: its key is that of `key_by_path`, it is in no list and takes no trigger, and
        bytes that equal those of any of its versions make none. Another may publish under the same key at this moment, so a
        call of it names the `version` of the answer.
        """
        body = {
            "key": key,
            "content": base64.b64encode(data).decode(),
            "name": name,
            "kind": kind,
            "title": title,
            "description": description,
            "parameters": [dict(each) for each in parameters],
            "listed": listed,
        }
        result: Shape = self._client.call("function_publish", json=body)
        return result

    def all(self, *, unlisted: bool = False) -> Iterator[Shape]:
        """With `unlisted` those too that were made for calls by path."""
        return self._client.pages("function_list", {}, params={"all": "true"} if unlisted else {})

    def get(self, key: str) -> Shape:
        result: Shape = self._client.call("function_get", function=key)
        return result

    def update(self, key: str, **changes: Any) -> Shape:
        """
        Any of `enabled`, `paused`, `version` (an existing number), `concurrency`, `container_concurrency`, `attempts`,
        `backoff`, `timeout`, `queue_limit`.
        """
        result: Shape = self._client.call("function_update", function=key, json=changes)
        return result

    def versions(self, key: str) -> list[Shape]:
        """Newest first."""
        return list(self._client.call("function_versions", function=key))

    def content(self, key: str, number: int) -> bytes:
        """
        The bytes of a version; for the platform's own user and root.

        Raises
        ------
        PlatformError
            They are not those whose SHA-256 the platform tells.
        """
        found = self._client.call("function_content", function=key, number=number)
        data = base64.b64decode(found["content"])
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != found["sha256"]:
            raise PlatformError(
                f"function {key}, version {number}: expected bytes with the SHA-256 {found['sha256']}, got {sha256}"
            )
        return data

    # Triggers

    def add_trigger(self, key: str, type: str, **about: Any) -> Shape:
        """
        `about`: `container_id`, `path_regex`, `name_regex`, `mime`, `size_min`, `size_max`, `batch_files`,
        `batch_seconds`, `schedule` (with type `cron`) and `params`.
        """
        body = {"function": key, "type": type, **{k: v for k, v in about.items() if v is not None}}
        result: Shape = self._client.call("trigger_create", json=body)
        return result

    def triggers(self, key: str | None = None) -> Iterator[Shape]:
        return self._client.pages("trigger_list", {}, params={"function": key} if key else {})

    def trigger(self, trigger: str) -> Shape:
        result: Shape = self._client.call("trigger_get", trigger=trigger)
        return result

    def enable_trigger(self, trigger: str, enabled: bool) -> Shape:
        result: Shape = self._client.call("trigger_update", trigger=trigger, json={"enabled": enabled})
        return result

    def remove_trigger(self, trigger: str) -> None:
        self._client.call("trigger_delete", trigger=trigger)

    # Calls

    def call(
        self,
        key: str,
        *,
        container: str,
        files: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
        version: int | None = None,
        priority: int = 0,
        timeout: float | None = None,
        attempts: int | None = None,
        run: str | None = None,
        idempotency_key: str | None = None,
        when_full: bool = True,
    ) -> Shape:
        """
        Queue a call; `files` are ids, or paths with a leading slash, where a folder stands for all in it. `run` is that
        of the client's job, if it has one: the call is that job's child. `timeout` (seconds of one execution) and `attempts` (in
        all) are the function's where they are not given.

        Raises
        ------
        Unreachable
            So many calls wait that the platform took no further one (HTTP 429), within the client's budget or, without
            `when_full`, at once.
        """
        body: Shape = {
            "container_id": container,
            "file_ids": [each for each in files if not each.startswith("/")],
            "paths": [each for each in files if each.startswith("/")],
            "params": dict(params or {}),
            "priority": priority,
        }
        if version is not None:
            body["version"] = version
        body |= {
            name: value
            for name, value in (("timeout", timeout), ("attempts", attempts), ("run", run))
            if value is not None
        }
        result: Shape = self._client.call(
            "call_create", function=key, json=body, idempotency_key=idempotency_key, when_full=when_full
        )
        return result

    def preview(
        self,
        key: str,
        *,
        container: str,
        files: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> Shape:
        """
        What `call` would make of the same, without making it: `version`, `sha256`, `kind`, `name`, `params` and `files` with
        their versions.
        """
        body: Shape = {
            "container_id": container,
            "file_ids": [each for each in files if not each.startswith("/")],
            "paths": [each for each in files if each.startswith("/")],
            "params": dict(params or {}),
            "version": version,
        }
        result: Shape = self._client.call("call_preview", function=key, json=body)
        return result

    def adopt(self, call: str, run: str) -> Shape:
        """Have an open call belong to the client's job, whose run this is, in place of the one that was interrupted."""
        result: Shape = self._client.call("call_update", call=call, json={"adopt": run})
        return result

    def calls(self, **by: Any) -> Iterator[Shape]:
        """By `status`, `function`, `container_id`; with `order="newest"` the newest first."""
        return self._client.pages("call_list", {}, params={k: v for k, v in by.items() if v is not None})

    def get_call(self, call: str) -> Shape:
        result: Shape = self._client.call("call_get", call=call)
        return result

    def look(
        self, calls: Sequence[str], *, ended: bool = False, wait: float = 0.0, question: str | None = None
    ) -> list[Shape]:
        """
        Many calls by one request: each as `get_call` tells it, with a `job` (`status`, `progress`, `result`, `date_start`,
        `date_end`, and `evidence`, where only a message tells it) and without its files and parameters.

        Parameters
        ----------
        calls
            At most 100,000 ids. Of those that are unknown, or not the user's, nothing is told.
        ended
            Tell those that have ended, and no others.
        wait
            Seconds, at most 20, to wait until one of them has ended; answered at once where one has before.
        question
            A name for this question, by which `hurry` ends the wait.
        """
        body = {"ids": list(calls), "ended": ended, "wait": wait, "question": question}
        result: list[Shape] = self._client.call("call_look", json=body)
        return result

    def hurry(self, question: str) -> None:
        """Have a question of `look` that waits answered at once, also one that has not arrived yet."""
        self._client.call("call_look", json={"ids": [], "hurry": question})

    def job(self, job: str) -> Job:
        """The job of a call: its `progress` from 0 to 1 (None when it has not said), when it started, and its state."""
        return self._client.job(job)

    def cancel(self, call: str) -> Shape:
        result: Shape = self._client.call("call_update", call=call, json={"status": "cancelled"})
        return result

    def prioritise(self, call: str, priority: int) -> Shape:
        result: Shape = self._client.call("call_update", call=call, json={"priority": priority})
        return result

    def workflow(self, **of: str) -> Shape:
        """
        A run and all that it called, as it is now: `root`, `calls`, `now`, and `after`, `since` and `more` for the next look.

        `of` is `job`, `run` or `function`, by default the newest that runs, and `after` and `since` of the look before: then
        only calls that are new or may have changed are told.
        """
        result: Shape = self._client.call("workflow_get", params=of)
        return result

    def requeue(self, call: str) -> Shape:
        result: Shape = self._client.call("call_requeue", call=call)
        return result

    # The queue

    def queue(self) -> Shape:
        """
        Counts by status (`pruned`: those whose rows are gone), `events` that wait to become calls, `paused`, `keep_days`,
        `keep_calls`, and `trouble`: sentences on what does not work.
        """
        result: Shape = self._client.call("queue_get")
        return result

    def keep(self, *, days: int | None = None, calls: int | None = None) -> Shape:
        """For how many days ended calls are kept, and how many; answers the queue."""
        body = {name: value for name, value in (("keep_days", days), ("keep_calls", calls)) if value}
        result: Shape = self._client.call("queue_update", json=body) if body else self.queue()
        return result

    def pause(self, paused: bool) -> Shape:
        result: Shape = self._client.call("queue_update", json={"paused": paused})
        return result

    def claim(
        self, owner: str, *, lease: float, wait: float, host: Mapping[str, Any] | None = None
    ) -> Shape | None:
        """A call for a worker; for one of a workflow's own, `host` holds `root`, `host` and `slots`."""
        body = {"owner": owner, "lease": lease, "wait": wait, **(host or {})}
        result: Shape | None = self._client.call("call_claim", json=body)
        return result

    def host(
        self, root: str, host: str, slots: int, *, alive: int = 0, died: Sequence[str] = (), wait: float = 0.0
    ) -> Shape:
        """
        What a host of a workflow's own workers has to know, of which `alive` are there: whether to `hire` one more, and whether
        the workflow is `open`. `died` are names of workers that are dead, or what these begin with. Waits up to `wait`
        seconds, at most 20, until one is to be hired.
        """
        body = {
            "root": root,
            "host": host,
            "slots": slots,
            "alive": alive,
            "died": list(died),
            "wait": wait,
        }
        result: Shape = self._client.call("host_look", json=body)
        return result

    def renew(
        self, call: str, owner: str, *, lease: float, progress: float | None = None, job: str | None = None
    ) -> bool:
        """Whether to go on with the call, of which `job` is being run."""
        given = {"owner": owner, "lease": lease, "progress": progress, "job_id": job}
        body = {name: value for name, value in given.items() if value is not None}
        return bool(self._client.call("call_renew", call=call, json=body)["go_on"])

    def release(
        self,
        call: str,
        owner: str,
        *,
        status: str | None = None,
        message: str | None = None,
        delay: float | None = None,
    ) -> Shape:
        """Done with a call whose job is open: settled as `status`, or to be taken up again after `delay` seconds."""
        given = {"owner": owner, "status": status, "message": message, "delay": delay}
        result: Shape = self._client.call(
            "call_release", call=call, json={k: v for k, v in given.items() if v is not None}
        )
        return result
