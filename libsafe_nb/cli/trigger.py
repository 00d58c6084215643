"""`trigger`: what starts a function."""

from __future__ import annotations

from typing import Any

import click

from libsafe_nb.cli.functions import connected, show_json
from libsafe_nb.cli.types import AskingGroup, Seconds
from libsafe_nb.shapes import TRIGGERS


@click.group(cls=AskingGroup)
def trigger() -> None:
    """What starts a function: happenings to files, a clock, or a user."""


@trigger.command()
@click.argument("key")
@click.argument("type", type=click.Choice(TRIGGERS), metavar="TYPE")
@click.option("--container", "container_id", metavar="ID", help="Default: any; a clock needs one.")
@click.option(
    "--path", "path_regex", metavar="REGEX", help="Searched in the path, which begins with a slash."
)
@click.option("--name", "name_regex", metavar="REGEX", help="Searched in the file's name.")
@click.option("--mime", metavar="PATTERN", help="Such as image/tiff or image/*.")
@click.option("--size-min", type=click.IntRange(0), metavar="BYTES", help="Smaller files do not count.")
@click.option("--size-max", type=click.IntRange(0), metavar="BYTES", help="Nor larger ones.")
@click.option(
    "--batch-files",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Files of one call at most. Default: 100.",
)
@click.option(
    "--batch-seconds",
    type=Seconds(off=True),
    metavar="S",
    help="Seconds for which events are gathered into one call. Default: 1.",
)
@click.option("--schedule", metavar="CRON", help="Five fields, UTC; with type cron.")
@click.option("--param", "params", metavar="K=V", multiple=True, help="A function parameter. Repeatable.")
def add(key: str, type: str, params: tuple[str, ...], **about: Any) -> None:
    """Let happenings of TYPE start the function KEY.

    \b
    TYPE is one of
      file_created, file_read, file_updated, file_deleted
      metadata_created, metadata_updated, metadata_deleted
      minute, hour, day, cron
      on_demand

    \b
    Examples:
      libsafe-nb trigger add hash-files file_created --container 12 --path '\\.tiff?$'
      libsafe-nb trigger add audit cron --schedule '0 4 * * 1' --container 12
    """
    from libsafe_nb.cli.running import pair

    given = dict(pair(each) for each in params)
    _trigger_line(connected().add_trigger(key, type, params=given, **about))


def _trigger_line(found: dict[str, Any]) -> None:
    names = ("path_regex", "name_regex", "mime", "size_min", "size_max", "schedule")
    filters = "  ".join(f"{name}={found[name]}" for name in names if found[name] is not None)
    state = "" if found["enabled"] else f"  {found['error'] or 'disabled'}"
    click.echo(
        f"trigger {found['id']}  {found['function']}  {found['type']}  container {found['container_id'] or 'any'}"
        f"{'  ' + filters if filters else ''}{state}"
    )


@trigger.command("list")
@click.argument("key", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_triggers(key: str | None, as_json: bool) -> None:
    """All triggers, or those of one function; with why the platform disabled one."""
    found = list(connected().triggers(key))
    if as_json:
        show_json(found)
        return
    for each in found:
        _trigger_line(each)


@trigger.command()
@click.argument("trigger")
def remove(trigger: str) -> None:
    """Remove a trigger, with the events that wait to become a call of it."""
    connected().remove_trigger(trigger)


@trigger.command("enable")
@click.argument("trigger")
def enable_trigger(trigger: str) -> None:
    """Let a trigger fire again; a clock counts from now."""
    connected().enable_trigger(trigger, True)


@trigger.command("disable")
@click.argument("trigger")
def disable_trigger(trigger: str) -> None:
    """Let a trigger fire no more."""
    connected().enable_trigger(trigger, False)
