"""
The Python kernel of a run, `python -m libsafe_nb.runkernel`: ipykernel's, without what a run has no use for.

What ipykernel 7.4 does otherwise, each measured, of some 460 ms that a notebook of 20 cells took:

    starts a debugger               60 ms to import debugpy, for a client that sets breakpoints
    rests after each cell           0.5 ms; what was printed waits in the output socket anyhow (`streams.py`)
    looks for children at its end   8 ms through psutil and all of `/proc`, where there are none
    takes every library apart       50 to 100 ms after the last `atexit` function, for memory that goes anyhow
"""

from __future__ import annotations

import _io
import atexit
import contextlib
import ctypes
import gc
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from traitlets import Type

DEBUGGER = "debugpy"
LAUNCHER = "ipykernel_launcher"
"""Whose path a notebook sees in `sys.argv[0]`, here as anywhere."""

_libraries: set[str] = set()
"""The modules of the kernel itself."""


class RunKernel(IPythonKernel):
    """Given to ipykernel as `IPKernelApp.kernel_class`."""

    # ipykernel names its own here, and traitlets imports what is named.
    debugger_class = Type("builtins.object")

    def __init__(self, **options: Any) -> None:
        with _without(DEBUGGER):
            super().__init__(**options)  # type: ignore[no-untyped-call]
        self._execute_sleep = 0.0
        _libraries.update(sys.modules)
        # What is there by now stays to the end: no search for garbage need look at it.
        gc.freeze()
        # After the functions of the notebook, and before ipykernel closes its sockets.
        atexit.register(self._end_control)

    def _end_control(self) -> None:
        """
        Let the control thread finish first: it may still be sending through a socket that the main thread closes, which
        aborts the process (libzmq asserts), and with it files that are still to be written.
        """
        thread = self.control_thread
        if thread is not None and thread.is_alive():
            thread.stop()
            thread.join()

    def _process_children(self) -> list[Any]:
        return list(super()._process_children()) if has_children() else []  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Let an optional module not be found; who imports it afterwards finds it."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # `import` then says that it is not there
    try:
        yield
    finally:
        del sys.modules[name]


def has_children() -> bool:
    """Whether this process has a child; True where the system does not tell (Linux's `children` is an option)."""
    try:
        return any((thread / "children").read_bytes() for thread in Path("/proc/self/task").iterdir())
    except OSError:
        return True


def run() -> None:
    """Be the kernel that `sys.argv` describes, until it is told to end."""
    from ipykernel import kernelapp

    launcher = importlib.util.find_spec(LAUNCHER)
    assert launcher is not None
    sys.argv[0] = str(launcher.origin)
    kernelapp.launch_new_instance()
    _end()


def _end() -> None:
    """
    Do what Python does at the end of a process, in its order, except taking the kernel's own modules apart.

    Threads are waited for, `atexit` functions called, open files written to their end; then Python goes on to take apart
    what the notebook made and imported.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _close_files()
    kept = [sys.modules.pop(name, None) for name in _libraries - {"__main__", "builtins", "sys"}]
    # One reference too many: nobody ever lets go of them.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


def _close_files() -> None:
    """
    Close the notebook's files that are still open; of two that write through each other the outer one first.

    The kernel's own objects are not looked at (`gc.freeze`). Most files are closed by now, with the notebook's names; here
    it is for those that something of the kernel's own holds, such as a task that its event loop was waiting for.
    """
    found = [each for each in gc.get_objects() if issubclass(type(each), _io._IOBase)]
    for each in sorted(found, key=_depth):
        # As Python does at a file's end: nobody is left to be told of an error.
        with contextlib.suppress(Exception):
            each.close()


def _depth(file: Any) -> int:
    """How far down a file lies: text on what is written in Python (gzip) on buffers on the system's files."""
    kind = type(file)
    if issubclass(kind, _io._TextIOBase):
        return 0
    if kind.__module__ != "_io":
        return 1
    return 2 if issubclass(kind, _io._BufferedIOBase) else 3


def leave_the_folder() -> None:
    """As ipykernel's launcher does: nothing in the notebook's folder stands in for a library. It is added back later."""
    if not sys.flags.safe_path and sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]


def main() -> None:
    leave_the_folder()
    # Not this module's own `run`: ipykernel imports it by its name, a second time.
    from libsafe_nb import runkernel

    runkernel.run()


if __name__ == "__main__":
    main()
