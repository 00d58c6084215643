"""The keys of a run, fetched by its kernel and filled into the notebook's payload."""

from __future__ import annotations

import json
from typing import Any

from libsafe_nb import door
from libsafe_nb.compat import finder, session


def fill(namespace: dict[str, Any], socket_path: str, nonce: str, name: str) -> None:
    """
    Fetch the run's keys with the one-use `nonce` and put them into the payload `namespace[name]`.

    The runner executes this silently, right after the injected cell: the text that is executed, and that stays in
    the kernel's `linecache`, holds no key. The payload is changed in place, so they work with any code that reads
    `json_sample["api"]`, the vendor's own library included.

    Raises
    ------
    UsageError
        The nonce was used before.
    ExecutionError
        The runner is gone.
    """
    client = door.connect(socket_path)
    try:
        answer = client.call("keys", nonce=nonce)
    except BaseException:
        client.close()
        raise
    payload = namespace.get(name)
    if isinstance(payload, dict):
        _put(payload, answer["api"])
    elif isinstance(payload, str):
        # A notebook may write its payload as JSON text.
        found = json.loads(payload)
        _put(found, answer["api"])
        namespace[name] = json.dumps(found)
    attached = session.configure(
        api=answer["api"],
        s3=answer.get("s3"),
        run=answer["run"],
        job=str(answer.get("job") or ""),
        door=client,
        socket_path=socket_path,
    ).attached
    if attached is not None:
        attached.tell({"kind": "library", **finder.which()})


def _put(payload: dict[str, Any], api: dict[str, Any]) -> None:
    payload.setdefault("api", {}).update(api)
