"""
papermill's engine `libsafe`: the same notebooks, told truly and saved whole.

papermill loads this module through its entry point, so it may import papermill; nothing else of the package imports
it. `papermill IN OUT --engine libsafe` and `papermill.execute_notebook(…, engine_name="libsafe")` need no more than
that; a runner adds `execution=Execution(…)` and finds the outcome in it.

What papermill does after an engine returned, it does here too: it raises for a cell that failed, and writes the
notebook once more. It does not raise for an expected error, and its write is atomic (`_AtomicHandler`). For what ends
a run otherwise (death, deadline, cancel) the engine itself raises, after the notebook is saved.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.engines import Engine
from papermill.iorw import LocalHandler, papermill_io
from papermill.log import logger
from papermill.utils import nb_language

from libsafe_nb import environment, kernels
from libsafe_nb.account import Account
from libsafe_nb.conversation import Conversation, Verdict
from libsafe_nb.errors import ExecutionError, KernelDied, LibsafeError, RunCancelled, RunTimeout
from libsafe_nb.execution import CellState, Execution, Limits, Outcome
from libsafe_nb.saving import SAVE_EVERY, Saver, text, to_file

__all__ = ["Execution", "KernelDeath", "LibsafeEngine", "Limits"]


class KernelDeath(KernelDied, DeadKernelError):
    """A kernel that died, for papermill's own program too, which then ends with its code 138."""


class LibsafeEngine(Engine):  # type: ignore[misc] # papermill is not typed
    """Registered as `libsafe` under papermill's entry points."""

    @classmethod
    def nb_kernel_name(cls, nb: NotebookNode, name: str | None = None) -> str:
        """Return the kernel to use; raises `NotebookError`, with the remedy, where none is named."""
        found = name or nb.metadata.get("kernelspec", {}).get("name")
        return (
            str(found)
            if found
            else kernels.check(None, nb.metadata.get("kernelspec", {}).get("language")).name
        )

    @classmethod
    def nb_language(cls, nb: NotebookNode, language: str | None = None) -> str:
        return str(nb_language(nb, language))

    @classmethod
    def execute_notebook(
        cls,
        nb: NotebookNode,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool | dict[str, Any] = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        *,
        execution: Execution | None = None,
        input_path: str | None = None,
        start_timeout: float = 60,
        execution_timeout: float | None = None,
        timeout: float | None = None,
        stdout_file: TextIO | None = None,
        stderr_file: TextIO | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> NotebookNode:
        """
        Execute `nb` in place and return it; called by papermill with its own options.

        Parameters
        ----------
        output_path
            Where papermill keeps the notebook; `execution.save_to` comes before it.
        autosave_cell_every
            Seconds between two saves to a place that is not a local file (there it is 2 s); 0 for none while a cell
            runs.
        execution
            Limits and hooks of a runner, and where it finds the outcome. Its limits replace the time-outs below.
        start_timeout, execution_timeout, timeout
            As in papermill: for the kernel's start, and for each cell (`timeout` is the older name).
        resources
            As in nbclient: `{"metadata": {"path": DIRECTORY}}` is the kernel's directory.

        Raises
        ------
        KernelDied, RunTimeout, RunCancelled, ExecutionError
            What ended the run, after the notebook was saved. For a cell that failed papermill raises.
        """
        if execution is None:
            directory = (resources or {}).get("metadata", {}).get("path")
            execution = Execution(
                limits=Limits(startup_timeout=start_timeout, cell_timeout=execution_timeout or timeout),
                cwd=Path(directory) if directory else None,
            )
        place = Place.find(nb, output_path, execution.save_to, autosave_cell_every)
        execution.notebook = nb
        account = Account(nb, environment.version("libsafe-nb"))
        account.start()
        with _progress(nb, progress_bar, execution) as tell, _signals(execution):
            show = _Show(log_output, stdout_file, stderr_file)
            verdict, fault = _run(nb, execution, kernel_name, account, place.saver, tell, show)
            became = execution.at_end(verdict.status) if execution.at_end is not None else None
            if became is not None:
                verdict = Verdict(*became)
        execution.outcome = account.end(verdict.status, verdict.cause, verdict.error)
        if fault is None and verdict.status not in ("completed", "failed"):
            fault = _exception(verdict)
        if verdict.cause == "save" and fault is not None:
            raise fault
        try:
            place.end(nb, raising=fault is not None)
        except Exception as exc:
            fault = _unsaved(nb, place, exc)
            error = {"type": "ExecutionError", "message": str(fault), "cell_id": None}
            execution.outcome = replace(execution.outcome, status="errored", cause="save", error=error)
        if fault is not None:
            raise fault
        _excuse_errors(nb, execution.outcome)
        return nb


def _run(
    nb: NotebookNode,
    execution: Execution,
    kernel_name: str,
    account: Account,
    saver: Saver | None,
    tell: Callable[[CellState], None],
    show: Callable[[NotebookNode], None],
) -> tuple[Verdict, BaseException | None]:
    """Execute; return the verdict, and the error that is to be raised if there was one."""
    kernels.prepare(
        execution.kernel_name or kernel_name,
        env=execution.env,
        extension=execution.extension,
        platform=execution.platform,
    )
    try:
        if saver is not None:
            # Before anything has happened: a place that cannot be written to is found now.
            saver.save(nb)
    except Exception as exc:
        return _errored("save", ExecutionError(f"the executed notebook cannot be written: {exc}"), exc)
    try:
        spec = kernels.check(execution.kernel_name or kernel_name, extension=execution.extension)
    except LibsafeError as exc:
        return _errored("kernel-start", exc)
    try:
        conversation = Conversation(
            nb, spec, execution, account, saver=saver, tell=tell, show=show, log=logger
        )
        return _in_loop(conversation), None
    except BaseException as exc:
        # A callback's error, a bug of ours, or what a foreign signal handler raised: recorded, then raised as it is.
        return _errored("internal", exc)


def _errored(
    cause: str, fault: BaseException, reason: BaseException | None = None
) -> tuple[Verdict, BaseException]:
    if reason is not None:
        fault.__cause__ = reason
    error: dict[str, str | None] = {"type": type(fault).__name__, "message": str(fault), "cell_id": None}
    return Verdict("errored", cause, error), fault


def _in_loop(conversation: Conversation) -> Verdict:
    """Run in an event loop of its own: here, or in a thread if a loop (Jupyter's, a server's) runs here already."""

    def run() -> Verdict:
        # With a factory, Runner leaves the thread's current loop alone.
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return runner.run(conversation.run())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="libsafe-nb") as threads:
        return threads.submit(run).result()


def _exception(verdict: Verdict) -> LibsafeError:
    """Return the error that says how a run ended."""
    error = verdict.error or {}
    message, place = str(error.get("message")), error.get("cell_id")
    if place:
        message += f" (cell {place})"
    facts = {"cause": verdict.cause, "cell_id": place}
    if verdict.status == "timeout":
        return RunTimeout(message, **facts)
    if verdict.status == "cancelled":
        return RunCancelled(message, exit_code=143 if verdict.cause == "terminated" else 130, **facts)
    if verdict.cause in ("kernel-died", "kernel-hung", "cpu-limit"):
        return KernelDeath(message, **facts)
    if verdict.cause == "kernel-start":
        return KernelDied(message, **facts)
    return ExecutionError(message, **facts)


class Place:
    """Where the notebook is kept: a local file, a place that papermill has a handler for, or nowhere."""

    def __init__(self, saver: Saver | None, *, local: Path | None = None, name: str | None = None) -> None:
        self.saver = saver
        self.local = local
        self._name = name

    @classmethod
    def find(
        cls, nb: NotebookNode, output_path: str | None, save_to: Path | None, autosave_cell_every: float
    ) -> Place:
        if save_to is not None:
            return cls(Saver(to_file(save_to, 0o600)), local=save_to)
        # Without saves during the execution papermill keeps the path for itself, and writes there at the end.
        name = output_path or nb.metadata.get("papermill", {}).get("output_path")
        handler = papermill_io.get_handler(name)
        if isinstance(handler, LocalHandler):
            path = Path(handler._cwd or ".", name).absolute()
            every = SAVE_EVERY if autosave_cell_every else None
            return cls(Saver(to_file(path), every=every) if output_path else None, local=path, name=name)
        if name is None or name == "-":
            return cls(None, name=name)
        return cls(
            Saver(lambda text: handler.write(text, name), every=autosave_cell_every or None), name=name
        )

    def end(self, nb: NotebookNode, *, raising: bool) -> None:
        """Save the last state, if papermill does not do it; see that papermill's own write is atomic."""
        if self.saver is not None and (self.local is not None or raising):
            self.saver.save(nb)
        elif raising and self._name is not None:
            papermill_io.write(text(nb), self._name)
        if self.local is not None and self._name is not None and not raising:
            _AtomicHandler(self._name, self.local).register()


class _AtomicHandler(LocalHandler):  # type: ignore[misc] # papermill is not typed
    """
    Writes one local file once, atomically: papermill's last write, which would empty the good copy first.

    papermill finds a handler by the beginning of the path, so that this one may be asked for other paths as well
    while it is registered; those it passes on.
    """

    def __init__(self, name: str, target: Path) -> None:
        super().__init__()
        self._name = name
        self._target = target

    def register(self) -> None:
        papermill_io.register(self._name, self)

    def read(self, path: str) -> Any:
        return self._other(path).read(path)

    def listdir(self, path: str) -> Any:
        return self._other(path).listdir(path)

    def write(self, buf: str, path: str) -> None:
        if path != self._name:
            self._other(path).write(buf, path)
            return
        self._unregister()
        to_file(self._target)(buf)

    def _unregister(self) -> None:
        papermill_io._handlers[:] = [each for each in papermill_io._handlers if each[1] is not self]

    def _other(self, path: str) -> Any:
        others = type(papermill_io)()
        others._handlers = [
            each for each in papermill_io._handlers if not isinstance(each[1], _AtomicHandler)
        ]
        return others.get_handler(path)


class _Excused(NotebookNode):
    """
    An error output that papermill must not raise for.

    papermill raises for any output whose attribute `output_type` is `error`, tagged `raises-exception` or not. To the
    first who asks by attribute, which is papermill, this is something else; from then on it is an ordinary node. In
    the file it is an error all along.
    """

    @property
    def output_type(self) -> str:
        object.__setattr__(self, "__class__", NotebookNode)
        return "expected_error"


def _excuse_errors(nb: NotebookNode, outcome: Outcome) -> None:
    """Excuse the errors of cells that did not fail."""
    for state in outcome.cells:
        if state.status != "failed":
            cell = nb.cells[state.index]
            cell.outputs = [
                _Excused(each) if each["output_type"] == "error" else each  # type: ignore[no-untyped-call]
                for each in cell.outputs
            ]


def _unsaved(nb: NotebookNode, place: Place, reason: Exception) -> ExecutionError:
    """Keep the notebook somewhere else, and say so."""
    wanted = place.local.name if place.local else "executed.ipynb"
    message = f"the executed notebook could not be written: {reason}"
    try:
        folder = Path(tempfile.mkdtemp(prefix="libsafe-nb-unsaved-"))
        to_file(folder / wanted, 0o600)(text(nb))
        message += f". It is kept as {folder / wanted}"
    except OSError as exc:
        message += f". Nor could it be kept in {tempfile.gettempdir()}: {exc}"
    error = ExecutionError(message)
    error.__cause__ = reason
    return error


@contextlib.contextmanager
def _progress(
    nb: NotebookNode, progress_bar: bool | dict[str, Any], execution: Execution
) -> Iterator[Callable[[CellState], None]]:
    """Give what is told of each cell's start and end: papermill's progress bar, and the execution's own listener."""
    bar = None
    if progress_bar:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        options = progress_bar if isinstance(progress_bar, dict) else {}
        bar = tqdm(total=len(nb.cells), **{"unit": "cell", "desc": "Executing", **options})

    def tell(state: CellState) -> None:
        if bar is not None and state.status != "running":
            bar.update(state.index + 1 - bar.n)
        if execution.on_cell is not None:
            execution.on_cell(state)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.close()


@contextlib.contextmanager
def _signals(execution: Execution) -> Iterator[None]:
    """
    Have SIGINT and SIGTERM cancel the run, in the main thread.

    A handler that somebody else has set is left in its place: whoever set it calls `Execution.cancel`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(number: int, _frame: object) -> None:
        execution.cancel(f"by {signal.Signals(number).name}", number)

    free = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = [number for number, handler in before.items() if handler in free]
    for number in ours:
        signal.signal(number, cancel)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


class _Show:
    """papermill's `log_output`, `stdout_file` and `stderr_file`."""

    def __init__(self, log: bool, stdout_file: TextIO | None, stderr_file: TextIO | None) -> None:
        self._log = log
        self._files = {"stdout": stdout_file, "stderr": stderr_file}

    def __call__(self, output: NotebookNode) -> None:
        if output["output_type"] == "stream":
            if self._log:
                (logger.warning if output["name"] == "stderr" else logger.info)(output["text"])
            file = self._files.get(output["name"])
            if file is not None:
                file.write(output["text"])
                file.flush()
        elif self._log and "text/plain" in output.get("data", {}):
            logger.info(output["data"]["text/plain"])
