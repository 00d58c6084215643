"""
The keys in clear: API keys of the default user and of root, and every S3 credential.

They rest in the S3 server's configuration file alone (mode 0600), our own in a field that the server passes over:
`platform.json` goes at each stop, and the keys must be the same after the next start.
"""

from __future__ import annotations

import secrets
import signal
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libsafe_nb.local import root as places
from libsafe_nb.local.accounts import DEFAULT_USER, new_key
from libsafe_nb.local.root import Root

BUCKET = "libsafe"
REGION = "us-east-1"
_OURS = "libsafe_nb"
_ADMINISTRATOR = "platform"
_LETTERS = string.ascii_uppercase + string.digits


@dataclass(frozen=True)
class S3Key:
    access_key: str
    secret_key: str = field(repr=False)


class Keyring:
    """Reads the configuration, or makes it; every change is written before it is used."""

    def __init__(self, root: Root, environ: Mapping[str, str]) -> None:
        self._root = root
        self._config = places.read_json(root.s3_config)
        self.endpoint = ""  # of the front; known when the S3 side is up
        if not self._config:
            self._make(environ)
        _write_security(root.s3_data / "security.toml")

    def _make(self, environ: Mapping[str, str]) -> None:
        administrator, user = self.new_s3_key(), self.new_s3_key()
        self._config = {
            "identities": [
                _identity(_ADMINISTRATOR, administrator, ["Admin", "Read", "Write", "List", "Tagging"]),
                _identity(f"user-{DEFAULT_USER}", user, _actions()),
            ],
            _OURS: {
                "key_user": environ.get("LIBSAFE_KEY_USER") or new_key(),
                "key_root": environ.get("LIBSAFE_KEY_ROOT") or new_key(),
            },
        }
        self._write()

    @property
    def key_user(self) -> str:
        return str(self._config[_OURS]["key_user"])

    @property
    def key_root(self) -> str:
        return str(self._config[_OURS]["key_root"])

    @property
    def administrator(self) -> S3Key:
        found = self._of(_ADMINISTRATOR)
        assert found is not None  # made with the file
        return found

    @property
    def default_s3_key(self) -> S3Key | None:
        """None when the default user's credentials have been revoked."""
        return self._of(f"user-{DEFAULT_USER}")

    def new_s3_key(self) -> S3Key:
        access = "LSNB" + "".join(secrets.choice(_LETTERS) for _ in range(16))
        return S3Key(access, secrets.token_urlsafe(30))

    def s3_settings(self, key: S3Key) -> dict[str, str]:
        """What a user needs to reach the storage, as `platform.json` has it."""
        return {
            "endpoint": self.endpoint,
            "bucket": BUCKET,
            "access_key": key.access_key,
            "secret_key": key.secret_key,
            "region": REGION,
        }

    def set_s3_key(self, user: int, key: S3Key | None) -> None:
        """Replace or remove a user's credentials, and let the S3 server read its configuration again."""
        name = f"user-{user}"
        kept = [each for each in self._config["identities"] if each["name"] != name]
        self._config["identities"] = kept if key is None else [*kept, _identity(name, key, _actions())]
        self._write()
        s3_side = self._root.s3_side_running()
        if s3_side is not None:
            s3_side.signal(signal.SIGHUP)

    def _of(self, name: str) -> S3Key | None:
        for identity in self._config["identities"]:
            if identity["name"] == name:
                credentials = identity["credentials"][0]
                return S3Key(credentials["accessKey"], credentials["secretKey"])
        return None

    def _write(self) -> None:
        places.write_json(self._root.s3_config, self._config)


def _identity(name: str, key: S3Key, actions: list[str]) -> dict[str, Any]:
    credentials = {"accessKey": key.access_key, "secretKey": key.secret_key}
    return {"name": name, "credentials": [credentials], "actions": actions}


def _actions() -> list[str]:
    # The whole bucket: the front keeps each user within their containers, and knows of new ones at once.
    return [f"{action}:{BUCKET}" for action in ("Read", "Write", "List", "Tagging")]


def _write_security(path: Path) -> None:
    """Inner keys with which the S3 server signs its HTTP calls to its own parts; others' calls are refused."""
    if path.exists():
        return
    sections = ("jwt.signing", "jwt.filer_signing", "jwt.filer_signing.read")
    lines = [f'[{name}]\nkey = "{secrets.token_hex(24)}"\n' for name in sections]
    descriptor = path.with_suffix(".new")
    descriptor.touch(mode=0o600)
    descriptor.write_text("[access]\nui = false\n" + "".join(lines))
    descriptor.replace(path)
