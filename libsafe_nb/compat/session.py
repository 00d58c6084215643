"""
Where the stand-in's calls go: one platform, one user, and inside a run the runner that keeps the record.

Inside a run `keys.fill` attaches it with the keys that the runner handed out. Otherwise the payload's own `api`
counts, unless it holds the vendor page's sample key or a placeholder; then the settings (environment, `config.toml`),
then the local platform that is running.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from libsafe_nb import door as door_
from libsafe_nb import marks
from libsafe_nb import settings as settings_
from libsafe_nb.compat import others
from libsafe_nb.compat.prefetch import Prefetch
from libsafe_nb.errors import ExecutionError, PlatformError, SettingsError, Unreachable
from libsafe_nb.secrets import SAMPLE_KEY, Secret, weakness
from libsafe_nb.settings import S3Settings, Settings

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.compat.outbox import Outbox
    from libsafe_nb.compat.reading import Reading
    from libsafe_nb.door import DoorClient, Speaker
    from libsafe_nb.redact import SecretSet
    from libsafe_nb.storage import Storage


GIVEN = 10_000
"""Files about which something may be on its way, beyond which a function waits for all of it."""


class Attached:
    """
    The run that this kernel belongs to.

    Attributes
    ----------
    verdict
        What `job_end` said: None until it was called. The job itself is closed by the runner, once the evidence
        is stored.
    pins
        In a replay, by file id: `path`, `version_id` and `size` of what is read in place of the current version.
    stubbed
        Whether this is a replay that changes nothing; a kernel has it in its environment.
    given
        About what something was given to the runner to send, since the last time that all of it had arrived.
    """

    def __init__(
        self,
        *,
        run: str,
        job: str,
        door: Speaker,
        socket_path: str,
        pins: Mapping[str, Mapping[str, Any]] | None = None,
        stubbed: bool = False,
        shared: bool = False,
    ) -> None:
        self.pins = dict(pins or {})
        self.stubbed = stubbed
        self.run, self.job, self.door = run, job, door
        self.socket_path = socket_path
        self.verdict: bool | None = None
        self.given: set[str] = set()
        self._shared, self._processes = shared, others.begun()
        self.readings: weakref.WeakSet[Reading] = weakref.WeakSet()

    @property
    def shared(self) -> bool:
        """Whether something may have been given in of which this process does not know, as by another of the function."""
        return self._shared or others.begun() != self._processes

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell the runner of an effect. It has it on return, also if this process dies next."""
        self.door.tell("event", event=dict(event))

    def give(self, about: str, do: str, **fields: Any) -> None:
        """
        Give the runner something to send about `file 12` or `job`. It has it on return, also if this process dies next.

        Raises
        ------
        ExecutionError
            The runner is gone.
        """
        if len(self.given) > GIVEN:
            with contextlib.suppress(PlatformError):
                self.settle(None)
            if self.given:
                # Away: from now on the runner is asked each time, which remembers all.
                self._shared = True
                self.given.clear()
        self.given.add(about)
        if self._shared:
            # Another process of the function may ask next, by a line of its own, which the runner may read before this one.
            self.door.call(do, **fields)
        else:
            self.door.post(do, **fields)

    def settle(self, about: str | None) -> None:
        """Wait until what was given about it has arrived; None: everything. Raises why it has not."""
        if self.shared or (bool(self.given) if about is None else about in self.given):
            self.door.call("settle", about=about)
            if about is None:
                self.given.clear()
            else:
                self.given.discard(about)

    def end(self, ok: bool) -> None:
        """Hand the verdict over; the first counts, save that False lowers it."""
        self.verdict = bool(self.door.call("verdict", ok=ok))

    def forked(self) -> None:
        """In a forked child: knock at the door with a connection of its own, or two processes' lines would mix."""
        self.readings = weakref.WeakSet()
        self._shared = True
        # Where the runner is gone, nobody is left whose lines could mix.
        with contextlib.suppress(ExecutionError):
            self.door = door_.connect(self.socket_path)

    def finish(self) -> None:
        """Tell how much was read of what is still open; at the end of the process."""
        for reading in list(self.readings):
            reading.ended()


KNOWN = 100_000
"""Ids of files that a session remembers."""


class Session:
    """
    One platform and one user; the clients are made when first used.

    `own` says that they are the run's, so that the runner can send what is written.
    """

    def __init__(
        self,
        url: str,
        key: str,
        s3: S3Settings | None,
        attached: Attached | None = None,
        *,
        others: Iterable[Secret] = (),
        secrets: SecretSet | None = None,
        own: bool = False,
    ) -> None:
        self.own = own
        # Not a dict, whose first key is found behind the gaps of all that were dropped: 50 times slower here.
        self._files: OrderedDict[str, None] = OrderedDict()
        self.url = settings_.normalise_url(url)
        self.s3 = s3
        self.attached = attached
        self.ended: dict[str, bool] = {}
        self._key = key
        mine = {"key_user": key, "s3_secret_key": s3.secret_key if s3 else None}
        self._known = (*secrets_of(mine), *others)
        self._secrets = secrets
        self._making = threading.RLock()
        self._client: Client | None = None
        self._storage: Storage | None = None
        self._outbox: Outbox | None = None
        self._write_key: str | None = None
        self._asked_write_key = False
        self.prefetch = Prefetch(self)

    def __repr__(self) -> str:
        return f"Session({self.url!r})"

    @property
    def client(self) -> Client:
        with self._making:
            if self._client is None:
                # Imported here: `import libnova` must not wait for requests.
                from libsafe_nb.client import Client

                job = self.attached.job if self.attached is not None else None
                self._client = Client(self.url, self._key, job=job)
            return self._client

    @property
    def storage(self) -> Storage:
        with self._making:
            if self._storage is None:
                if self.s3 is None:
                    raise SettingsError(
                        f"{self.url}: S3 credentials are needed to read or write files; "
                        "set LIBSAFE_S3_BUCKET, LIBSAFE_S3_ACCESS_KEY and LIBSAFE_S3_SECRET_KEY"
                    )
                from libsafe_nb.storage import Storage

                self._storage = Storage(self.s3)
            return self._storage

    @property
    def secrets(self) -> SecretSet:
        """The keys that this process was given: what it stores is searched for them."""
        with self._making:
            if self._secrets is None:
                # Imported and built here, 0.1 s: most functions write no file.
                from libsafe_nb.redact import SecretSet

                known = [*self._known, *(_run_session._known if _run_session else ())]
                self._secrets = SecretSet({secret.reveal(): secret for secret in known}.values())
            return self._secrets

    @property
    def outbox(self) -> Outbox:
        with self._making:
            if self._outbox is None:
                from libsafe_nb.compat.outbox import Outbox

                self._outbox = Outbox(self)
            return self._outbox

    def marked(self, container: str, path: str) -> dict[str, str] | None:
        """
        The metadata that says whose write an object is; None outside a run. A function's own writes do not start it again.

        The key for it is asked for once; a platform that gives none gets the job's id alone.
        """
        if self.attached is None or not self.attached.job:
            return None
        with self._making:
            if not self._asked_write_key:
                try:
                    key = self.client.job_key(self.attached.job)
                except Unreachable:
                    raise
                except PlatformError:
                    key = None
                self._write_key, self._asked_write_key = key, True
        return {marks.NAME: marks.mark(self.attached.job, container, path, self._write_key)}

    def shown(self, file_id: str) -> None:
        """The platform has shown this file to the function."""
        self._files.pop(file_id, None)
        self._files[file_id] = None
        if len(self._files) > KNOWN:
            # Another thread may be at it.
            with contextlib.suppress(KeyError):
                self._files.popitem(last=False)

    def knows(self, file_id: str) -> bool:
        return file_id in self._files

    def has(self, url: str, key: str) -> bool:
        return (self.url, self._key) == (settings_.normalise_url(url), key)

    def forked(self) -> None:
        """In a forked child: forget the parent's connections, and the lock that one of its threads may hold."""
        self._making = threading.RLock()
        self._client = self._storage = None
        self.prefetch.forget()

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        with self._making:
            client, storage = self._client, self._storage
            self._client = self._storage = None
        self.prefetch.close()
        if client is not None:
            client.close()
        if storage is not None:
            storage.close()


_attached: Attached | None = None
_run_session: Session | None = None
_current: Session | None = None
_injected: dict[str, Any] = {}


def configure(
    *,
    api: Mapping[str, Any],
    params: Mapping[str, str],
    s3: Mapping[str, Any] | None,
    run: str,
    job: str,
    door: DoorClient,
    socket_path: str,
    pins: Mapping[str, Mapping[str, Any]] | None = None,
) -> Session:
    """Attach the run that handed out these keys; every effect is told to it from now on."""
    global _attached, _run_session, _current
    others.watch()
    # A program that the function started may have ended before the kernel asks.
    program = "ipykernel.kernelapp" not in sys.modules
    _attached = Attached(run=run, job=job, door=door, socket_path=socket_path, pins=pins, shared=program)
    atexit.register(_attached.finish)
    _run_session = Session(
        str(api["url"]),
        str(api["key_user"]),
        S3Settings(**s3) if s3 else None,
        _attached,
        others=secrets_of(
            {name: value for name, value in {**api, **params}.items() if name not in ("url", "key_user")}
        ),
        own=True,
    )
    _current = _run_session
    return _run_session


def use(api: Mapping[str, Any]) -> Session:
    """
    The session for a payload's `api`, which is the current one from now on.

    Raises
    ------
    SettingsError
        The payload holds no key of its own, and no platform is configured or running.
    """
    global _current
    url, key = api.get("url"), api.get("key_user")
    if _is_real(url) and _is_real(key) and key != SAMPLE_KEY:
        _current = _of(
            str(url), str(key), secrets_of({k: v for k, v in api.items() if k not in ("url", "key_user")})
        )
    else:
        _current = _run_session or _configured()
    return _current


def initialise(url: str, key: str) -> Session:
    """Use this address and key from now on, whatever the payload said."""
    global _current
    _current = _of(url, key)
    return _current


def current() -> Session:
    """The session in use; without one yet, that of the run or of the settings."""
    global _current
    if _current is None:
        _current = _run_session or _configured()
    return _current


def attached() -> Attached | None:
    return _attached


def injected() -> dict[str, Any]:
    """
    The payload of the run that this kernel belongs to: always the same dictionary.

    Empty until the keys came, which is right after the injected cell; whoever asked before sees it filled then.
    """
    return _injected


def reset() -> None:
    """Forget session and run, as at the start of the process."""
    global _attached, _run_session, _current, _injected
    _injected = {}
    for each in {each for each in (_run_session, _current) if each is not None}:
        each.close()
    if _attached is not None:
        atexit.unregister(_attached.finish)
        _attached.finish()
        _attached.door.close()
    _attached = _run_session = _current = None


def _forked() -> None:
    """An author's `multiprocessing` workers are forked from the kernel, with all that it has open."""
    known = {each for each in (_run_session, _current) if each is not None}
    for each in known:
        each.forked()
    if _attached is not None:
        _attached.forked()


os.register_at_fork(after_in_child=_forked)


def _is_real(value: Any) -> bool:
    """Not absent, not empty, and not a placeholder such as `{"$secret": "key_user"}`."""
    return isinstance(value, str) and bool(value)


def secrets_of(values: Mapping[str, Any]) -> list[Secret]:
    """Those of the values that are keys: text that can be told from other text, and no documented sample."""
    return [
        Secret(name, value)
        for name, value in values.items()
        if isinstance(value, str) and value != SAMPLE_KEY and not weakness(value)
    ]


def _of(url: str, key: str, others: Iterable[Secret] = ()) -> Session:
    for known in (_run_session, _current):
        if known is not None and known.has(url, key):
            return known
    address = settings_.normalise_url(url)
    if _run_session is not None and _run_session.url == address:
        return Session(address, key, _run_session.s3, _attached, others=others)
    return Session(address, key, _s3_of(address), _attached, others=others)


def _configured() -> Session:
    found = settings_.load()
    if not found.configured:
        found = _local(found) or found
    if found.url is None or not found.key_user:
        missing = "an address (LIBSAFE_URL)" if found.url is None else "an API key (LIBSAFE_KEY_USER)"
        raise SettingsError(
            f"the payload holds no key of a platform, and the settings lack {missing}; set it, "
            "or start a local platform: libsafe-nb local serve"
        )
    others = secrets_of({"key_root": found.key_root})
    return Session(found.url, found.key_user, found.s3, _attached, others=others)


def _s3_of(url: str) -> S3Settings | None:
    """S3 credentials for a platform: those of the settings or of the local platform, if they are that platform's."""
    found = settings_.load()
    if found.s3 is not None and found.url in (None, url):
        return found.s3
    local = _local(found)
    return local.s3 if local is not None and local.url == url else None


def _local(found: Settings) -> Settings | None:
    """The local platform, if it is running."""
    path = found.home / "platform" / "platform.json"
    if not path.exists():
        return None
    return dataclasses.replace(settings_.from_platform_file(path), home=found.home)
