"""
The bash kernel of PyPI's `bash_kernel`, told truly: started in its place (`kernels.py`) as `python -m libsafe_nb.bashkernel`.

What `bash_kernel` 0.10 does otherwise, each measured:

    exit 1, or a failure under `set -e`     starts another shell and answers that the cell was well: what came after
                                            would run, without the variables, and be told completed
    an open quote or bracket                never answers: the run would wait for ever
    a tab in a text or here document        is swallowed: bash takes it for a wish to have a name completed
    any cell                                is added to `~/.bash_history` when the kernel ends, with what the kernel tells the
                                            shell itself, and pushes out what the user has typed; which `history` shows in a cell
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pexpect
from bash_kernel.kernel import BashKernel

RESTARTED = "Restarting Bash"
"""What `bash_kernel` adds to the outputs of a cell that ended the shell."""


class Bash(BashKernel):  # type: ignore[misc] # bash_kernel is not typed
    """
    Jupyter's protocol as `bash_kernel` speaks it, save for how a cell ended.

    A cell that ends the shell is a `SystemExit` with the shell's exit status, which the engine knows from Python; one
    whose last command failed is `CommandFailed`, one that is not whole `CellIncomplete`.
    """

    def _start_bash(self) -> None:
        ended = getattr(self, "bashwrapper", None)
        self._ended = ended.child if ended is not None else None
        # As bash starts, or it reads the user's file, and cuts it to a length. A start-up file may set it again, for good.
        os.environ["HISTFILE"] = ""
        super()._start_bash()
        self.bashwrapper.run_command("history -c; set +o history; unset HISTFILE 2>/dev/null")
        self.bashwrapper.run_command("bind 'set disable-completion on' >/dev/null 2>&1 || true")

    # Its parameters are those of bash_kernel's: ipykernel passes others on to whoever takes them.
    def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, Any] | None = None,
        allow_stdin: bool = False,
    ) -> dict[str, Any]:
        self._ended = None
        try:
            reply: dict[str, Any] = super().do_execute(
                code, silent, store_history, user_expressions, allow_stdin
            )
        except (ValueError, pexpect.TIMEOUT):
            # pexpect's, which has interrupted the shell.
            return self._failed(
                "CellIncomplete", "bash waits for more: a quote, a bracket or an fi is missing"
            )
        if self._ended is None:
            return reply
        status = _exit_status(self._ended)
        return self._failed(
            "SystemExit", str(status), " (the cell ended the shell, and its variables are gone)"
        )

    def _failed(self, kind: str, value: str, more: str = "") -> dict[str, Any]:
        error = {"ename": kind, "evalue": value, "traceback": [f"{kind}: {value}{more}"]}
        super().send_response(self.iopub_socket, "error", error)
        return {**error, "status": "error", "execution_count": self.execution_count}

    def process_output(self, output: str) -> None:
        super().process_output(output.removesuffix(RESTARTED) if self._ended is not None else output)

    def send_response(self, stream: Any, kind: str, content: Any = None, *args: Any, **options: Any) -> Any:
        if kind == "error" and self._ended is not None:
            # Of the shell that was started in its place: nothing of the cell's.
            return None
        if kind == "error" and content.get("ename") == "":
            # The same dictionary becomes the reply.
            status = content["evalue"]
            if status.isdigit():
                content["evalue"] = f"the last command of the cell ended with exit status {status}"
            content["ename"] = "CommandFailed"
            content["traceback"] = [f"CommandFailed: {content['evalue']}"]
        return super().send_response(stream, kind, content, *args, **options)


def _exit_status(child: Any) -> int:
    """As a shell tells it: 128 and the signal's number for one that was killed."""
    with contextlib.suppress(OSError):
        child.wait()
    if child.exitstatus is not None:
        return int(child.exitstatus)
    return 128 + int(child.signalstatus or 0)


if __name__ == "__main__":
    import logging

    from ipykernel.kernelapp import IPKernelApp

    # Below CRITICAL it says on stderr how to connect to it, where the runner looks for the reason of its death.
    IPKernelApp.launch_instance(kernel_class=Bash, log_level=logging.CRITICAL)
