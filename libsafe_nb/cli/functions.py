"""`publish` and `functions`: notebooks that the platform calls."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from libsafe_nb.cli.types import AskingCommand, AskingGroup, Seconds
from libsafe_nb.errors import UsageError

if TYPE_CHECKING:
    from libsafe_nb.functions import Functions

POLL = 0.2
"""Seconds between two looks while a command waits."""
ENDED = ("completed", "failed", "cancelled", "dead")


def connected() -> Functions:
    """The functions of the configured platform."""
    from libsafe_nb.connection import connect
    from libsafe_nb.functions import Functions

    return Functions(connect().client)


def show_json(found: Any) -> None:
    click.echo(json.dumps(found, ensure_ascii=False, indent=2))


@click.command(cls=AskingCommand)
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
        show_json(found)
    else:
        click.echo(f"{found['key']}  version {found['version']}  sha256 {found['sha256']}")


@click.group(cls=AskingGroup)
def functions() -> None:
    """Published functions and the queue of their calls."""


@functions.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_(as_json: bool) -> None:
    """All functions: version, state, and calls that wait, run and are dead."""
    found = list(connected().all())
    if as_json:
        show_json(found)
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
    ours = connected()
    show_json({**ours.get(key), "triggers": list(ours.triggers(key))})


@functions.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def versions(key: str, as_json: bool) -> None:
    """A function's versions, newest first; the current one is marked."""
    found = connected().versions(key)
    if as_json:
        show_json(found)
        return
    for each in found:
        mark = "*" if each["current"] else " "
        click.echo(f"{mark} {each['number']}  {each['date_create']}  sha256 {each['sha256']}  {each['name']}")


@functions.command()
@click.argument("key")
def enable(key: str) -> None:
    """Let a function be called again."""
    connected().update(key, enabled=True)


@functions.command()
@click.argument("key")
def disable(key: str) -> None:
    """No event counts for it, no call is taken, and what waits is not started."""
    connected().update(key, enabled=False)


@functions.command()
@click.argument("key")
@click.argument("number", type=click.IntRange(1))
def rollback(key: str, number: int) -> None:
    """Make version NUMBER the current one, for every call that starts from now on."""
    found = connected().update(key, version=number)
    click.echo(f"{found['key']}  version {found['version']}  sha256 {found['sha256']}")


@functions.command("set")
@click.argument("key")
@click.option(
    "--concurrency",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Calls of it that run at once; 0: no limit.",
)
@click.option(
    "--container-concurrency",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Calls that run in a container at once, of whatever function, for one of it to start there.",
)
@click.option(
    "--attempts",
    type=click.IntRange(1, 100),
    metavar="N",
    help="How often a call that cannot be executed is tried.",
)
@click.option(
    "--backoff",
    type=Seconds(off=True),
    metavar="S",
    help="Seconds before the second attempt; then doubled.",
)
@click.option(
    "--timeout", type=Seconds(off=True), metavar="S", help="Seconds that an execution may take; 0: no limit."
)
@click.option(
    "--queue-limit",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Waiting calls beyond which none is taken on demand.",
)
def set_(key: str, **given: Any) -> None:
    """Change how a function is run, and print it as JSON; what is not given stays."""
    changes = {name: value for name, value in given.items() if value is not None}
    for name in ("concurrency", "timeout"):
        if changes.get(name) == 0:
            changes[name] = None
    if not changes:
        raise UsageError("functions set: expected at least one option, got none")
    show_json(connected().update(key, **changes))


@functions.command("call")
@click.argument("key")
@click.option(
    "--container", metavar="ID", default="1", help="Container to work in. Default: the local platform's."
)
@click.option(
    "--file",
    "files",
    metavar="ID_OR_PATH",
    multiple=True,
    help="A file, or a folder with all in it. Repeatable.",
)
@click.option("--param", "params", metavar="K=V", multiple=True, help="A function parameter. Repeatable.")
@click.option(
    "--version", type=click.IntRange(1), metavar="N", help="Default: the current one when the call starts."
)
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    show_default=True,
    metavar="N",
    help="From -100 to 100; higher ones start first, however long others have waited. Above 0: the platform's own user only.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for its end. Exit code: 0 completed, 1 failed, 2 refused when it was to start, 3 dead or cancelled, 4 its time-out passed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the call as JSON.")
def call_(
    key: str,
    container: str,
    files: tuple[str, ...],
    params: tuple[str, ...],
    version: int | None,
    priority: int,
    wait: bool,
    as_json: bool,
) -> None:
    """Queue one call of a function, as a user who has chosen files does.

    \b
    Example:
      libsafe-nb functions call hash-files --container 12 --file /in --param algorithm=sha256 --wait
    """
    from libsafe_nb.cli.running import pair

    given = dict(pair(each) for each in params)
    ours = connected()
    made = ours.call(
        key,
        container=container,
        files=files,
        params=given,
        version=version,
        priority=priority,
        # Who calls by hand is told at once that too many wait.
        when_full=False,
    )
    while wait and made["status"] not in ENDED:
        time.sleep(POLL)
        made = ours.get_call(made["id"])
    if as_json:
        show_json(ours.get_call(made["id"]))
    else:
        _line(made)
    sys.exit(_exit_code(ours, made))


def _exit_code(ours: Functions, call: dict[str, Any]) -> int:
    """As `run` ends for the same outcome; a call that somebody cancelled was not executed."""
    if call["status"] != "failed":
        return {"dead": 3, "cancelled": 3}.get(call["status"], 0)
    result = ours.job(call["job_id"])["result"]
    result = result if isinstance(result, dict) else {}
    if result.get("status") == "timeout":
        return 4
    error = result.get("error")
    # By the queue's own word, and without a run: it was refused when it was to start.
    refused = isinstance(error, dict) and error.get("type") == "Queue" and not result.get("run")
    return 2 if refused else 1


def _line(call: dict[str, Any]) -> None:
    error = f"  {call['error'].splitlines()[0][:160]}" if call["error"] else ""
    click.echo(
        f"call {call['id']}  {call['function']}  {call['status'].upper()}  job {call['job_id']}"
        f"  container {call['container_id']}  {call['trigger']['type']}  {call['files']} files{error}"
    )


@functions.command()
@click.option("--function", "key", metavar="KEY", help="Of this function only.")
@click.option(
    "--status",
    type=click.Choice(["queued", "running", *ENDED]),
    metavar="STATUS",
    help="Only those: queued, running, completed, failed, cancelled or dead.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most so many."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def calls(key: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """The last calls, newest first."""
    from itertools import islice

    found = list(islice(connected().calls(function=key, status=status, order="newest"), limit))
    if as_json:
        show_json(found)
        return
    for each in found:
        _line(each)


@functions.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def dead(as_json: bool) -> None:
    """The calls that were given up after their attempts."""
    found = list(connected().calls(status="dead"))
    if as_json:
        show_json(found)
        return
    for each in found:
        _line(each)


@functions.command()
@click.argument("calls", nargs=-1, metavar="CALL...")
@click.option("--all", "every", is_flag=True, help="All that are dead.")
def requeue(calls: tuple[str, ...], every: bool) -> None:
    """Queue calls once more, with all their attempts: dead, failed or cancelled ones."""
    if bool(calls) == every:
        raise UsageError("functions requeue: expected calls, or --all")
    ours = connected()
    for each in [found["id"] for found in ours.calls(status="dead")] if every else calls:
        _line(ours.requeue(each))


@functions.command()
@click.argument("calls", nargs=-1, required=True, metavar="CALL...")
def cancel(calls: tuple[str, ...]) -> None:
    """Cancel calls: one that waits never runs, one that runs is interrupted within seconds."""
    for each in calls:
        _line(connected().cancel(each))


@functions.command()
@click.argument("key", required=False)
def pause(key: str | None) -> None:
    """Start no further call, of one function or of all; what comes waits, what runs ends.

    Where all are paused, calls that a running function makes are started for it to end.
    """
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
    told = None
    while running := (ours.get(key) if key else ours.queue())["running"]:
        if running != told:
            click.echo(f"waiting for {running} running", err=True)
        told = running
        time.sleep(POLL)


def _paused(key: str | None, paused: bool) -> Functions:
    ours = connected()
    if key:
        ours.update(key, paused=paused)
    else:
        ours.pause(paused)
    return ours


@functions.command()
@click.option("--days", type=click.IntRange(1, 36_500), metavar="N", help="Days after their end.")
@click.option("--calls", type=click.IntRange(1, 10_000_000), metavar="N", help="How many of the last ones.")
def keep(days: int | None, calls: int | None) -> None:
    """How long ended calls are kept; dead ones and all jobs stay. Without options, what is set."""
    found = connected().keep(days=days, calls=calls)
    click.echo(f"{found['keep_days']} days  {found['keep_calls']} calls  {found['pruned']} removed so far")


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
@click.option("--json", "as_json", is_flag=True, help="With --once: print the view as JSON.")
def watch(every: float, once: bool, as_json: bool) -> None:
    """A live view: the queue, running jobs, rates, what is wrong and the last failures. Ends with Ctrl-C.

    Where the output is no terminal, the view is printed once.
    """
    if as_json:
        if not once:
            raise UsageError("functions watch: expected --once with --json")
        from libsafe_nb.board import look

        show_json(look(connected()).to_json())
        return
    from libsafe_nb.board import watch as watch_

    watch_(connected(), every=every, once=once)
