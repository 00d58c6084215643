"""What options take: words on the command line, read and checked."""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import click

EXIT_CODES = """\b
Exit codes: 0 COMPLETED · 1 FAILED by the function · 2 bad usage, payload or notebook: nothing started
3 could not be executed, or its evidence not be stored · 4 deadline passed · 130/143 interrupted/terminated"""


class Group(click.Group):
    """
    Commands in the order of their definition, which is the order in which people need them.

    Parameters
    ----------
    places
        By name, as `module:attribute`, commands whose modules are imported when they are called or listed. They come last.
    """

    def __init__(self, *arguments: Any, places: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = dict(places or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self._places]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._places:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._places[cmd_name].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found


REFUSED = (400, 403, 404, 409, 413)
"""Answers that say that what was asked for is wrong, is not there, or may not be done: nothing was started."""


@contextlib.contextmanager
def refusals_as_usage() -> Iterator[None]:
    """What the platform refuses is bad usage, exit code 2; that it is away, or broken, is not."""
    from libsafe_nb.errors import Conflict, Forbidden, NotFound, PlatformError, UsageError

    try:
        yield
    except PlatformError as exc:
        # One that came through a run's door has kept its type alone.
        if exc.status not in REFUSED and not isinstance(exc, (NotFound, Forbidden, Conflict)):
            raise
        raise UsageError(exc.message) from exc


class AskingCommand(click.Command):
    """A command about what the platform keeps; see `refusals_as_usage`."""

    def invoke(self, ctx: click.Context) -> Any:
        with refusals_as_usage():
            return super().invoke(ctx)


class AskingGroup(Group):
    """The same for a group of such commands."""

    def invoke(self, ctx: click.Context) -> Any:
        with refusals_as_usage():
            return super().invoke(ctx)


class Seconds(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4 only
    """A finite number of seconds above 0, at least `least`; 0 too if that means none."""

    name = "seconds"

    def __init__(self, *, least: float = 0, off: bool = False) -> None:
        self._least, self._off = least, off

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        enough = (seconds > 0 and seconds >= self._least) or (self._off and seconds == 0)
        if not (enough and math.isfinite(seconds)):
            wanted = f"at least {self._least:g}" if self._least else "above 0"
            never = ", or 0 for never" if self._off else ""
            self.fail(f"expected seconds, {wanted}{never}, got {value!r}", param, ctx)
        return seconds


class Size(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4 only
    """Bytes, with K, M or G for powers of 1024; no kernel starts with less than 64M."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,15})([KMG]?)", str(value).strip().upper(), re.ASCII)
        size = int(found[1]) * 1024 ** " KMG".index(found[2] or " ") if found else 0
        if not 64 * 1024**2 <= size < 2**62:
            self.fail(
                f"expected a size of at least 64M, such as 1500M, 4G or bytes, got {value!r}", param, ctx
            )
        return size


class Head(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4 only
    """`SEQ:SHA256`, or the job's message itself, `chain: SEQ SHA256`."""

    name = "head"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        found = re.fullmatch(r"(?:chain: )?([1-9][0-9]{0,7})[: ]([0-9a-f]{64})", str(value).strip())
        if not found:
            self.fail(f"expected SEQ:SHA256, as in the job's message, got {value!r}", param, ctx)
        return {"seq": int(found[1]), "sha256": found[2]}
