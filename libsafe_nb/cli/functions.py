"""`publish`, `functions` and `trigger`: notebooks that the platform calls."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from libsafe_nb.cli.types import Seconds
from libsafe_nb.errors import UsageError

if TYPE_CHECKING:
    from libsafe_nb.functions import Functions

POLL = 0.2
"""Seconds between two looks while a command waits."""
ENDED = ("completed", "failed", "cancelled", "dead")


class _Group(click.Group):
    """Commands in the order of their definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _functions() -> Functions:
    from libsafe_nb.connection import connect
    from libsafe_nb.functions import Functions

    return Functions(connect().client)


def _show(found: Any) -> None:
    click.echo(json.dumps(found, ensure_ascii=False, indent=2))


@click.command()
@click.argument("notebook")
@click.option(
    "--key",
    metavar="KEY",
    help="The function's short name. Default: metadata.libsafe.key, else made of the file's name.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the function as JSON.")
def publish(notebook: str, key: str | None, as_json: bool) -> None:
    """Publish NOTEBOOK as the current version of a function.

    The platform keeps the file byte for byte and runs exactly it. A notebook in which a key is pasted is refused; equal
    bytes are not published again.
    """
    from libsafe_nb import publishing

    found = publishing.publish(notebook, key=key)
    if as_json:
        _show(found)
    else:
        click.echo(f"{found['key']}  version {found['version']}  sha256 {found['sha256']}")


@click.group(cls=_Group)
def functions() -> None:
    """Published functions and the queue of their calls."""


@functions.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool) -> None:
    """All functions: version, state, and calls that wait, run and are dead."""
    found = list(_functions().all())
    if as_json:
        _show(found)
        return
    for each in found:
        state = "disabled" if not each["enabled"] else "paused" if each["paused"] else "enabled"
        click.echo(
            f"{each['key']}  v{each['version']}  {state}  {each['queued']} queued  {each['running']} running"
            f"  {each['dead']} dead  {each['title']}"
        )


@functions.command()
@click.argument("key")
def show(key: str) -> None:
    """One function as JSON: description, parameters, settings, triggers."""
    ours = _functions()
    _show({**ours.get(key), "triggers": list(ours.triggers(key))})


@functions.command()
@click.argument("key")
def versions(key: str) -> None:
    """A function's versions, newest first; the current one is marked."""
    for each in _functions().versions(key):
        mark = "*" if each["current"] else " "
        click.echo(f"{mark} {each['number']}  {each['date_create']}  sha256 {each['sha256']}  {each['name']}")


@functions.command()
@click.argument("key")
def enable(key: str) -> None:
    """Let a function be called again."""
    _functions().update(key, enabled=True)


@functions.command()
@click.argument("key")
def disable(key: str) -> None:
    """No event counts for it, no call is taken, and what waits is not started."""
    _functions().update(key, enabled=False)


@functions.command()
@click.argument("key")
@click.argument("number", type=click.IntRange(1))
def rollback(key: str, number: int) -> None:
    """Make version NUMBER the current one, for every call that starts from now on."""
    found = _functions().update(key, version=number)
    click.echo(f"{found['key']}  version {found['version']}  sha256 {found['sha256']}")


@functions.command("set")
@click.argument("key")
@click.option(
    "--concurrency", type=click.IntRange(0, 1000), help="Calls of it that run at once; 0: no limit."
)
@click.option(
    "--container-concurrency",
    type=click.IntRange(1, 1000),
    help="Calls, of any function, that may run in a container for one of it to start there.",
)
@click.option("--attempts", type=click.IntRange(1, 100), help="Of a call that could not be executed.")
@click.option(
    "--backoff", type=Seconds(off=True), metavar="S", help="Before the second attempt; then doubled."
)
@click.option("--timeout", type=Seconds(off=True), metavar="S", help="Of one execution; 0: none.")
@click.option(
    "--queue-limit",
    type=click.IntRange(1, 1_000_000),
    help="Waiting calls beyond which none is taken on demand.",
)
def set_(key: str, **given: Any) -> None:
    """Change how a function is run; what is not given stays."""
    changes = {name: value for name, value in given.items() if value is not None}
    for name in ("concurrency", "timeout"):
        if changes.get(name) == 0:
            changes[name] = None
    if not changes:
        raise UsageError("functions set: expected at least one option, got none")
    _show(_functions().update(key, **changes))


@functions.command("call")
@click.argument("key")
@click.option("--container", metavar="ID", default="1", help="Default: the local platform's.")
@click.option(
    "--file",
    "files",
    metavar="ID_OR_PATH",
    multiple=True,
    help="A file, or a folder with all in it. Repeatable.",
)
@click.option("--param", "params", metavar="K=V", multiple=True, help="A function parameter. Repeatable.")
@click.option("--version", type=click.IntRange(1), help="Default: the current one when the call starts.")
@click.option("--priority", type=click.IntRange(-100, 100), default=0, help="Higher ones start first.")
@click.option(
    "--wait", is_flag=True, help="Wait for its end; exit code 1 if it failed, 3 if it is dead or cancelled."
)
def call_(
    key: str,
    container: str,
    files: tuple[str, ...],
    params: tuple[str, ...],
    version: int | None,
    priority: int,
    wait: bool,
) -> None:
    """Queue one call of a function, as a user who has chosen files does."""
    from libsafe_nb.cli.running import pair

    given = dict(pair(each) for each in params)
    ours = _functions()
    made = ours.call(key, container=container, files=files, params=given, version=version, priority=priority)
    while wait and made["status"] not in ENDED:
        time.sleep(POLL)
        made = ours.get_call(made["id"])
    _line(made)
    sys.exit({"failed": 1, "dead": 3, "cancelled": 3}.get(made["status"], 0))


def _line(call: dict[str, Any]) -> None:
    error = f"  {call['error'].splitlines()[0][:160]}" if call["error"] else ""
    click.echo(
        f"call {call['id']}  {call['function']}  {call['status'].upper()}  job {call['job_id']}"
        f"  container {call['container_id']}  {call['trigger']['type']}  {call['files']} files{error}"
    )


@functions.command()
@click.option("--function", "key", metavar="KEY", help="Of this function only.")
@click.option("--status", type=click.Choice(["queued", "running", *ENDED]))
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def calls(key: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """The last calls, newest first."""
    from itertools import islice

    found = list(islice(_functions().calls(function=key, status=status, order="newest"), limit))
    if as_json:
        _show(found)
        return
    for each in found:
        _line(each)


@functions.command()
def dead() -> None:
    """The calls that were given up after their attempts."""
    for each in _functions().calls(status="dead"):
        _line(each)


@functions.command()
@click.argument("calls", nargs=-1, metavar="CALL...")
@click.option("--all", "every", is_flag=True, help="All that are dead.")
def requeue(calls: tuple[str, ...], every: bool) -> None:
    """Queue calls once more, with all their attempts: dead, failed or cancelled ones."""
    if bool(calls) == every:
        raise UsageError("functions requeue: expected calls, or --all")
    ours = _functions()
    for each in [found["id"] for found in ours.calls(status="dead")] if every else calls:
        _line(ours.requeue(each))


@functions.command()
@click.argument("calls", nargs=-1, required=True, metavar="CALL...")
def cancel(calls: tuple[str, ...]) -> None:
    """Cancel calls: one that waits never runs, one that runs is interrupted within seconds."""
    for each in calls:
        _line(_functions().cancel(each))


@functions.command()
@click.argument("key", required=False)
def pause(key: str | None) -> None:
    """Start no further call, of one function or of all; what runs ends, what comes waits."""
    _paused(key, True)


@functions.command()
@click.argument("key", required=False)
def resume(key: str | None) -> None:
    """Go on after `pause` or `drain`."""
    _paused(key, False)


@functions.command()
@click.argument("key", required=False)
def drain(key: str | None) -> None:
    """Pause, and wait until nothing runs any more."""
    ours = _paused(key, True)
    while (ours.get(key) if key else ours.queue())["running"]:
        time.sleep(POLL)


def _paused(key: str | None, paused: bool) -> Functions:
    ours = _functions()
    if key:
        ours.update(key, paused=paused)
    else:
        ours.pause(paused)
    return ours


@functions.command()
@click.option(
    "--every",
    type=Seconds(least=0.2),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print the view once and end.")
def watch(every: float, once: bool) -> None:
    """A live view: the queue, running jobs, rates and the last failures. Ends with Ctrl-C."""
    from libsafe_nb.board import watch as watch_

    watch_(_functions(), every=every, once=once)


@click.group(cls=_Group)
def trigger() -> None:
    """What starts a function: happenings to files, a clock, or a user."""


TYPES = (
    "file_created",
    "file_read",
    "file_updated",
    "file_deleted",
    "metadata_created",
    "metadata_updated",
    "metadata_deleted",
    "minute",
    "hour",
    "day",
    "cron",
    "on_demand",
)


@trigger.command()
@click.argument("key")
@click.argument("type", type=click.Choice(TYPES))
@click.option("--container", "container_id", metavar="ID", help="Default: any; a clock needs one.")
@click.option(
    "--path", "path_regex", metavar="REGEX", help="Searched in the path, which begins with a slash."
)
@click.option("--name", "name_regex", metavar="REGEX", help="Searched in the file's name.")
@click.option("--mime", metavar="PATTERN", help="Such as image/tiff or image/*.")
@click.option("--size-min", type=click.IntRange(0), metavar="BYTES")
@click.option("--size-max", type=click.IntRange(0), metavar="BYTES")
@click.option(
    "--batch-files", type=click.IntRange(1, 10_000), help="Files of one call at most. Default: 100."
)
@click.option(
    "--batch-seconds",
    type=Seconds(off=True),
    metavar="S",
    help="How long events are gathered into one call. Default: 1.",
)
@click.option("--schedule", metavar="CRON", help="Five fields, UTC; with type cron.")
@click.option("--param", "params", metavar="K=V", multiple=True, help="A function parameter. Repeatable.")
def add(key: str, type: str, params: tuple[str, ...], **about: Any) -> None:
    """Let happenings of TYPE start the function KEY."""
    from libsafe_nb.cli.running import pair

    given = dict(pair(each) for each in params)
    _trigger_line(_functions().add_trigger(key, type, params=given, **about))


def _trigger_line(found: dict[str, Any]) -> None:
    names = ("path_regex", "name_regex", "mime", "size_min", "size_max", "schedule")
    filters = "  ".join(f"{name}={found[name]}" for name in names if found[name] is not None)
    state = "" if found["enabled"] else "  disabled"
    click.echo(
        f"trigger {found['id']}  {found['function']}  {found['type']}  container {found['container_id'] or 'any'}"
        f"{state}{'  ' + filters if filters else ''}"
    )


@trigger.command("list")
@click.argument("key", required=False)
def list_triggers(key: str | None) -> None:
    """All triggers, or those of one function."""
    for each in _functions().triggers(key):
        _trigger_line(each)


@trigger.command()
@click.argument("trigger")
def remove(trigger: str) -> None:
    """Remove a trigger, with the events that wait to become a call of it."""
    _functions().remove_trigger(trigger)


@trigger.command("enable")
@click.argument("trigger")
def enable_trigger(trigger: str) -> None:
    """Let a trigger fire again; a clock counts from now."""
    _functions().enable_trigger(trigger, True)


@trigger.command("disable")
@click.argument("trigger")
def disable_trigger(trigger: str) -> None:
    """Let a trigger fire no more."""
    _functions().enable_trigger(trigger, False)
