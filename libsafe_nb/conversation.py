"""
The conversation with one kernel: requests, replies and outputs, and every way in which it can end.

One task reads replies, one reads outputs and hands them to the front end, and whatever ends a run early (the kernel's
death, its silent heartbeat, a deadline, a cancel) sets one future that every wait also waits for. Runs in one event loop, in one thread; any number
of conversations may go on in other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from nbformat import NotebookNode

from libsafe_nb import kernels
from libsafe_nb.account import Account, cell_id
from libsafe_nb.errors import LibsafeError
from libsafe_nb.execution import CellState, CellStatus, Execution, RunStatus
from libsafe_nb.frontend import FrontEnd
from libsafe_nb.kernels import Kernel, KernelSpec
from libsafe_nb.saving import Saver

SKIP_TAG = "skip-execution"

RECONNECT = 2
"""Milliseconds between two attempts to reach a socket that the starting kernel has not made yet (zmq takes one to two)."""

UNHEARD = 0.2
"""Seconds after which a kernel that answers and of whose outputs none comes is asked once more."""

QUEUE = 8
"""Messages that wait on our side at most, each as large as an output may be."""

QUIET = 0.05
"""Seconds without an output after which a dead kernel's outputs are all in."""

LOST = 4.0
"""Seconds of silence after a cell's reply, after which its end marker on the output channel is given up."""


@dataclass(frozen=True)
class Verdict:
    """How a conversation ended."""

    status: RunStatus
    cause: str | None = None
    error: dict[str, str | None] | None = None


@dataclass(frozen=True)
class Stop:
    """Why it must end now."""

    cause: str
    message: str


class Conversation:
    """
    Executes the cells of `nb` in order, in a kernel of `spec`.

    `saver` keeps the notebook during the execution (None: nobody does); `tell` gets the state of each code cell at its
    start and end, `show` every kept output as it arrives.
    """

    def __init__(
        self,
        nb: NotebookNode,
        spec: KernelSpec,
        execution: Execution,
        account: Account,
        *,
        saver: Saver | None,
        tell: Callable[[CellState], None],
        show: Callable[[NotebookNode], None],
        log: logging.Logger,
    ) -> None:
        self._nb = nb
        self._spec = spec
        self._execution = execution
        self._limits = execution.limits
        self._account = account
        self._saver = saver
        self._tell = tell
        self._log = log
        self._front = FrontEnd(
            nb, execution.limits, account, output_filter=execution.output_filter, show=show, log=log
        )
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._idle: dict[str, asyncio.Future[None]] = {}
        self._heard = 0
        self._news = False
        self._fault: BaseException | None = None

    async def run(self) -> Verdict:
        """
        Start the kernel, execute, and end the kernel, whatever happens.

        Raises
        ------
        Exception
            An error in a callback of the execution (filter, `on_cell`, `after_parameters`) or in the engine. The
            kernel is ended and the outputs are in the notebook then, too.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[Stop] = loop.create_future()
        self._again = asyncio.Event()
        if self._limits.timeout is not None:
            message = f"the run took longer than {self._limits.timeout:g} s"
            loop.call_later(self._limits.timeout, self._end, "run-timeout", message)
        self._execution.watch(self._wake_from_anywhere)
        if self._execution.cancellation:
            self._cancelled()
        try:
            if self._stop.done():
                return self._stopped(self._stop.result())
            try:
                kernel = kernels.start(
                    self._spec,
                    cwd=self._execution.cwd or Path.cwd(),
                    env=self._execution.env,
                    memory=self._limits.memory,
                    cpu=self._limits.cpu,
                    extension=self._execution.extension,
                    platform=self._execution.platform,
                )
            except LibsafeError as exc:
                return Verdict("errored", "kernel-start", _error("KernelDied", str(exc)))
            with kernel:
                return await self._converse(kernel)
        finally:
            self._execution.watch(None)
            self._front.render()

    async def _converse(self, kernel: Kernel) -> Verdict:
        """Connect, do everything, and disconnect; the kernel's process is ended by the caller."""
        loop = asyncio.get_running_loop()
        self._kernel = kernel
        self._account.kernel_is(name=self._spec.name, language=self._spec.language, pid=kernel.pid)
        if self._execution.on_kernel is not None:
            self._execution.on_kernel(kernel.pid)
        context = zmq.asyncio.Context()
        # Defaults for all sockets of the context. A kernel whose streams are ours waits when we fall behind; any other
        # would drop messages, so that there nothing bounds our queue but our speed.
        context.setsockopt(zmq.RECONNECT_IVL, RECONNECT)
        # Else ending the context waits for ever on what a stopped kernel never took.
        context.setsockopt(zmq.LINGER, 0)
        context.setsockopt(zmq.RCVHWM, QUEUE if self._waits_for_us else 0)
        self._front.kc = self._client = client = AsyncKernelClient(
            context=context,
            transport="ipc",
            ip=str(kernel.folder / "k"),
            **{f"{name}_port": number for number, name in enumerate(kernels.CHANNELS, start=1)},
        )
        client.session.key = kernel.key.encode()
        client.allow_stdin = False
        self._died = asyncio.Event()
        self._answering = asyncio.Event()
        self._hearing = asyncio.Event()
        loop.add_reader(kernel.sentinel, self._kernel_ended)
        loop.add_reader(kernel.errors, kernel.read_errors)
        tasks = [
            loop.create_task(self._guarded(work))
            for work in (self._read_replies(), self._read_outputs(), self._autosave(), self._beat(context))
        ]
        try:
            verdict = await self._execute_all()
            # After a deadline or a cancel somebody waits: the record is due.
            patient = verdict.status in ("completed", "failed")
            await self._shut_down(
                self._limits.shutdown_grace if patient else min(1.0, self._limits.shutdown_grace)
            )
            self._raise_fault()
            return verdict
        finally:
            loop.remove_reader(kernel.sentinel)
            loop.remove_reader(kernel.errors)
            kernel.kill()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            client.stop_channels()
            context.destroy(linger=0)
            self._front.kc = None

    async def _execute_all(self) -> Verdict:
        stop = await self._until(self._ready(), self._limits.startup_timeout)
        if stop is not None:
            return self._not_started(stop)
        silent_before = self._place_of_silent_step()
        for index, cell in enumerate(self._nb.cells):
            if index == silent_before:
                failure = await self._silent_step()
                if failure is not None:
                    return failure
            if cell.cell_type != "code" or not cell.source.strip():
                self._account.passed(index)
                continue
            if SKIP_TAG in cell.metadata.get("tags", []):
                self._tell(self._account.cell_ended(index, "skipped"))
                continue
            if self._stop.done():
                return await self._broken_off(self._stop.result())
            verdict = await self._execute(cell, index)
            if verdict is not None:
                return verdict
        self._front.finish()
        return Verdict("completed")

    @property
    def _waits_for_us(self) -> bool:
        return self._spec.ipykernel and self._execution.extension is not None

    async def _ready(self) -> None:
        """Wait until the kernel answers, and until its outputs reach us as well."""
        while True:
            reply = await self._request(self._client.kernel_info())
            # The first outputs of a kernel are lost until it knows of our subscription. That we heard anything at
            # all, be it the `busy` of this very request, shows that it does.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hearing.wait(), UNHEARD)
                self._introduce(reply["content"])
                return

    def _introduce(self, info: dict[str, Any]) -> None:
        self._answering.set()
        language = info.get("language_info", {})
        if language:
            self._nb.metadata["language_info"] = NotebookNode(language)
        self._account.kernel_is(
            language=language.get("name", self._spec.language),
            language_version=language.get("version"),
            implementation=f"{info.get('implementation', '')} {info.get('implementation_version', '')}".strip(),
        )

    def _place_of_silent_step(self) -> int | None:
        """Return the index of the cell before which the silent step is made; behind the last cell it is not made."""
        if self._execution.after_parameters is None:
            return None
        for tag in ("injected-parameters", "parameters"):
            for index, cell in enumerate(self._nb.cells):
                if tag in cell.metadata.get("tags", []):
                    return index + 1
        code = (index for index, cell in enumerate(self._nb.cells) if cell.cell_type == "code")
        return next(code, None)

    async def _silent_step(self) -> Verdict | None:
        assert self._execution.after_parameters is not None
        source = self._execution.after_parameters()
        request = self._request(
            self._client.execute(
                source, silent=True, store_history=False, allow_stdin=False, stop_on_error=False
            )
        )
        waiting = asyncio.ensure_future(request)
        stop = await self._until(waiting, self._limits.cell_timeout)
        if stop is not None:
            return await self._broken_off(stop)
        content = waiting.result()["content"]
        if content["status"] == "ok":
            return None
        kind, text = self._front.error(content, "")
        message = f"the silent step after the parameters failed: {kind}: {text}"
        return Verdict("errored", "after-parameters", _error("ExecutionError", message))

    async def _execute(self, cell: NotebookNode, index: int) -> Verdict | None:
        """Execute a cell; return how the run ended if it ended there."""
        self._tell(self._account.cell_started(index))
        self._news = True
        self._save()
        message = self._client.execute(
            cell.source, store_history=True, allow_stdin=False, stop_on_error=False
        )
        self._front.begin(index, message)
        waiting = asyncio.ensure_future(self._replied_and_idle(message, cell))
        stop = await self._until(waiting, self._limits.cell_timeout)
        if stop is None:
            return self._judge(waiting.result()["content"], cell, index)
        return await self._broken_off(stop, running=index, waiting=waiting)

    def _judge(self, reply: dict[str, Any], cell: NotebookNode, index: int) -> Verdict | None:
        """Decide from the kernel's reply what became of a cell, and whether the run goes on."""
        if reply["status"] == "ok":
            asked_to_exit = any(each.get("source") == "ask_exit" for each in reply.get("payload", []))
            if not asked_to_exit:
                self._cell_ended(index, "completed")
                return None
            self._cell_ended(index, "exited", "exit-zero")
            return self._left_early()
        if reply["status"] != "error":
            # `aborted`: the kernel did not execute it, though nobody asked it to drop requests.
            self._cell_ended(index, "failed", "internal")
            place = cell_id(cell, index)
            message = f"the kernel answered {reply['status']!r} in place of executing the cell"
            return Verdict("errored", "internal", _error("ExecutionError", message, place))
        if "raises-exception" in cell.metadata.get("tags", []):
            self._cell_ended(index, "expected-error")
            return None
        exits = reply.get("ename") == "SystemExit"
        if exits and reply.get("evalue", "") in ("", "0", "None", "False"):
            self._cell_ended(index, "exited", "exit-zero")
            return self._left_early()
        cause = "exit-nonzero" if exits else "cell-error"
        self._cell_ended(index, "failed", cause)
        place = cell_id(cell, index)
        return Verdict("failed", cause, _error(*self._front.error(reply, place), place))

    def _left_early(self) -> Verdict:
        self._front.finish()
        return Verdict("completed", "exit-zero")

    async def _broken_off(
        self, stop: Stop, *, running: int | None = None, waiting: asyncio.Future[Any] | None = None
    ) -> Verdict:
        """Interrupt the cell if the kernel still lives, else or then kill it, and say what became of the cell."""
        # What was printed so far is on disk before anything else is tried.
        self._front.render()
        self._save(urgent=True)
        obeyed = False
        if waiting is not None and not self._died.is_set() and stop.cause not in ("kernel-hung", "internal"):
            obeyed = await self._interrupt(waiting)
        died_by_itself = self._died.is_set() and stop.cause == "kernel-died"
        message = self._describe_death(stop) if died_by_itself else stop.message
        if not obeyed:
            self._kernel.kill()
            await self._drain()
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        place = None
        if running is not None:
            place = cell_id(self._nb.cells[running], running)
            self._cell_ended(running, _cell_status(stop.cause, obeyed), stop.cause)
        self._front.finish()
        return self._stopped(Stop(stop.cause, message), place)

    async def _interrupt(self, waiting: asyncio.Future[Any]) -> bool:
        """Interrupt the kernel and wait for the cell's end; return whether it ended."""
        if self._spec.interrupt_mode == "message":
            self._client.control_channel.send(self._client.session.msg("interrupt_request", content={}))
        else:
            self._kernel.signal(signal.SIGINT)
        others = [asyncio.ensure_future(self._died.wait()), asyncio.ensure_future(self._again.wait())]
        await asyncio.wait(
            {waiting, *others}, timeout=self._limits.interrupt_grace, return_when=asyncio.FIRST_COMPLETED
        )
        for other in others:
            other.cancel()
        return waiting.done() and not waiting.cancelled() and waiting.exception() is None

    def _stopped(self, stop: Stop, place: str | None = None) -> Verdict:
        status: RunStatus = "errored"
        kind = (
            "KernelDied" if stop.cause.startswith("kernel") or stop.cause == "cpu-limit" else "ExecutionError"
        )
        if stop.cause.endswith("-timeout"):
            status, kind = "timeout", "RunTimeout"
        elif stop.cause in ("interrupted", "terminated", "cancelled"):
            status, kind = "cancelled", "RunCancelled"
        return Verdict(status, stop.cause, _error(kind, stop.message, place))

    def _not_started(self, stop: Stop) -> Verdict:
        """Say why the kernel never answered."""
        if stop.cause not in ("cell-timeout", "kernel-died"):
            return self._stopped(stop)
        if stop.cause == "kernel-died":
            message = self._describe_death(stop, "the kernel ended before it answered")
        else:
            message = f"the kernel did not answer within {self._limits.startup_timeout:g} s"
        return Verdict("errored", "kernel-start", _error("KernelDied", message))

    def _describe_death(self, stop: Stop, what: str = "the kernel died") -> str:
        code = self._kernel.exit_code
        ended = "" if code is None else f" with {kernels.describe_exit(code)}"
        words = self._kernel.last_words
        last = words.splitlines()[-1][-500:] if words else ""
        if last:
            last = self._front.text(last)
        return f"{what}{ended} ({self._spec.name})" + (f": {last}" if last else "")

    # ------------------------------------------------------------- waiting

    async def _until(self, work: Awaitable[Any], timeout: float | None) -> Stop | None:
        """
        Wait for `work`; return None when it is done, or what came before it.

        `work` that is not done goes on if it is a future, and is cancelled otherwise. A time-out is a Stop with the
        cause `cell-timeout`.
        """
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, self._stop}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return None
        if task is not work:
            task.cancel()
        if self._stop.done():
            return self._stop.result()
        return Stop("cell-timeout", f"the cell took longer than {timeout:g} s")

    def _end(self, cause: str, message: str) -> None:
        """Have the run end; the first cause counts."""
        if not self._stop.done():
            self._stop.set_result(Stop(cause, message))

    def _wake_from_anywhere(self) -> None:
        self._loop.call_soon_threadsafe(self._cancelled)

    def _cancelled(self) -> None:
        if self._execution.cancelled_again:
            self._again.set()
        cancellation = self._execution.cancellation
        assert cancellation is not None
        self._end(cancellation.cause, f"the run was {cancellation.cause}: {cancellation.reason}")

    def _kernel_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._kernel.sentinel)
        self._died.set()
        code = self._kernel.exit_code
        cpu = code is not None and -code == signal.SIGXCPU
        if cpu:
            self._end("cpu-limit", f"the kernel used more than {self._limits.cpu:g} s of CPU time")
        self._end("kernel-died", "the kernel died")

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do background work; an error in it ends the run and is raised at its end."""
        try:
            await work
        except Exception as exc:
            self._fault = exc
            self._end("internal", f"{type(exc).__name__}: {exc}")

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    async def _request(self, message: str) -> dict[str, Any]:
        """Wait for the reply to a message that was just sent."""
        reply = self._replies[message] = asyncio.get_running_loop().create_future()
        try:
            answer: dict[str, Any] = await reply
            return answer
        finally:
            del self._replies[message]

    async def _replied_and_idle(self, message: str, cell: NotebookNode) -> dict[str, Any]:
        """Wait for a cell's reply, and until all its outputs are in."""
        idle = self._idle[message] = asyncio.get_running_loop().create_future()
        reply = await self._request(message)
        while not idle.done():
            heard = self._heard
            await asyncio.wait({idle}, timeout=LOST)
            if not idle.done() and heard == self._heard:
                self._log.warning(
                    "cell %s: the kernel did not say that its outputs are complete", cell.get("id")
                )
                break
        del self._idle[message]
        return reply

    async def _drain(self) -> None:
        """Take in what a dead kernel had sent, for a second at most."""
        for _ in range(20):
            heard = self._heard
            await asyncio.sleep(QUIET)
            if heard == self._heard:
                return

    async def _shut_down(self, grace: float) -> None:
        """Let the kernel end by itself, with its `atexit` functions, within the grace."""
        if self._died.is_set() or self._kernel.ended:
            return
        self._client.shutdown()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._died.wait(), grace)

    # ------------------------------------------------------------- background

    async def _read_replies(self) -> None:
        session, socket = self._client.session, self._client.shell_channel.socket
        while True:
            _, frames = session.feed_identities(await socket.recv_multipart())
            message = session.deserialize(frames)
            waiting = self._replies.get(message["parent_header"].get("msg_id", ""))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    async def _read_outputs(self) -> None:
        session, socket = self._client.session, self._client.iopub_channel.socket
        while True:
            _, frames = session.feed_identities(await socket.recv_multipart())
            message = session.deserialize(frames)
            self._heard += 1
            self._hearing.set()
            complete = self._idle.get(self._front.take(message) or "")
            self._look_for_replies()
            if complete is not None and not complete.done():
                complete.set_result(None)
            if self._heard % 8 == 0:
                # A socket with messages waiting never gives way by itself.
                await asyncio.sleep(0)

    async def _beat(self, context: zmq.asyncio.Context) -> None:
        """Listen to the kernel's heart, and end the run when it was silent for too long."""
        if self._limits.hung is None:
            return
        await self._answering.wait()
        every = max(0.05, min(5.0, self._limits.hung / 10))
        with context.socket(zmq.DEALER) as heart:
            heart.connect(f"ipc://{self._kernel.folder / 'k'}-5")
            loop = asyncio.get_running_loop()
            silence, last = 0.0, loop.time()
            while True:
                await heart.send_multipart([b"", b"ping"])
                if await heart.poll(int(every * 1000)):
                    await heart.recv_multipart()
                    silence, last = 0.0, loop.time()
                    await asyncio.sleep(every)
                    last = loop.time()
                    continue
                # Only so much of the time counts as we were able to listen: this process may itself have been
                # stopped, or kept busy.
                silence += min(loop.time() - last, 2 * every)
                last = loop.time()
                if silence >= self._limits.hung:
                    self._end("kernel-hung", f"the kernel gave no sign of life for {self._limits.hung:g} s")
                    return

    def _look_for_replies(self) -> None:
        """
        Have `_read_replies` told of what has come in already.

        The front end answers the messages of Output widgets, and jupyter_client sends past asyncio. A send takes note of
        what has arrived meanwhile, with which zmq's signal for it is gone, and whoever waited for the reply of the cell
        waited for ever: so did 1 to 6 of 12 bars of rich (2 of 12 with plain papermill). Asking for the socket's events
        renews the signal; `getsockopt`, unlike `get`, does not.
        """
        self._client.shell_channel.socket.get(zmq.EVENTS)

    async def _autosave(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            if self._news or self._front.changed:
                self._save()

    def _cell_ended(self, index: int, status: CellStatus, cause: str | None = None) -> None:
        self._front.end(index)
        self._tell(self._account.cell_ended(index, status, cause))
        self._news = True
        self._save(urgent=status not in ("completed", "expected-error"))

    def _save(self, *, urgent: bool = False) -> None:
        if self._saver is not None and (urgent or self._saver.due):
            self._front.render()
            self._saver.try_save(self._nb)
            self._news = False


def _cell_status(cause: str, obeyed: bool) -> CellStatus:
    """Return what a cell is told that ran when the run was stopped."""
    if cause.endswith("-timeout"):
        return "timed-out"
    return "interrupted" if obeyed else "killed"


def _error(kind: str, message: str, place: str | None = None) -> dict[str, str | None]:
    return {"type": kind, "message": message, "cell_id": place}
