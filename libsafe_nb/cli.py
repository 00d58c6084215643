"""
The command line. Each command imports what it needs when it runs, so `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from libsafe_nb.errors import LibsafeError, UsageError

if TYPE_CHECKING:
    from libsafe_nb.checks import Check
    from libsafe_nb.models import Run
    from libsafe_nb.replay import Replayed

EXIT_CODES = """\b
Exit codes: 0 COMPLETED · 1 FAILED by the function · 2 bad usage, payload or notebook: nothing started
3 could not be executed, or its evidence not be stored · 4 deadline passed · 130/143 interrupted/terminated"""


class _Group(click.Group):
    """Commands in the order of their definition, which is the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="libsafe-nb")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Run LIBSAFE Go functions that are notebooks, and keep a record of what happened.

    With no platform configured, a local one is started: no account, no server, no settings.
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The program: an error ends it with one or two sentences on stderr and the exit code of contract 2."""
    debug = "--debug" in (arguments or sys.argv[1:])
    try:
        sys.exit(
            cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False) or 0
        )
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except LibsafeError as exc:
        _complain(str(exc), debug=debug)
        sys.exit(exc.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as exc:
        # A fault of ours, or of the machine: still one sentence (contract 2).
        text = str(exc).splitlines()[0][:300] if str(exc) else ""
        _complain(f"{type(exc).__name__}: {text} (--debug shows where)", debug=debug)
        sys.exit(3)


class _Seconds(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4 only
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


class _Size(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4 only
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


def _complain(text: str, *, debug: bool) -> None:
    """Tell an error on stderr, without the keys of the settings: a server may have quoted one in its answer."""
    from libsafe_nb.check import configured_secrets

    told = f"{traceback.format_exc()}libsafe-nb: {text}" if debug else f"libsafe-nb: {text}"
    # Where the settings themselves are what is wrong, no key was read from them.
    with contextlib.suppress(LibsafeError):
        told = configured_secrets().clean(told)
    click.echo(told, err=True)


def _run_options(command: Any) -> Any:
    options = [
        click.option(
            "--container",
            metavar="ID",
            help="Container to work in. Default: the payload's, else the local platform's.",
        ),
        click.option(
            "--file",
            "files",
            metavar="ID_OR_PATH",
            multiple=True,
            help="A file in the container. Repeatable.",
        ),
        click.option(
            "--upload",
            "uploads",
            metavar="LOCAL",
            multiple=True,
            help="Store a local file as /NAME and run over it. Repeatable.",
        ),
        click.option(
            "--param",
            "params",
            metavar="K=V",
            multiple=True,
            help="A function parameter that the notebook declares. Repeatable.",
        ),
        click.option(
            "--payload", metavar="FILE", help="The platform's JSON payload; - reads standard input."
        ),
        click.option("--job", metavar="ID", help="An existing job. Default: the payload's, else a new one."),
        click.option(
            "--timeout",
            type=_Seconds(),
            metavar="S",
            help="Seconds after which the run ends with exit code 4.",
        ),
        click.option(
            "--cell-timeout",
            type=_Seconds(),
            metavar="S",
            help="Seconds that any one cell may take; then the run ends with exit code 4. Default: no limit.",
        ),
        click.option(
            "--hung",
            type=_Seconds(least=1, off=True),
            default=60,
            show_default=True,
            metavar="S",
            help="Seconds without a sign of life from the kernel's process (not from the cell, which may compute as "
            "long as it likes), after which it is killed: exit code 3. 0: wait for ever.",
        ),
        click.option(
            "--memory",
            type=_Size(),
            metavar="SIZE",
            help="Address space of the kernel and of each process that it starts, with K, M or G. A Python kernel "
            "reserves about 1G at rest; beyond the limit a cell gets a MemoryError. Default: no limit.",
        ),
        click.option(
            "--cpu",
            type=click.IntRange(1, 2**31 - 1),
            metavar="S",
            help="Seconds of processor time of the kernel and of each process that it starts, after which it is "
            "killed: exit code 3. Default: no limit.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(epilog=EXIT_CODES)
@click.argument("notebook")
@_run_options
def run(notebook: str, **options: Any) -> None:
    """Run one function NOTEBOOK, store its evidence, end its job.

    NOTEBOOK is a local path or libsafe://CONTAINER/path.ipynb.

    \b
    Example:
      libsafe-nb run notebooks/hash_files.ipynb --upload photo.tif --upload notes.txt
    """
    _execute(notebook, script=False, **options)


@cli.command("exec", epilog=EXIT_CODES)
@click.argument("script")
@_run_options
def exec_(script: str, **options: Any) -> None:
    """Run a plain Python SCRIPT as a one-cell notebook.

    A literal assigned to json_sample or payload at the top level is replaced by the run's payload, and the record
    says so.
    """
    _execute(script, script=True, **options)


def _execute(
    notebook: str,
    *,
    script: bool,
    container: str | None,
    files: tuple[str, ...],
    uploads: tuple[str, ...],
    params: tuple[str, ...],
    payload: str | None,
    job: str | None,
    timeout: float | None,
    cell_timeout: float | None,
    hung: float,
    memory: int | None,
    cpu: int | None,
    as_json: bool,
) -> None:
    # These are checked before papermill is imported: a typing error is answered at once.
    source = _read_payload(payload)
    given = dict(_pair(each) for each in params)
    from libsafe_nb import runner
    from libsafe_nb.execution import Limits
    from libsafe_nb.progress import Progress

    limits = Limits(cell_timeout=cell_timeout, hung=hung or None, memory=memory, cpu=cpu)
    with Progress(notebook, quiet=as_json or not sys.stderr.isatty()) as progress:
        finished = runner.run(
            source,
            notebook,
            container=container,
            files=files,
            uploads=uploads,
            params=given,
            job=job,
            timeout=timeout,
            limits=limits,
            script=script,
            on_cell=progress.on_cell,
        )
    if as_json:
        click.echo(json.dumps(finished.to_json(), ensure_ascii=False))
    else:
        _tell(finished)
    _tell_error(finished)
    sys.exit(finished.exit_code)


def _read_payload(name: str | None) -> bytes | None:
    if name is None:
        return None
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        raise UsageError(f"--payload {name}: cannot be read ({exc.strerror or exc})") from exc


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--param {text!r}: expected NAME=VALUE")
    return name, value


def _tell(finished: Run) -> None:
    from libsafe_nb.models import OUTCOMES

    outcome = OUTCOMES[finished.status]
    click.echo(f"job {finished.job}  {outcome}  {finished.seconds:.1f} s")
    for name, value in finished.scraps.items():
        click.echo(f"  {name} = {json.dumps(value, ensure_ascii=False, default=str)[:200]}")
    if finished.evidence:
        click.echo(f"evidence  {finished.evidence}")


def _tell_error(finished: Run) -> None:
    """On stderr, with --json as well (contract 2)."""
    from libsafe_nb.models import describe

    if finished.error or finished.status != "completed":
        click.echo(f"libsafe-nb: {describe(finished.error)}", err=True)


@cli.command("check", epilog="Exit codes: 0 nothing found · 1 findings · 2 a notebook cannot be read")
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list of {file, cell, line, code, message}."
)
def check_(notebooks: tuple[str, ...], as_json: bool) -> None:
    """Find keys pasted in notebooks, and descriptions that are not whole, before they are uploaded or published.

    Prints FILE:CELL:LINE: CODE MESSAGE for each; cells are counted from 1. The codes are in docs/check.md.
    """
    from libsafe_nb import check
    from libsafe_nb.errors import NotebookError

    secrets = check.configured_secrets()
    found, unreadable = [], False
    for name in notebooks:
        try:
            found += check.check(name, secrets=secrets)
        except NotebookError as exc:
            # The others are still worth checking.
            click.echo(f"libsafe-nb: {exc}", err=True)
            unreadable = True
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], ensure_ascii=False, indent=2))
    else:
        for each in found:
            click.echo(str(each))
    sys.exit(2 if unreadable else 1 if found else 0)


@cli.command("upload")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--container", metavar="ID", help="Container to store in. Default: the local platform's.")
@click.option(
    "--to", "folder", metavar="FOLDER", default="", help="Folder in the container. Default: its top."
)
def upload_(files: tuple[str, ...], container: str | None, folder: str) -> None:
    """Store files in a container, as /FOLDER/NAME.

    Equal bytes are not stored again, others become a new version. A notebook in which a key is pasted is refused.
    """
    from libsafe_nb.upload import upload

    for each in upload(files, container=container, folder=folder):
        what = "stored" if each.created else "is there already"
        click.echo(f"libsafe://{each.container}/{each.path}  {what}  {each.size} bytes")


class _Head(click.ParamType):  # type: ignore[type-arg] # generic since click 8.4 only
    """`SEQ:SHA256`, or the job's message itself, `chain: SEQ SHA256`."""

    name = "head"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        found = re.fullmatch(r"(?:chain: )?([1-9][0-9]{0,7})[: ]([0-9a-f]{64})", str(value).strip())
        if not found:
            self.fail(f"expected SEQ:SHA256, as in the job's message, got {value!r}", param, ctx)
        return {"seq": int(found[1]), "sha256": found[2]}


@cli.command("verify")
@click.argument("evidence", nargs=-1, required=True, metavar="EVIDENCE...")
@click.option(
    "--head",
    type=_Head(),
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
            keys=keys,
            tsa_certs=tsa_certs,
            seen=None if as_json else _teller(verbose),
        )
        reports.append(report)
        if not as_json:
            told = ", ".join(f"{count} {name}" for name, count in sorted(report.counts.items()))
            verdict = {0: "verified", 1: "NOT AS RECORDED", 5: "incomplete"}[report.exit_code]
            click.echo(f"{verdict}  {report.place}  {told or 'nothing to check'}")
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


@cli.group()
def local() -> None:
    """The local platform: an embedded LIBSAFE Go with a real S3 server."""


_ROOT = click.option("--root", metavar="DIR", help="Folder of its state. Default: $LIBSAFE_NB_HOME/platform.")


def _root(root: str | None) -> Path:
    from libsafe_nb import settings

    return Path(root).absolute() if root else settings.home() / "platform"


@local.command()
@_ROOT
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port of the REST API. Default: a free one.",
)
def serve(root: str | None, port: int) -> None:
    """Serve in the foreground until interrupted.

    Writes ROOT/platform.json (mode 0600) with the addresses and keys, and removes it at the end.
    """
    from libsafe_nb import local as platform

    platform.run_foreground(_root(root), port)


@local.command()
@_ROOT
def status(root: str | None) -> None:
    """Print the platform's state as JSON; exit 3 if it is not running."""
    from libsafe_nb import local as platform

    state = platform.status(_root(root))
    click.echo(json.dumps(state, indent=2))
    sys.exit(0 if state.get("running") else 3)


@local.command()
@_ROOT
def stop(root: str | None) -> None:
    """Stop it, its S3 server included."""
    from libsafe_nb import local as platform

    stopped = platform.stop(_root(root))
    click.echo("stopped" if stopped else "was not running")


@cli.group()
def job() -> None:
    """For kernels of other languages, inside a run: speak to the run's job."""


def _door() -> Any:
    from libsafe_nb import door

    path = os.environ.get(door.VARIABLE)
    if not path:
        raise UsageError(
            f"there is no run here: {door.VARIABLE} is not set; this command works in a cell of a run"
        )
    return door.connect(path)


@job.command()
@click.argument("message")
@click.option("--type", "kind", default="INFO", show_default=True, help="INFO, WARNING, ERROR or DEBUG.")
@click.option("--file", "file_id", metavar="ID", help="The file that the message is about.")
def log(message: str, kind: str, file_id: str | None) -> None:
    """Write a message to the job."""
    _door().call("log", message=message, type=kind.upper(), file_id=file_id)


@job.command("hash")
@click.argument("file_id")
@click.argument("algorithm")
@click.argument("value")
def hash_(file_id: str, algorithm: str, value: str) -> None:
    """Store a hash of a file."""
    _door().call("hash", file_id=file_id, algorithm=algorithm, value=value)


@job.command()
@click.argument("file_id")
@click.argument("descriptors", nargs=-1, required=True, metavar="IECODE=VALUE...")
def metadata(file_id: str, descriptors: tuple[str, ...]) -> None:
    """Write descriptors of a file."""
    pairs = [each.partition("=") for each in descriptors]
    for code, equals, _ in pairs:
        if not equals or not code:
            raise UsageError(f"{code!r}: expected IECODE=VALUE")
    _door().call(
        "metadata", file_id=file_id, metadata=[{"iecode": code, "value": value} for code, _, value in pairs]
    )


@job.command()
@click.option("--failed", is_flag=True, help="End it as FAILED; the default is COMPLETED.")
def end(failed: bool) -> None:
    """Give the function's verdict; the runner closes the job when the evidence is stored."""
    _door().call("end", ok=not failed)


@cli.command("recover")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--abandon",
    is_flag=True,
    help="Close the jobs of runs that cannot be finished as FAILED, without evidence; what there is of it is kept.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON list of {run, job, container, status, evidence, message}.",
)
def recover_(runs: tuple[str, ...], abandon: bool, as_json: bool) -> None:
    """Finish what interrupted runs left behind: store their evidence, end their jobs.

    Without RUN: all of this machine's, and those in the containers you may see whose machine is lost. Safe to repeat
    and to run twice at once; `run` does it for this machine's runs before it starts. Exit code 3 if a run still waits.
    """
    from libsafe_nb import recover as recovery

    found = []
    for each in recovery.recover(runs, abandon=abandon):
        found.append(each)
        if not as_json:
            click.echo(f"run {each.run}  job {each.job or '-'}  {each.status.upper()}: {each.message}")
            if each.evidence:
                click.echo(f"  evidence  {each.evidence}")
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], ensure_ascii=False, indent=2))
    elif not found:
        click.echo("nothing to recover")
    sys.exit(0 if all(each.done for each in found) else 3)


@cli.command(
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


@cli.command(
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


@cli.group()
def export() -> None:
    """Write evidence in forms that other systems read.

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
    paths = [path for path, _ in source.list(source.start)]
    if not paths:
        raise UsageError(f"{source.place}: expected evidence, found none")
    files = ((path.removeprefix("/"), source.read(path)) for path in paths)
    try:
        bag.make(Path(target), files, info={"External-Identifier": source.place})
    except OSError as exc:
        raise UsageError(f"{target}: the bag cannot be written ({exc.strerror or exc})") from exc
    click.echo(f"{target}  {len(paths)} files")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {name, ok, found, remedy}.")
def doctor(as_json: bool) -> None:
    """Tell what is configured, reachable and installed, and what to do about what is not."""
    from libsafe_nb.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([each.to_json() for each in findings], indent=2))
    else:
        for each in findings:
            click.echo(f"{'ok  ' if each.ok else 'FAIL'}  {each.name}: {each.found}")
            if each.remedy:
                click.echo(f"      {each.remedy}")
    sys.exit(0 if all(each.ok for each in findings) else 3)
