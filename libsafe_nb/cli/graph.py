"""`graph`: a workflow as it ran."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from libsafe_nb.errors import UsageError

if TYPE_CHECKING:
    from libsafe_nb.archive import Archive
    from libsafe_nb.flow import Node


@click.command(
    "graph",
    epilog="Exit codes: 0 told · 2 bad usage, no such evidence or notebook · 3 the platform is away",
)
@click.argument("workflow", metavar="WORKFLOW|EVIDENCE")
@click.option(
    "--container",
    metavar="ID",
    help="Where the latest evidence of a WORKFLOW is looked for. Default: the notebook's, else 1.",
)
@click.option("--deep", is_flag=True, help="Tell the calls of its calls as well, from their own evidence.")
@click.option(
    "--all", "every", is_flag=True, help="A line for each call, also where there are many of one function."
)
@click.option("--svg", metavar="FILE|-", help="Write it as a picture; - is standard output.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, the calls of each run within it."
)
def graph_(
    workflow: str, container: str | None, deep: bool, every: bool, svg: str | None, as_json: bool
) -> None:
    """Tell what a workflow called, as it ran.

    EVIDENCE is the folder of one run, on this disk or libsafe://CONTAINER/provenance/…/. WORKFLOW is a notebook, here or in a
    container, or the key of a function: then the latest evidence of it in the container is told. Of a notebook without any,
    the calls that stand in its source are told, as not run.

    \b
    Examples:
      libsafe-nb graph libsafe://12/provenance/ingest/20261126T103000000Z-job40/ --deep
      libsafe-nb graph ingest.ipynb --container 12 --svg ingest.svg
    """
    if svg and as_json:
        raise UsageError("--svg and --json: expected one of the two, got both")
    from libsafe_nb import flowtext, flowtree

    nodes, archive, said = flowtree.graph(workflow, container=container, deep=deep)
    try:
        if as_json:
            click.echo(json.dumps({"told": said, **flowtext.tree(nodes)}, ensure_ascii=False, indent=1))
        elif svg:
            _draw(svg, nodes, archive, said)
        else:
            for line in flowtext.lines(nodes, every=every):
                click.echo(flowtext.printable(line))
            click.echo(said, err=True)
    finally:
        if archive is not None:
            archive.close()


def _draw(target: str, nodes: Sequence[Node], archive: Archive | None, said: str) -> None:
    from libsafe_nb import atomic, flowtree
    from libsafe_nb.report import flowpicture

    if target == "-":
        sys.stdout.write(flowpicture.standalone(nodes))
        return
    made = flowpicture.standalone(nodes, flowtree.link_from(archive, Path(target)))
    try:
        atomic.write_text(Path(target), made, mode=None)
    except OSError as exc:
        raise UsageError(f"--svg {target}: cannot be written ({exc.strerror or exc})") from exc
    click.echo(f"{target}  {said}")
