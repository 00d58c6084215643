"""
Where the platform is and which keys open it: the environment first, then `config.toml`, then a `platform.json`.

Names are fixed by contract 3. Keys are kept out of every repr.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from libsafe_nb.errors import SettingsError

NAMES = (
    "LIBSAFE_URL",
    "LIBSAFE_KEY_USER",
    "LIBSAFE_KEY_ROOT",
    "LIBSAFE_S3_ENDPOINT",
    "LIBSAFE_S3_BUCKET",
    "LIBSAFE_S3_ACCESS_KEY",
    "LIBSAFE_S3_SECRET_KEY",
    "LIBSAFE_S3_REGION",
    "LIBSAFE_SIGN_KEY",
    "LIBSAFE_TSA_URL",
    "LIBSAFE_NB_HOME",
)

LAB_CONTAINER = "LIBSAFE_NB_CONTAINER"
"""Of the environment: the container that `libsafe-nb lab` shows as its files, also told to its kernels."""

LAB_FOLDER = "LIBSAFE_NB_LAB_FOLDER"
"""Set by `libsafe-nb lab` for its kernels: the local folder in which they work, and in which a notebook's place is that in the container."""


@dataclass(frozen=True)
class S3Settings:
    """One bucket and a user's credentials for it; `endpoint` None means AWS itself."""

    endpoint: str | None
    bucket: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"


@dataclass(frozen=True)
class Settings:
    """
    A platform and the keys to it, and who attests what is recorded there.

    Attributes
    ----------
    url
        Base of the REST API, always ending in `/api`; None when no platform is configured.
    source
        `environment`, `config.toml` or the path of the `platform.json` that was read.
    sign_key
        File of the private key that signs each link of a container's chain; None: nothing is signed.
    tsa_url
        Time-stamp authority (RFC 3161) that stamps each link; None: nothing is stamped. It may hold a password.

    A `platform.json` tells neither of the two: settings made from one, and given in Python, sign with what is put into
    them (`dataclasses.replace`).
    """

    url: str | None
    key_user: str | None = field(repr=False)
    key_root: str | None = field(repr=False)
    s3: S3Settings | None
    home: Path
    source: str
    sign_key: Path | None = None
    tsa_url: str | None = field(default=None, repr=False)

    @property
    def platform_folder(self) -> Path:
        """Where a local platform lies, if there is one: beside the `platform.json` that was read, else in the home."""
        told = Path(self.source)
        return told.parent if told.name == "platform.json" else self.home / "platform"

    @property
    def configured(self) -> bool:
        return self.url is not None


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of all state: `$LIBSAFE_NB_HOME`, else `libsafe-nb` in the user's state directory."""
    if environ.get("LIBSAFE_NB_HOME"):
        return Path(environ["LIBSAFE_NB_HOME"]).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_state_dir("libsafe-nb", appauthor=False))


def config_file() -> Path:
    """`config.toml` in the user's config directory (`$XDG_CONFIG_HOME/libsafe-nb` on Linux)."""
    import platformdirs

    return Path(platformdirs.user_config_dir("libsafe-nb", appauthor=False)) / "config.toml"


def normalise_url(url: str) -> str:
    """
    The API's base, with exactly one trailing `/api`.

    Clients of real instances write it both ways (platform.md 1.1), so both are accepted.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"LIBSAFE_URL: expected an http:// or https:// address, got {url!r}")
    try:
        urlsplit(url)
    except ValueError as exc:
        raise SettingsError(f"LIBSAFE_URL: expected an address, got {url!r} ({exc})") from exc
    base = url.rstrip("/")
    return base if base.endswith("/api") else base + "/api"


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """
    Settings from the environment, each missing one from `config.toml`.

    `config.toml` holds the same names in lower case without the prefix: `url`, `key_user`, `key_root`,
    `s3_endpoint`, `s3_bucket`, `s3_access_key`, `s3_secret_key`, `s3_region`, `sign_key`, `tsa_url`.

    Raises
    ------
    SettingsError
        `config.toml` is not TOML, is readable by others although it holds keys, or the S3 settings are
        incomplete: a bucket without credentials, or credentials without a bucket.
    """
    values, source = _values(environ)
    url = values.get("url")
    return Settings(
        url=normalise_url(url) if url else None,
        key_user=values.get("key_user"),
        key_root=values.get("key_root"),
        s3=_s3(values),
        home=home(environ),
        source=source,
        sign_key=Path(values["sign_key"]).expanduser().absolute() if values.get("sign_key") else None,
        tsa_url=values.get("tsa_url"),
    )


def known(environ: Mapping[str, str] = os.environ) -> Settings | None:
    """The configured platform, else the local one in the home if it runs; None where there is neither; none is started."""
    found = load(environ)
    if found.configured:
        return found
    path = found.home / "platform" / "platform.json"
    return from_platform_file(path) if path.exists() else None


WORKERS_NEED = (
    "set LIBSAFE_URL, LIBSAFE_KEY_USER and LIBSAFE_S3_… of the run's platform for the cluster's workers"
)


def of_worker(platform: str | None) -> Settings:
    """
    Of a process of a cluster: those of `platform`, the path of a `platform.json`, else those that are known there.

    Raises
    ------
    SettingsError
        No platform is known there; none is started, as it would be another one.
    """
    found = from_platform_file(Path(platform)) if platform else known()
    if found is None:
        raise SettingsError(f"expected a platform to be set, found none; {WORKERS_NEED}")
    return found


def from_platform_file(path: Path) -> Settings:
    """
    Settings of a local platform, from the `platform.json` that `local serve` writes.

    Raises
    ------
    SettingsError
        The file is absent, not JSON, or lacks a field of contract 3.
    """
    try:
        found = json.loads(path.read_text())
        s3 = found["s3"]
        return Settings(
            url=normalise_url(found["url"]),
            key_user=found["key_user"],
            key_root=found["key_root"],
            s3=S3Settings(
                endpoint=s3["endpoint"],
                bucket=s3["bucket"],
                access_key=s3["access_key"],
                secret_key=s3["secret_key"],
                region=s3["region"],
            ),
            home=home(),
            source=str(path),
        )
    except FileNotFoundError as exc:
        raise SettingsError(f"{path}: no such file; is the local platform running?") from exc
    except (json.JSONDecodeError, KeyError, TypeError) as exc:
        raise SettingsError(f"{path}: not the description of a local platform ({exc})") from exc


def _values(environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    values: dict[str, str] = {}
    source = "none"
    path = config_file()
    if path.exists():
        values.update(_config(path))
        source = "config.toml"
    prefix = "LIBSAFE_"
    for name in NAMES:
        if environ.get(name) and name != "LIBSAFE_NB_HOME":
            values[name.removeprefix(prefix).lower()] = environ[name]
    if environ.get("LIBSAFE_URL"):
        source = "environment"
    return values, source


def _config(path: Path) -> dict[str, str]:
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: not TOML ({exc})") from exc
    keys = {"key_user", "key_root", "s3_secret_key"} & found.keys()
    if keys and path.stat().st_mode & 0o077:
        raise SettingsError(
            f"{path}: holds {', '.join(sorted(keys))} and is readable by others; run: chmod 600 {path}"
        )
    known = {name.removeprefix("LIBSAFE_").lower() for name in NAMES}
    unknown = found.keys() - known
    if unknown:
        raise SettingsError(
            f"{path}: unknown setting {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}"
        )
    return {name: str(value) for name, value in found.items() if value}


def _s3(values: Mapping[str, str]) -> S3Settings | None:
    needed = ("s3_bucket", "s3_access_key", "s3_secret_key")
    present = [name for name in needed if values.get(name)]
    if not present:
        return None
    missing = [name for name in needed if not values.get(name)]
    if missing:
        names = ", ".join("LIBSAFE_" + name.upper() for name in missing)
        raise SettingsError(f"S3 settings are incomplete: {names} is missing")
    return S3Settings(
        endpoint=values.get("s3_endpoint"),
        bucket=values["s3_bucket"],
        access_key=values["s3_access_key"],
        secret_key=values["s3_secret_key"],
        region=values.get("s3_region", "us-east-1"),
    )
