"""Which platform a run talks to: the payload's, the configured one, or the local platform, started on demand."""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from libsafe_nb import settings as settings_
from libsafe_nb.errors import PlatformError, SettingsError, Unreachable
from libsafe_nb.payloads import Payload
from libsafe_nb.secrets import SAMPLE_KEY
from libsafe_nb.settings import S3Settings, Settings

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.storage import Storage


KNOCK = 5.0
"""Seconds in which a platform must answer at all, and those that one gets which was just found to be away."""


@dataclass(frozen=True)
class Connection:
    """An open way to a platform: REST, S3 and the settings both were made from."""

    settings: Settings
    client: Client
    storage: Storage

    @property
    def s3(self) -> S3Settings:
        assert self.settings.s3 is not None
        return self.settings.s3

    def within(self, seconds: float, *, job: str | None = None) -> Connection:
        """
        The same platform, each call of which is given up after so many seconds; with connections of its own.

        `job` is the job whose calls these are.
        """
        from libsafe_nb.client import Client
        from libsafe_nb.storage import Storage

        assert self.settings.url is not None
        assert self.settings.key_user is not None
        client = Client(self.settings.url, self.settings.key_user, budget=seconds, job=job)
        return Connection(self.settings, client, Storage(self.s3, budget=seconds))

    def close(self) -> None:
        """Close the connections, and end what still waits for an answer; a later call opens new ones."""
        self.client.close()
        self.storage.close()

    def secrets(self) -> dict[str, str]:
        """The values that must never be stored, by name."""
        named = {
            "key_user": self.settings.key_user,
            "key_root": self.settings.key_root,
            "s3_secret_key": self.s3.secret_key,
        }
        return {name: value for name, value in named.items() if value}

    @property
    def platform_file(self) -> str | None:
        """The `platform.json` of a local platform that the settings were read from; None for any other platform."""
        source = self.settings.source
        return source if source.endswith("platform.json") else None


def connect(payload: Payload | None = None, *, settings: Settings | None = None) -> Connection:
    """
    Open the platform of `settings`; else the payload's own `api`; else the configured; else the local one.

    Raises
    ------
    SettingsError
        A platform is configured without a key or without S3 credentials.
    Unreachable
        Nobody answers there.
    LocalPlatformError
        Nothing is configured and the local platform cannot start.
    """
    found = settings or chosen(payload)
    if not found.key_user:
        raise SettingsError(
            f"{found.url}: an API key is needed; set LIBSAFE_KEY_USER or key_user in {settings_.config_file()}"
        )
    if found.s3 is None:
        raise SettingsError(
            f"{found.url}: S3 credentials are needed; set LIBSAFE_S3_BUCKET, LIBSAFE_S3_ACCESS_KEY and LIBSAFE_S3_SECRET_KEY"
        )
    # Imported here: `libsafe-nb --help` must not pay for requests and boto3.
    from libsafe_nb.client import Client
    from libsafe_nb.storage import Storage

    assert found.url is not None
    _knock(found.url, found.key_user)
    return Connection(settings=found, client=Client(found.url, found.key_user), storage=Storage(found.s3))


def _knock(url: str, key: str) -> None:
    """Learn within seconds that nobody is there; a run's own calls are repeated for a minute. Any answer will do."""
    from libsafe_nb.client import Client
    from libsafe_nb.patience import BUDGET

    for budget in (KNOCK, BUDGET):
        with Client(url, key, budget=budget) as client:
            try:
                client.health()
            except Unreachable:
                # Somebody who takes the connection is slow or has a bad moment, and gets the time of any call.
                if budget == BUDGET or not _listens(url):
                    raise
            except PlatformError:
                return
            else:
                return


def _listens(url: str) -> bool:
    place = urlsplit(url)
    address = place.hostname or "", place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection(address, timeout=KNOCK).close()
    except OSError:
        return False
    return True


def chosen(payload: Payload | None = None) -> Settings:
    """The settings of the platform that `connect` opens: the payload's own, the configured, or the local one, started."""
    configured = settings_.load()
    api = payload.api if payload else {}
    key = api.get("key_user")
    if isinstance(key, str) and key not in ("", SAMPLE_KEY) and api.get("url"):
        root = api.get("key_root")
        return dataclasses.replace(
            configured,
            url=settings_.normalise_url(api["url"]),
            key_user=key,
            key_root=root if isinstance(root, str) and root else None,
            source="payload",
        )
    if configured.configured:
        return configured
    from libsafe_nb import local

    return local.ensure(configured.home / "platform")
