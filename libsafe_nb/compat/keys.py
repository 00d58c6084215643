"""The keys of a run, fetched by its kernel and filled into the notebook's payload."""

from __future__ import annotations

import json
import os
from typing import Any

from libsafe_nb import door, environment
from libsafe_nb.compat import finder, session
from libsafe_nb.errors import ExecutionError


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
        The runner is gone, or the writes of a replay could not be held back.
    """
    client = door.connect(socket_path)
    try:
        answer = client.call("keys", nonce=nonce)
    except BaseException:
        client.close()
        raise
    library = finder.which()
    if os.environ.get(door.STUB) and library["library"] == "vendor":
        client.close()
        raise ExecutionError(
            "this is a replay that must change nothing, and libnova here is the vendor's library, which cannot be held "
            "back; replay where it is not installed, or with --allow-writes"
        )
    payload, params = namespace.get(name), dict(answer.get("params") or {})
    if isinstance(payload, dict):
        _put(payload, answer["api"], params)
        session.injected().update(payload)
    elif isinstance(payload, str):
        # A notebook may write its payload as JSON text.
        found = json.loads(payload)
        _put(found, answer["api"], params)
        session.injected().update(found)
        namespace[name] = json.dumps(found)
    # The author's own secret parameters stand as names of their own as well.
    namespace.update({name: value for name, value in params.items() if name in namespace})
    attached = session.configure(
        api=answer["api"],
        params=params,
        s3=answer.get("s3"),
        run=answer["run"],
        job=str(answer.get("job") or ""),
        door=client,
        socket_path=socket_path,
        pins=answer.get("pins") or {},
    ).attached
    if attached is not None:
        attached.tell({"kind": "library", **library})
        attached.tell({"kind": "environment", **environment.take()})


def _put(payload: dict[str, Any], api: dict[str, Any], params: dict[str, str]) -> None:
    payload.setdefault("api", {}).update(api)
    payload.setdefault("function_params", {}).update(params)
