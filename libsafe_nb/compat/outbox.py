"""
Everything that a function changes leaves through here: one call over REST or S3, told to the run before and after.

Within a run some of it is the runner's to send, in the background (`desk.py`): the messages of the run's own job, and
hashes and metadata of files that the platform has shown to this function. Of a file that it has not shown nothing is
known, and a wrong id is to be told at the call. Whatever else is changed, or read, waits until what it could meet has
arrived; so a function finds its own writes, and things happen in their order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from libsafe_nb.compat.writing import Scanned, refuse
from libsafe_nb.door import STUB
from libsafe_nb.objects import refuse_evidence
from libsafe_nb.shapes import Container, Descriptor
from libsafe_nb.storage import Stored

if TYPE_CHECKING:
    from libsafe_nb.compat.session import Attached, Session

ENDED = {"COMPLETED": True, "FAILED": False, "CANCELLED": False}
"""The statuses that end a job, and the verdict that each is."""


class Outbox:
    """The writes of one session. Each raises what the client or the storage raises, and is then told as failed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # What the platform knows of a file or container

    def hash(self, file_id: str, algorithm: str, value: str) -> None:
        event = {"kind": "hash", "file_id": file_id, "algorithm": algorithm, "value": value}
        if self._stub(event) or self._left_to_the_run(event, file_id):
            return
        with self._told(event) as key:
            self._session.client.set_hash(file_id, algorithm, value, idempotency_key=key)

    def metadata(self, target: str, id: str, descriptors: Sequence[Descriptor]) -> None:
        """`target` is `file` or `container`."""
        body = json.dumps(list(descriptors), sort_keys=True, ensure_ascii=False, default=str)
        event = {
            "kind": "metadata",
            "target": target,
            "id": id,
            "iecodes": [each["iecode"] for each in descriptors],
            "sha256": hashlib.sha256(body.encode()).hexdigest(),
        }
        self._refuse_keys(body, f"metadata of {target} {id}")
        client = self._session.client
        write = client.set_metadata if target == "file" else client.set_container_metadata
        if self._stub(event):
            return
        if target == "file" and self._left_to_the_run(event, id, descriptors=list(descriptors)):
            return
        with self._told(event) as key:
            write(id, descriptors, idempotency_key=key)

    def tag(self, file_id: str, tag: str, *, remove: bool = False) -> None:
        event = {"kind": "tag", "file_id": file_id, "tag": tag, "action": "remove" if remove else "add"}
        write = self._session.client.untag_file if remove else self._session.client.tag_file
        if self._stub(event):
            return
        with self._told(event) as key:
            write(file_id, tag, idempotency_key=key)

    def delete(self, file_id: str, *, restore: bool = False) -> None:
        event = {"kind": "delete", "file_id": file_id, "action": "restore" if restore else "delete"}
        write = self._session.client.restore_file if restore else self._session.client.delete_file
        if self._stub(event):
            return
        with self._told(event) as key:
            write(file_id, idempotency_key=key)

    # The job

    def message(self, job: str, text: str, type: str, file_id: str | None) -> None:
        attached = self._session.attached
        if attached is not None and job == attached.job:
            # The runner writes it, filtered: a message is kept for as long as the record, and may quote a key.
            attached.give("job", "log", message=text, type=type, file_id=file_id)
            return
        text = self._session.secrets.clean(text)
        event = {"kind": "message", "job": job, "type": type, "message": text, "file_id": file_id}
        if self._stub(event):
            return
        with self._told(event) as key:
            self._session.client.message(job, text, type=type, file=file_id, idempotency_key=key)

    def status(self, job: str, status: str) -> None:
        """
        Set a job's status. The run's own job is not ended here: its verdict goes to the runner, which ends the job
        once the evidence is stored.
        """
        attached = self._session.attached
        ok = ENDED.get(status)
        if attached is not None and job == attached.job:
            if ok is not None:
                attached.end(ok)
                return
            if attached.verdict is not None:
                # It has its verdict; RUNNING again would contradict it.
                return
        if self._session.ended.get(job) is False and ok:
            # As in a run: False is never raised again.
            return
        event = {"kind": "status", "job": job, "status": status}
        if self._stub(event, own=job):
            return
        with self._told(event) as key:
            self._session.client.update_job(job, status=status, idempotency_key=key)
        if ok is not None:
            self._session.ended[job] = ok

    def progress(self, job: str, progress: float) -> None:
        event = {"kind": "status", "job": job, "progress": progress}
        if self._stub(event, own=job):
            return
        with self._told(event) as key:
            self._session.client.update_job(job, progress=progress, idempotency_key=key)

    # Bytes

    def write(
        self,
        container: str,
        path: str,
        source: bytes | Path | BinaryIO,
        content_type: str | None,
        *,
        allow_secrets: bool = False,
    ) -> Stored:
        """
        Store a file, unless a key of the run stands in it.

        The run is told what the scan found and what it could not look into; where the author allows keys, that too.

        Raises
        ------
        SecretFound
            A key stands in the bytes, or in the path; no version was stored.
        """
        refuse_evidence(path)
        where = f"container {container}, /{path.removeprefix('/')}"
        self._refuse_keys(f"{path}\n{content_type or ''}", f"container {container}, the path of a file")
        event: dict[str, Any] = {
            "kind": "write",
            "container": container,
            "path": "/" + path.removeprefix("/"),
        }
        if allow_secrets:
            event["secrets_allowed"] = True
        if self.stubbed:
            return self._not_stored(event, source, where)
        with self._told(event), _opened(source) as stream:
            scanned = Scanned(stream, self._session.secrets, where=where, allowed=allow_secrets)
            stored = self._session.storage.upload(
                container,
                path,
                cast("BinaryIO", scanned),
                content_type=content_type,
                metadata=self._session.marked(container, path),
            )
            event.update(
                version_id=stored.version_id,
                size=stored.size,
                sha256=stored.sha256,
                created=stored.created,
                scan=scanned.found,
            )
        return stored

    def _not_stored(self, event: dict[str, Any], source: bytes | Path | BinaryIO, where: str) -> Stored:
        """In a replay: read and scanned as ever, which tells what would be stored, and told to the run."""
        sha256, size = hashlib.sha256(), 0
        with _opened(source) as stream:
            allowed = "secrets_allowed" in event
            scanned = Scanned(stream, self._session.secrets, where=where, allowed=allowed)
            while block := scanned.read(1024 * 1024):
                sha256.update(block)
                size += len(block)
        event.update(version_id=None, size=size, sha256=sha256.hexdigest(), created=True, scan=scanned.found)
        self._stub(event)
        path = event["path"].removeprefix("/")
        return Stored(event["container"], path, size, "", None, sha256.hexdigest(), created=True)

    @property
    def stubbed(self) -> bool:
        """Whether this is a replay that changes nothing."""
        attached = self._session.attached
        return bool(os.environ.get(STUB)) or (attached is not None and attached.stubbed)

    def _stub(self, event: dict[str, Any], own: str | None = None) -> bool:
        """Whether this is not to be done, as in a replay; the run is told. `own` is a job, and the run's own it may change."""
        attached = self._session.attached
        if not self.stubbed or (attached is not None and own is not None and own == attached.job):
            return False
        if attached is not None:
            attached.tell({**event, "stubbed": True})
        return True

    def settle(self, about: str | None = None) -> None:
        """
        Wait until the run has sent what it was given about `file 12`, `container 3` or `job`; None: everything.

        Raises
        ------
        PlatformError
            What is asked about was refused; or it could not be sent, and is tried again later.
        """
        attached = self._session.attached
        if attached is not None and self._session.own:
            attached.settle(about)

    def _left_to_the_run(self, event: dict[str, Any], file_id: str, **more: Any) -> bool:
        """Give a write to the run, which sends it; False where it is to be done here."""
        attached = self._session.attached
        if attached is None or not self._session.own or not self._session.knows(file_id):
            return False
        about = f"file {file_id}"
        if more:
            self._session.prefetch.forget_metadata(file_id)
            # The runner may know of a key in it that is not known here.
            attached.given.add(about)
            attached.door.call("write", effect=event, **more)
        else:
            attached.give(about, "write", effect=event)
        return True

    def _refuse_keys(self, text: str, where: str) -> None:
        """Of what is kept as long as the record and cannot be redacted without meaning something else."""
        refuse(((span.secret, span.form) for span in self._session.secrets.find(text)), where)

    def container(self, name: str, description: str | None, fields: dict[str, str]) -> Container:
        event = {"kind": "create", "target": "container", "name": name}
        if self._stub(event):
            return {"id": "0", "name": name}
        with self._told(event):
            made = self._session.client.create_container(name, description=description, fields=fields)
            event["id"] = made["id"]
        return made

    def folder(self, container: str, path: str) -> None:
        refuse_evidence(path)
        event = {"kind": "create", "target": "folder", "container": container, "path": path}
        if self._stub(event):
            return
        with self._told(event):
            self._session.client.create_folder(container, path)

    def call(self, method: str, path: str, body: Any) -> Any:
        """A call that the stand-in has no name for."""
        event = {"kind": "call", "method": method, "path": path}
        if self._stub(event):
            return None
        with self._told(event):
            return self._session.client.request(method, path, json=body)

    @contextlib.contextmanager
    def _told(self, event: dict[str, Any]) -> Iterator[str]:
        """
        Tell the run what is about to happen and then that it did, with all that `event` holds by then.

        A kernel that is killed in between leaves the first, so the record can say that it may have happened.
        Yields an idempotency key, the same for all repetitions of this write.
        """
        attached = self._session.attached
        key = uuid.uuid4().hex
        try:
            with self._told_to(attached, event):
                yield key
        finally:
            # What was fetched before may not be what is there now.
            self._session.prefetch.forget()

    @contextlib.contextmanager
    def _told_to(self, attached: Attached | None, event: dict[str, Any]) -> Iterator[None]:
        if attached is None:
            yield
            return
        self.settle()
        attached.tell({"kind": "intent", "effect": dict(event)})
        try:
            yield
        except BaseException as exc:
            attached.tell({"kind": "failure", "effect": event, "error": f"{type(exc).__name__}: {exc}"})
            raise
        attached.tell(event)


@contextlib.contextmanager
def _opened(source: bytes | Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as stream:
            yield stream
    else:
        yield BytesIO(source) if isinstance(source, bytes) else source
