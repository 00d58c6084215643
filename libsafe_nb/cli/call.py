"""`call`: from a shell, what `libsafe_nb.call` is in Python."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from libsafe_nb.cli.job import show_files
from libsafe_nb.cli.types import AskingCommand, Seconds
from libsafe_nb.errors import UsageError

if TYPE_CHECKING:
    from libsafe_nb.calls import Call, Called

EXIT_CODES = {"completed": 0, "failed": 1, "refused": 2, "cancelled": 130}
"""By how the called run ended; it could not be executed otherwise."""

POLL = 0.2
"""Seconds between two looks at a call that this process holds back."""


@click.command(
    "call",
    cls=AskingCommand,
    epilog="Exit codes: as the called run ends: 0 completed · 1 failed · 3 could not be executed · 4 its time-out passed · 130 cancelled\n"
    "2 refused: nothing was started · with several calls that of the first that did not complete",
)
@click.argument("function", required=False)
@click.argument("files", nargs=-1, metavar="[FILES]...")
@click.option(
    "--param", "params", metavar="NAME=VALUE", multiple=True, help="A function parameter. Repeatable."
)
@click.option(
    "--params",
    "given",
    metavar="JSON",
    help="Parameters as one JSON object, taken as it is; --param adds to it.",
)
@click.option(
    "--after",
    metavar="CALL",
    multiple=True,
    help="Start when that call has ended, however it did. Repeatable.",
)
@click.option(
    "--container",
    metavar="ID",
    help="Container to work in. Default: the run's own, else the local platform's.",
)
@click.option(
    "--version", type=click.IntRange(1), metavar="N", help="Default: the current one when the call starts."
)
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    show_default=True,
    metavar="N",
    help="From -100 to 100; higher ones start first. Above 0: the platform's own user only.",
)
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="S",
    help="Seconds that one execution may take. Default: the function's.",
)
@click.option(
    "--retries",
    type=click.IntRange(0, 99),
    metavar="N",
    help="Attempts beyond the first, where it could not be executed. Default: the function's.",
)
@click.option(
    "--reuse",
    type=click.Choice(["unchanged"]),
    help="Let an earlier run of the same code, parameters and files stand for it.",
)
@click.option(
    "--on-failure",
    type=click.Choice(["continue", "stop"]),
    default="continue",
    show_default=True,
    help="Whether its failure ends the other calls of this run, and the run.",
)
@click.option("--no-wait", is_flag=True, help="Print the CALL and go on, in place of waiting for its end.")
@click.option("--wait", is_flag=True, help="Wait for CALL..., which stand in place of FUNCTION and FILES.")
@click.option(
    "--outputs-of", metavar="CALL[:PATTERN]", help="Wait, and list what it wrote as `job files` lists files."
)
@click.option("--scrap", metavar="CALL.NAME", help="Wait, and print what it glued: text as it is, else JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object for each call.")
def call_(
    function: str | None,
    files: tuple[str, ...],
    params: tuple[str, ...],
    given: str | None,
    after: tuple[str, ...],
    wait: bool,
    no_wait: bool,
    outputs_of: str | None,
    scrap: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Call another function over FILES, wait for its end, and end as it did.

    FUNCTION is a published function's key, or a path of a notebook (with a slash, or .ipynb or .py at its end). FILES are ids, paths
    in the container with a leading slash (a folder stands for all in it), or what another call writes:

    \b
      @CALL            all files that CALL writes
      @CALL:PATTERN    those whose path fits, as '@CALL:*.csv'
      --param N=@CALL.NAME    what CALL glues as NAME (--param N=@@x is the text @x)

    CALL is what --no-wait printed. Such a call starts when those that it names have ended. Inside a run, in a cell of any language,
    the calls are those of the run and stand in its record; elsewhere they are this user's.

    \b
    Examples:
      libsafe-nb call validate-bags /incoming
      formats=$(libsafe-nb call identify-formats /incoming --no-wait)
      libsafe-nb call report "@$formats:*.csv" --param pages="@$formats.pages"
      libsafe-nb call --wait "$formats"
    """
    import os

    from libsafe_nb import calls, door

    words = [*filter(None, (function,)), *files]
    if sum((wait, bool(outputs_of), bool(scrap))) > 1 or (no_wait and (wait or outputs_of or scrap)):
        raise UsageError("call: expected at most one of --wait, --no-wait, --outputs-of and --scrap")
    if wait:
        if not words:
            raise UsageError("call --wait: expected calls, got none")
        _tell([_earlier(each) for each in words], as_json=as_json)
    if outputs_of or scrap:
        if words:
            raise UsageError(f"call: expected nothing but --outputs-of or --scrap, got {words[0]!r}")
        _show(outputs_of, scrap, as_json=as_json)
    if function is None:
        raise UsageError("call: expected a FUNCTION")
    in_run = bool(os.environ.get(door.VARIABLE))
    if no_wait and options["reuse"] and not in_run:
        raise UsageError(
            "call: --reuse with --no-wait is for cells of a run; a call that is reused has no number to print"
        )
    made = calls.call(
        function,
        files=[_file(each) for each in files],
        params={**_object(given), **dict(map(_param, params))},
        after=[_earlier(each.removeprefix("@")) for each in after],
        **options,
    )
    if not no_wait:
        _tell([made], as_json=as_json)
    handle = made.key if in_run else _placed(made)
    if as_json:
        about = {"function": made.function, "container": made.container, "status": made.status}
        click.echo(json.dumps({"call": handle, **about}, ensure_ascii=False))
    else:
        click.echo(handle)


# What is given ---------------------------------------------------------------------------------------------------------


def _earlier(handle: str) -> Call:
    from libsafe_nb import calls

    return calls.earlier(handle)


def _file(word: str) -> Any:
    if not word.startswith("@"):
        return word
    return _outputs(word[1:])


def _outputs(word: str) -> Any:
    handle, colon, pattern = word.partition(":")
    found = _earlier(handle).outputs
    return found.matching(pattern) if colon else found


def _param(text: str) -> tuple[str, Any]:
    from libsafe_nb.cli.running import pair

    name, value = pair(text)
    if not value.startswith("@"):
        return name, value
    if value.startswith("@@"):
        return name, value[1:]
    handle, scrap = _scrap(value[1:], f"--param {name}")
    return name, _earlier(handle).scraps[scrap]


def _scrap(word: str, where: str) -> tuple[str, str]:
    handle, dot, name = word.partition(".")
    if not (handle and dot and name):
        raise UsageError(
            f"{where}: expected CALL.NAME, got {word!r}; a text that begins with @ is given as @@…"
        )
    return handle, name


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    from libsafe_nb import strictjson

    try:
        found = strictjson.loads(text)
    except ValueError as exc:
        raise UsageError(f"--params: expected a JSON object ({exc})") from exc
    if not isinstance(found, dict):
        raise UsageError(f"--params: expected a JSON object, got {text[:50]!r}")
    return found


def _placed(made: Call) -> str:
    """The platform's number of a call that was held back: nobody looks after it when this process has ended."""
    import time

    while made.id is None and made.status in ("held", "starting"):
        time.sleep(POLL)
    if made.id is None:
        _tell([made], as_json=False)
    return str(made.id)


# What is told ----------------------------------------------------------------------------------------------------------


def _tell(waited: list[Call], *, as_json: bool) -> NoReturn:
    """Wait for their ends, tell each when those before it have ended, and end as the first that did not complete."""
    codes = []
    for each in waited:
        done = _ended(each)
        codes.append(_exit_code(done))
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(done), ensure_ascii=False))
        else:
            click.echo(_line(done))
    sys.exit(next(filter(None, codes), 0))


def _show(outputs_of: str | None, scrap: str | None, *, as_json: bool) -> NoReturn:
    from libsafe_nb import references

    if outputs_of:
        handle, colon, pattern = outputs_of.removeprefix("@").partition(":")
        done = _ended(_earlier(handle))
        files = references.fitting(done.outputs, pattern if colon else None)
        show_files([{**each, "path": references.slashed(each["path"])} for each in files], as_json=as_json)
    else:
        handle, name = _scrap(str(scrap).removeprefix("@"), "--scrap")
        done = _ended(_earlier(handle))
        if name in done.scraps:
            value = done.scraps[name]
            text = isinstance(value, str) and not as_json
            click.echo(value if text else json.dumps(value, ensure_ascii=False))
        elif done.status == "completed":
            raise UsageError(
                f"--scrap: {done.function} glued {', '.join(done.scraps) or 'nothing'}, and no {name}"
            )
    if done.status != "completed":
        click.echo(_line(done), err=True)
    sys.exit(_exit_code(done))


def _ended(made: Call) -> Called:
    try:
        return made.result()
    except KeyboardInterrupt:
        if made.id is None:
            # Held back by this process, and by nobody when it has ended.
            made.cancel()
        else:
            click.echo(f"it goes on: libsafe-nb call --wait {made.id}", err=True)
        raise


def _exit_code(done: Called) -> int:
    if done.status == "failed" and (done.error or {}).get("type") == "RunTimeout":
        return 4
    return EXIT_CODES.get(done.status, 3)


def _line(done: Called) -> str:
    from libsafe_nb.models import describe

    told = [
        f"call {done.call}" if done.call else "",
        done.function,
        done.status.upper(),
        f"job {done.job}" if done.job else "",
        describe(done.error).splitlines()[0][:200] if done.error else "",
        done.evidence or "",
    ]
    return "  ".join(filter(None, told))
