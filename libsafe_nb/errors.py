"""
Every error that libsafe_nb raises on purpose, in one tree.

    LibsafeError                    exit code
    ├── UsageError                  2   bad usage, payload or notebook: nothing was started
    │   ├── PayloadError                the payload; `.path` names the place within it
    │   ├── ParameterError              a function parameter; `.name`
    │   ├── NotebookError               the notebook (or its kernel's name); `.notebook`
    │   ├── SettingsError               settings that are missing or contradict each other
    │   └── SecretFound                 a key in what was about to be stored; `.name`, `.form`, `.where`
    ├── PlatformError               3   the REST API; `.method`, `.url`, `.status`
    │   ├── Unreachable                 no answer within the budget
    │   ├── Unauthorized                the key is missing or wrong (401)
    │   ├── Forbidden                   the key may not do this (403)
    │   ├── NotFound                    no such container, file, job … (404)
    │   └── Conflict                    it exists already, or is in another state (409)
    ├── StorageError                3   S3; `.bucket`, `.key`
    │   ├── StorageUnreachable
    │   ├── AccessDenied
    │   ├── ObjectNotFound
    │   ├── PreconditionFailed          a conditional write that lost
    │   └── ObjectChanged               the object is not the one that was opened
    ├── TimeStampRefused            3   a time-stamp authority gave none; told to the job, and ends no run
    ├── LocalPlatformError          3   the embedded platform could not start or stop
    └── ExecutionError              3   the notebook could not be executed, or its evidence not be stored
        ├── KernelDied
        ├── SecretsRemain               the record holds a key that cannot be taken out, and was not stored
        ├── RunTimeout              4   a deadline passed
        ├── RunCancelled            130 interrupted or terminated (143 for SIGTERM)
        │   └── DependencyFailed        a call that was never made: one of which it takes something did not complete
        └── RunFailed               1   the function failed; raised by `Run.raise_for_failure`

Each error says in one or two sentences which thing, where, what was expected and what was found.
All of them pickle: their arguments are plain data.
"""

from __future__ import annotations

from typing import Any


class LibsafeError(Exception):
    """Base of all errors; `exit_code` is what the command line ends with (contract 2)."""

    exit_code = 3

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts)

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[LibsafeError], message: str, facts: dict[str, Any]) -> LibsafeError:
    return kind(message, **facts)


class UsageError(LibsafeError):
    exit_code = 2


class PayloadError(UsageError):
    """`path` is the place within the payload, such as `function_data.container.id`."""

    path: str = ""


class ParameterError(UsageError):
    name: str = ""


class NotebookError(UsageError):
    notebook: str = ""


class SettingsError(UsageError):
    pass


class SecretFound(UsageError):
    """A key stands in what a function was about to store; nothing was stored. The value is not in the error."""

    name: str = ""
    form: str = ""
    where: str = ""


class PlatformError(LibsafeError):
    """The REST API said no, or said something that is not its protocol."""

    method: str = ""
    url: str = ""
    status: int | None = None


class Unreachable(PlatformError):
    pass


class Unauthorized(PlatformError):
    pass


class Forbidden(PlatformError):
    pass


class NotFound(PlatformError):
    pass


class Conflict(PlatformError):
    pass


class StorageError(LibsafeError):
    bucket: str = ""
    key: str = ""


class StorageUnreachable(StorageError):
    pass


class AccessDenied(StorageError):
    pass


class ObjectNotFound(StorageError):
    pass


class PreconditionFailed(StorageError):
    pass


class ObjectChanged(StorageError):
    pass


class TimeStampRefused(LibsafeError):
    pass


class LocalPlatformError(LibsafeError):
    pass


class ExecutionError(LibsafeError):
    pass


class KernelDied(ExecutionError):
    pass


class SecretsRemain(ExecutionError):
    pass


class RunTimeout(ExecutionError):
    exit_code = 4


class RunCancelled(ExecutionError):
    exit_code = 130


class DependencyFailed(RunCancelled):
    pass


class RunFailed(ExecutionError):
    exit_code = 1


def sentence(exc: BaseException) -> str:
    """What people are told of an error: ours and the system's speak for themselves, others are told with their class."""
    return str(exc) if isinstance(exc, (LibsafeError, OSError)) else f"{type(exc).__name__}: {exc}"
