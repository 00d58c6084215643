"""What is configured, reachable and installed."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from libsafe_nb import settings as settings_
from libsafe_nb.errors import LibsafeError

if TYPE_CHECKING:
    from libsafe_nb.client import Client


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` is empty when there is nothing to do."""

    name: str
    ok: bool
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything a run needs; starts nothing and changes nothing."""
    findings = [_python(), _kernel(), _local_extra()]
    try:
        found = settings_.load()
    except LibsafeError as exc:
        return [*findings, Finding("settings", False, str(exc), "correct the setting named")]
    findings += [_kernel_start(found), _state(found), *_witnesses(found)]
    if not found.configured:
        return [*findings, *_local(found)]
    findings.append(Finding("settings", True, f"{found.url} (from {found.source})"))
    return [*findings, *_platform(found)]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "Python",
        sys.version_info >= (3, 11),
        version,
        "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
    )


def _kernel() -> Finding:
    from libsafe_nb import kernels

    try:
        kernels.check("python3", "python")
    except LibsafeError as exc:
        return Finding("Python kernel", False, str(exc), "python -m pip install ipykernel")
    return Finding("Python kernel", True, "python3")


def _kernel_start(found: settings_.Settings) -> Finding:
    """In which way a kernel of this Python is started: nothing but time depends on it."""
    from libsafe_nb import forking, kernels

    if not forking.enabled():
        why = "turned off" if forking.turned_off() else "this system has no pidfd_open"
        return Finding("kernel start", True, f"a new process for each run ({why})")
    if forking.serves(found.platform_folder, kernels.environment()):
        return Finding("kernel start", True, "forked by the local platform's server")
    return Finding("kernel start", True, "forked, in a process that runs more than one")


def _local_extra() -> Finding:
    from libsafe_nb import local

    try:
        local.check_installed()
    except LibsafeError as exc:
        return Finding("local platform", False, str(exc), local.REMEDY)
    return Finding("local platform", True, "installed")


def _state(found: settings_.Settings) -> Finding:
    folder = found.home / "runs"
    left = [each for each in folder.iterdir() if each.is_dir()] if folder.exists() else []
    return Finding("state", True, f"{found.home}, {len(left)} unfinished runs" if left else str(found.home))


def _witnesses(found: settings_.Settings) -> list[Finding]:
    """Who signs and stamps; nothing where nobody is set. The authority is not asked: it may count its stamps."""
    from libsafe_nb import witness

    try:
        made = witness.load(found)
    except LibsafeError as exc:
        return [Finding("signing", False, str(exc), "correct LIBSAFE_SIGN_KEY or LIBSAFE_TSA_URL")]
    told = []
    if made.signer:
        told.append(f"links are signed with {found.sign_key} (key {made.signer.key.public_key.keyid[:16]}…)")
    if made.authority:
        told.append(
            f"and stamped by {made.authority.name}" if told else f"links are stamped by {made.authority.name}"
        )
    return [Finding("signing", True, ", ".join(told))] if told else []


def _local(found: settings_.Settings) -> list[Finding]:
    from libsafe_nb import local
    from libsafe_nb.client import Client

    root = found.home / "platform"
    state = local.status(root)
    running = f"running at {state.get('url')}" if state.get("running") else "not running; `run` starts it"
    findings = [Finding("platform", True, f"none configured: the local one serves ({running})")]
    with contextlib.suppress(LibsafeError):
        ours = settings_.from_platform_file(root / "platform.json") if state.get("running") else None
        if ours is not None and ours.url and ours.key_user:
            findings += _trouble(Client(ours.url, ours.key_user, budget=10))
    return findings


def _trouble(client: Client) -> list[Finding]:
    """What a local platform says of itself that does not work; another platform says nothing of the kind."""
    said = client.health()
    if not isinstance(said, dict) or not said.get("trouble"):
        return []
    remedy = (
        "mend the cause; the platform tries again by itself, and log/platform.log in its folder says more"
    )
    return [Finding("functions", False, each, remedy) for each in client.call("queue_get")["trouble"]]


def _platform(found: settings_.Settings) -> list[Finding]:
    from libsafe_nb.client import Client

    if not found.key_user or not found.url:
        return [Finding("platform", False, "no API key", "set LIBSAFE_KEY_USER")]
    try:
        client = Client(found.url, found.key_user, budget=10)
        first = next(client.containers(), None)
        trouble = _trouble(client)
    except LibsafeError as exc:
        return [Finding("platform", False, str(exc), "check LIBSAFE_URL and LIBSAFE_KEY_USER")]
    platform = Finding("platform", True, "answers, and takes the key")
    if first is None:
        return [
            platform,
            Finding("storage", False, "the key sees no container", "create one, or ask for permission"),
        ]
    return [platform, _storage(found, first["id"]), *trouble]


def _storage(found: settings_.Settings, container: str) -> Finding:
    from libsafe_nb.storage import Storage

    if found.s3 is None:
        names = "LIBSAFE_S3_BUCKET, LIBSAFE_S3_ACCESS_KEY, LIBSAFE_S3_SECRET_KEY"
        return Finding("storage", False, "no S3 credentials", f"set {names}")
    try:
        Storage(found.s3, budget=10).exists(container, "provenance")
    except LibsafeError as exc:
        return Finding("storage", False, str(exc), "check the LIBSAFE_S3_* settings")
    return Finding("storage", True, f"bucket {found.s3.bucket}, container {container}")
