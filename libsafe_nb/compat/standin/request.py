"""What a Function is called with: the payload, the files of this run, and its job."""

from __future__ import annotations

from typing import Any

from libsafe_nb.compat import session
from libsafe_nb.compat.files import Files
from libsafe_nb.compat.item import id_of
from libsafe_nb.compat.standin import util
from libsafe_nb.compat.standin.job_message import JobMessageType
from libsafe_nb.compat.standin.s3_storage import Storage
from libsafe_nb.errors import PayloadError
from libsafe_nb.payloads import Payload

__all__ = ["Request"]


class Request:
    """
    One call of a Function. Vendor.

    Parameters
    ----------
    context
        Nuclio's context; None in a notebook. Kept, and not used.
    event
        Anything with a `body`: the payload as JSON text, as bytes, or as a dictionary.

    Attributes
    ----------
    JSONData : dict
        The payload as it was given, ids as strings.
    Files : Files
        The files of this run, looked up while you iterate; empty if the payload names none.
    Storage
        Where the files' bytes are: the first argument of `S3.File.get_stream`.
    function_params : dict
        The payload's `function_params`. Ours; `JSONData["function_params"]` is the same.

    Raises
    ------
    PayloadError
        The body is no payload; the message names the place within it.
    SettingsError
        The payload holds no API key, and no platform is configured or running.
    """

    def __init__(self, context: Any, event: Any) -> None:
        self.context, self.event = context, event
        body = getattr(event, "body", None)
        if body is None:
            raise PayloadError(f"event: expected an object with a body, found {type(event).__name__}")
        payload = Payload.parse(bytes(body) if isinstance(body, (bytearray, memoryview)) else body)
        self.JSONData: dict[str, Any] = payload.to_dict()
        self.function_data: dict[str, Any] = self.JSONData["function_data"]
        self.function_params: dict[str, Any] = self.JSONData["function_params"]
        self.container_id, self.user_id, self.job_id = payload.container, payload.user, payload.job
        # "It will also initialize the API Driver using the user API Key."
        self._session = session.use(payload.api)
        self.Files = Files(self._session, payload.container, ids=payload.file_ids, paths=payload.file_paths)
        self.Storage = Storage(self._session, payload.container)

    def __repr__(self) -> str:
        # The payload holds keys.
        return f"<Request of container {self.container_id}, job {self.job_id or 'none'}, {len(self.Files)} files>"

    def job_init(self) -> None:
        """Set the job to RUNNING. Vendor."""
        self._session.outbox.status(self._job(), "RUNNING")

    def log(self, message: Any, type: str = JobMessageType.INFO, file_id: Any = None) -> None:
        """
        Write a message of the job; with `file_id` it belongs to that file. Vendor.

        What is not text is written as JSON. It works after `job_end` too.
        """
        text = message if isinstance(message, str) else util.format_json_item(message)
        file = id_of(file_id) if file_id not in (None, "") else None
        self._session.outbox.message(self._job(), text, str(type).upper(), file)

    def job_end(self, success: bool) -> None:
        """
        End the job: COMPLETED for True, FAILED for False. Vendor.

        Inside a run the job itself is ended by the runner, once the evidence is stored. The first call counts,
        save that a later False lowers it.
        """
        self._session.outbox.status(self._job(), "COMPLETED" if success else "FAILED")

    def _job(self) -> str:
        attached = self._session.attached
        if self.job_id:
            return self.job_id
        if attached is not None and attached.job:
            return attached.job
        raise PayloadError(
            "function_data.job.id: expected the id of a job, which messages and results belong to; it is empty",
            path="function_data.job.id",
        )
