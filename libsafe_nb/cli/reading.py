"""`verify`, `history`, `replay` and `export`: the evidence, read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from libsafe_nb.cli.types import Group, Head
from libsafe_nb.errors import UsageError

if TYPE_CHECKING:
    from libsafe_nb.checks import Check
    from libsafe_nb.replay import Replayed


@click.command("verify")
@click.argument("evidence", nargs=-1, required=True, metavar="EVIDENCE...")
@click.option(
    "--head",
    type=Head(),
    metavar="SEQ:SHA256",
    help="A link of the chain as it was told outside the container, in the job's message `chain: SEQ SHA256`. Without "
    "it, over libsafe://, the jobs' messages are asked.",
)
@click.option(
    "--files/--no-files",
    default=True,
    show_default=True,
    help="Read the inputs and outputs again, in the versions that the record names, and compare their digests.",
)
@click.option(
    "--deep",
    is_flag=True,
    help="Check what the runs called as well, and what was reused, wherever it lies; and that caller and called say the same "
    "of each other.",
)
@click.option(
    "--key",
    "keys",
    metavar="FILE",
    multiple=True,
    help="An Ed25519 public key (PEM): each link must be signed by it, or by another that is given. Repeatable.",
)
@click.option(
    "--tsa-cert",
    "tsa_certs",
    metavar="FILE",
    multiple=True,
    help="Certificates (PEM) of time-stamp authorities that you trust: each link must be stamped by one of theirs. "
    "Repeatable.",
)
@click.option("--verbose", is_flag=True, help="Print what is as recorded, too.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list of {place, exit_code, counts, checks}."
)
def verify_(
    evidence: tuple[str, ...],
    head: dict[str, Any] | None,
    files: bool,
    deep: bool,
    keys: tuple[str, ...],
    tsa_certs: tuple[str, ...],
    verbose: bool,
    as_json: bool,
) -> None:
    """Check evidence against itself, its chain and the files it names.

    EVIDENCE is a record's folder, a provenance folder or a container: a local copy, a container's id, or
    libsafe://CONTAINER/PATH. A local copy needs no platform, no network and no kernel. A record's folder alone is checked as a folder, and says so.

    \b
    Exit codes: 0 verified · 1 something is changed or missing · 2 bad usage · 3 the platform or its storage did not
    answer · 5 something could not be checked
    """
    from libsafe_nb import verify

    reports = []
    for each in evidence:
        report = verify(
            each,
            head=head,
            files=files,
            deep=deep,
            keys=keys,
            tsa_certs=tsa_certs,
            seen=None if as_json else _teller(verbose),
        )
        reports.append(report)
        if not as_json:
            told = ", ".join(f"{count} {name}" for name, count in sorted(report.counts.items()))
            verdict = {0: "verified", 1: "NOT AS RECORDED", 5: "incomplete"}[report.exit_code]
            nodes = ", ".join(f"{count} {name}" for name, count in sorted(report.nodes.items()))
            runs = f"  runs: {nodes}" if nodes else ""
            click.echo(f"{verdict}  {report.place}  {told or 'nothing to check'}{runs}")
    if as_json:
        click.echo(json.dumps([each.to_json() for each in reports], ensure_ascii=False, indent=2))
    codes = {each.exit_code for each in reports}
    sys.exit(next((code for code in (1, 5) if code in codes), 0))


def _teller(verbose: bool) -> Callable[[Check], None]:
    """Prints each check as it is made, `changed  PLACE: sentence`."""

    def tell(check: Check) -> None:
        if verbose or check.result != "ok":
            click.echo(str(check))

    return tell


@click.command(
    "history",
    epilog="Exit codes: 0 told, also where there is nothing · 2 bad usage, no such folder · 3 the platform is away",
)
@click.argument("container")
@click.option(
    "--file",
    metavar="ID_OR_PATH",
    help="All that was ever done to this file: read, written, hash or metadata set, failed, skipped. The records link its "
    "id and its paths.",
)
@click.option(
    "--html",
    metavar="FILE",
    help="Write it as one page with a timeline. In or around a local copy it links the runs' reports.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object a line for each run, or each deed with --file.",
)
def history_(container: str, file: str | None, html: str | None, as_json: bool) -> None:
    """Tell the runs in a container, oldest first.

    CONTAINER is an id, a libsafe:// address or the folder of a local copy. Runs that began and left no record come
    last. The records are believed, not checked: verify does that.

    \b
    Examples:
      libsafe-nb history 12
      libsafe-nb history ./copy --file /letter.txt --html ./copy/letter.html
    """
    if html and as_json:
        raise UsageError("--html and --json: expected one of the two, got both")
    if file is not None and not file.strip("/"):
        raise UsageError(f"--file {file!r}: expected a file's id or its path in the container")
    from libsafe_nb import archive, history, telling

    source = archive.at(container)
    found = history.of_file(source, file) if file else history.runs(source)
    count = 0
    if as_json:
        for each in found:
            click.echo(telling.line(each))
        return
    if html:
        count = telling.write(Path(html), source, found, file=file)
        click.echo(f"{html}  {count} entries")
        return
    count = telling.show(found, telling.FILE_COLUMNS if file else telling.COLUMNS)
    if not count:
        click.echo(f"{source.place}: {f'no record names the file {file}' if file else 'no runs'}", err=True)


@click.command(
    "replay",
    epilog="Exit codes: 0 same, or same except declared-volatile · 1 differs · 2 bad usage · 3 not runnable · 130/143 interrupted",
)
@click.argument("evidence")
@click.option(
    "--allow-writes",
    is_flag=True,
    help="Let the function change files and metadata once more. Default: its writes are noted and not done.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: {result, original, reasons, environment, notes, cells, secrets, run}.",
)
def replay_(evidence: str, allow_writes: bool, as_json: bool) -> None:
    """Run a recorded run once more and tell what comes out otherwise, cell by cell.

    EVIDENCE is the folder of one run's evidence, on this disk or libsafe://CONTAINER/provenance/…/. First it tells what
    changed in the environment. The code is the recorded and each input the recorded version, with the recorded digest
    where it was read whole: if not, no cell is run and there is no job. Keys are needed again: the platform's from the
    settings, a function's own secrets as for run.

    What the function changes through libnova is noted and not done. By other ways (boto3, the network) nothing is held
    back. With the vendor's own library the run ends after the parameters, unless writes are allowed. Python kernels only.
    The replay is a job with evidence of its own, which names the original.
    """
    from libsafe_nb import replay

    told: list[str] = []

    def tell_environment(changed: Sequence[str] | None) -> None:
        told.extend(["not known before the run"] if changed is None else changed or ["the same"])
        if not as_json:
            _print(f"environment  {each}" for each in told)

    found = replay.replay(evidence, allow_writes=allow_writes, on_environment=tell_environment)
    if as_json:
        click.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print(_story_of(found, told))
    sys.exit(found.exit_code)


def _print(lines: Iterable[str]) -> None:
    for text in lines:
        # A record's words move no cursor.
        click.echo("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text))


def _story_of(found: Replayed, told: Sequence[str]) -> Iterator[str]:
    """What came after the environment was `told`; that again only where the kernel knew otherwise."""
    if not told:
        yield "environment  not compared"
    elif found.run and found.run.evidence and (changed := found.environment or ("the same",)) != tuple(told):
        yield from (f"environment, as the kernel told it  {each}" for each in changed)
    yield from (f"note  {each}" for each in found.notes)
    for cell in found.cells:
        if cell.verdict != "same":
            yield f"cell {cell.number} ({cell.cell_id})  {cell.verdict}"
            yield from (f"  {each}" for each in cell.diff)
    yield from (f"{found.verdict}: {each}" for each in found.reasons)
    if found.run is not None:
        yield f"job {found.run.job}  evidence  {found.run.evidence}"
    yield f"result  {found.verdict}"


@click.group(cls=Group, places={"nuclio": "libsafe_nb.cli.calling:export_nuclio"})
def export() -> None:
    """Write evidence, or a function, in forms that other systems read.

    EVIDENCE is a container's id, a libsafe:// address in it or the folder of a local copy.
    """


@export.command("prov")
@click.argument("evidence")
@click.option("--output", metavar="FILE", help="Where it is written. Default: standard output.")
def export_prov(evidence: str, output: str | None) -> None:
    """Tell one run as W3C PROV-JSON.

    EVIDENCE is the run's folder. The record is believed, not checked: verify does that.

    \b
    Example:
      libsafe-nb export prov libsafe://1/provenance/hash_files/20261123T135204781Z-job1/ --output run.prov.json
    """
    import json

    from libsafe_nb import archive, atomic, prov

    source = archive.at(evidence)
    document = json.dumps(prov.build(archive.record(source)), ensure_ascii=False, indent=1)
    if output is None:
        click.echo(document)
        return
    try:
        atomic.write_text(Path(output), document + "\n")
    except OSError as exc:
        raise UsageError(f"{output}: cannot be written ({exc.strerror or exc})") from exc


@export.command("bag")
@click.argument("evidence")
@click.argument("target", type=click.Path())
def export_bag(evidence: str, target: str) -> None:
    """Write a run's evidence, or all of a container's, as a BagIt bag (RFC 8493).

    EVIDENCE is a run's folder or a container; of a container all that lies under provenance/ goes into the bag, the chain
    included. TARGET is the bag's folder, which must not exist.

    \b
    Examples:
      libsafe-nb export bag 12 ./container-12
      libsafe-nb export bag libsafe://1/provenance/hash_files/20261123T135204781Z-job1/ ./run
    """
    from libsafe_nb import archive, bag

    source = archive.at(evidence)
    if next(source.list(source.start), None) is None:
        raise UsageError(f"{source.place}: expected evidence, found none")
    files = ((path.removeprefix("/"), source.read(path)) for path, _ in source.list(source.start))
    try:
        count = bag.make(Path(target), files, info={"External-Identifier": source.place})
    except OSError as exc:
        raise UsageError(f"{target}: the bag cannot be written ({exc.strerror or exc})") from exc
    click.echo(f"{target}  {count} files")
