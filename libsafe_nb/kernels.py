"""
Kernels: which exist, and one process of them.

A kernel is started over Unix sockets in a short folder of mode 0700, in a session and process group of its own, with
exactly the environment and directory asked for. A guard in its group, a shell that waits on a pipe held by this
process, kills the whole group at once when this process is gone, however it ended; neither a blocked nor a stopped
kernel stops the guard. What the kernel starts and puts into a session of its own (a daemon) is out of reach.

`check` says before a run whether its kernel can be started; `start` starts it. A kernel from elsewhere (forked, say)
needs what `Kernel` needs: a pid that leads its group, its exit code, a pipe with what it wrote to its own stderr.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import resource
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from types import TracebackType
from typing import Protocol

from libsafe_nb.birth import GUARD
from libsafe_nb.errors import ExecutionError, NotebookError

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""In the order of their sockets, `k-1` to `k-5`."""

MAX_SOCKET_PATH = 107
"""sun_path of Linux has 108 bytes with its final zero."""

LOCAL = "local-provisioner"
"""jupyter_client's name for starting a kernel as a process of this machine."""

_BASH = (sys.executable, "-m", "bash_kernel", "-f", "{connection_file}")

_LAUNCHER = ("-m", "ipykernel_launcher", "-f", "{connection_file}")
"""How ipykernel's own kernelspecs start it."""

_EXTENSION = "libsafe_nb"

OURS = "libsafe"
"""The kernelspec "LIBSAFE Go (Python)" that comes with this package."""

_LIKELY = ("python", "python3", OURS)
"""Names that usually mean the Python that runs this."""

TAIL = 8192
"""Bytes kept of what a kernel writes to its own stdout and stderr (not the cells' outputs)."""

# $1: the kernel's folder, $2: address space in KiB, $3: CPU seconds, then the kernel's command. stdin: the guard's pipe.
# No core files: they would hold the keys that were in memory.
_LAUNCH = (
    "leader=$$"
    + GUARD
    + """
ulimit -c 0
[ -z "$2" ] || ulimit -v "$2" || exit 126
[ -z "$3" ] || { ulimit -S -t "$3" && ulimit -H -t $(($3 + 2)); } || exit 126
shift 3
exec "$@"
"""
)


@dataclass(frozen=True)
class KernelSpec:
    """What is installed under a kernel's name; `ipykernel` tells whether it is a Python kernel of that make."""

    name: str
    language: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    interrupt_mode: str = "signal"
    ipykernel: bool = False

    @property
    def own(self) -> tuple[str, ...] | None:
        """
        The interpreter's options where this is ipykernel in the Python that runs this, started as it usually is.

        None for any other Python, kernel or way to start it.
        """
        options = self.argv[1:2] if self.argv[1:2] == ("-Xfrozen_modules=off",) else ()
        found = self.argv[1 + len(options) :]
        usual = found in (_LAUNCHER, (*_LAUNCHER, f"--ext={_EXTENSION}"))
        return options if self.argv[0] == sys.executable and usual else None


def check(
    kernel_name: str | None, language: str | None = None, *, extension: str | None = _EXTENSION
) -> KernelSpec:
    """
    Find a kernel and whether it can be started, without starting it.

    A kernel of another Python than this one is asked whether it has `ipykernel` and the extension (some 50 ms).

    Raises
    ------
    NotebookError
        There is no such kernel, its program is missing, its Python has no `ipykernel`, or it is not a local one.
        The message names the kernel, those that exist, and the remedy.
    """
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager, NoSuchKernel
    from jupyter_client.kernelspec import KernelSpec as Spec

    specs = KernelSpecManager()
    if not kernel_name:
        wanted = f" for {language}" if language else ""
        raise NotebookError(
            f"the notebook names no kernel{wanted} (metadata.kernelspec.name). {_choice(specs, language)}"
        )
    if kernel_name == "python" or (kernel_name == OURS and OURS not in specs.find_kernel_specs()):
        # As in jupyter_client: notebooks of all ages say so and mean whatever Python there is. So does ours, which
        # differs from it by the extension that a run's kernel gets anyhow; not every install brings its kernelspec.
        kernel_name = NATIVE_KERNEL_NAME
    try:
        found = specs.get_kernel_spec(kernel_name)
    except NoSuchKernel as exc:
        if kernel_name in specs.find_kernel_specs():
            # It is there, but jupyter_client has not got what starts it elsewhere.
            raise _not_local(kernel_name) from exc
        if kernel_name != "bash" or _missing_here(["bash_kernel"]):
            raise NotebookError(
                f"the notebook asks for the kernel {kernel_name!r}, which is not installed here. "
                f"{_choice(specs, language)}"
            ) from exc
        # Its wheel brings no kernelspec: a command of its own writes one, which nobody need know of.
        found = Spec(argv=list(_BASH), language="bash", env={"PS1": "$"})
    provisioner = found.metadata.get("kernel_provisioner", {}).get("provisioner_name", LOCAL)
    if provisioner != LOCAL:
        raise _not_local(kernel_name)
    argv = [_python(found.argv[0]), *found.argv[1:]]
    if shutil.which(argv[0]) is None:
        raise NotebookError(
            f"the kernel {kernel_name!r} is installed in {found.resource_dir}, but its program {argv[0]!r} is not "
            f"there. Install it, or remove the kernel with: jupyter kernelspec remove {kernel_name}"
        )
    ipykernel = any(arg.startswith("ipykernel") for arg in argv)
    if ipykernel:
        _check_python(kernel_name, argv[0], ["ipykernel", *([extension] if extension else [])])
    elif argv[1:3] == list(_BASH[1:3]):
        _check_python(kernel_name, argv[0], ["bash_kernel", "libsafe_nb"])
        # The same kernel, which tells the truth of a cell that ends the shell.
        argv[2] = "libsafe_nb.bashkernel"
    return KernelSpec(
        name=kernel_name,
        language=found.language,
        argv=tuple(arg.replace("{resource_dir}", found.resource_dir) for arg in argv),
        env=dict(found.env),
        interrupt_mode=found.interrupt_mode,
        ipykernel=ipykernel,
    )


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Return what a kernel inherits when nothing else is asked for: all but the keys and settings (`LIBSAFE_*`).

    `JPY_*` is left out too: it names the parent of the Jupyter kernel in which this process may be running.
    """
    source = os.environ if environ is None else environ
    return {name: value for name, value in source.items() if not name.startswith(("LIBSAFE_", "JPY_"))}


def start(
    spec: KernelSpec,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    memory: int | None = None,
    cpu: float | None = None,
    extension: str | None = _EXTENSION,
    platform: Path | None = None,
) -> Kernel:
    """
    Start a kernel and return at once; it is not ready before it answers.

    Parameters
    ----------
    cwd
        Its working directory; None for that of this process.
    env
        Its complete environment, to which the kernelspec's own variables are added; None for `environment()`. It gets
        an IPYTHONDIR of its own besides: the user's profile is neither read nor written, also by a kernel of another language that
        is built on ipykernel.
    memory, cpu
        Address space in bytes and CPU time in seconds, each for the kernel's process and for each of its children.
    extension
        IPython extension to load in an ipykernel, which does not start without it; None for none.
    platform
        Folder of a local platform, whose fork server may be asked for it (`forking.py`).

    Raises
    ------
    ExecutionError
        The directory is missing, the disk is full, or the process could not be started.
    """
    folder = _folder()
    try:
        key = secrets.token_hex(32)
        connection = {
            "transport": "ipc",
            "ip": str(folder / "k"),
            "key": key,
            "signature_scheme": "hmac-sha256",
            "kernel_name": spec.name,
            **{f"{channel}_port": number for number, channel in enumerate(CHANNELS, start=1)},
        }
        connection_file = folder / "c.json"
        connection_file.touch(mode=0o600)
        connection_file.write_text(json.dumps(connection))
        argv = [arg.replace("{connection_file}", str(connection_file)) for arg in _argv(spec, extension)]
        argv = [arg.replace("{prefix}", sys.prefix) for arg in argv]
        complete = _complete(spec, env)
        if not spec.ipykernel:
            _answer_by_other_names(folder)
        # Not the option --ipython-dir: setting it, IPython 9 takes the working directory out of sys.path.
        (folder / "ipython").mkdir()
        complete["IPYTHONDIR"] = str(folder / "ipython")
        own = spec.own if spec.ipykernel and extension == _EXTENSION else None
        return Kernel(spec, folder, key, *_spawn(argv, own, folder, cwd, complete, memory, cpu, platform))
    except BaseException as exc:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(exc, OSError):
            raise ExecutionError(
                f"{folder}: the kernel's folder cannot be written ({exc.strerror or exc})"
            ) from exc
        raise


def prepare(
    kernel_name: str | None,
    *,
    env: Mapping[str, str] | None = None,
    extension: str | None = _EXTENSION,
    platform: Path | None = None,
) -> None:
    """Have what a kernel of this name will likely be forked from made ready; `start` takes the same and does not need it."""
    if kernel_name in _LIKELY and extension == _EXTENSION:
        from libsafe_nb import forking

        forking.prepare(environment() if env is None else env, platform)


def _answer_by_other_names(folder: Path) -> None:
    """
    Have a kernel found that puts its sockets at `k:1` and so on, as R's does: Jupyter's own name is `k-1`.

    A socket is reached through a link as well, and a kernel that uses Jupyter's names puts its sockets in the links' place.
    """
    for number in range(1, len(CHANNELS) + 1):
        (folder / f"k-{number}").symlink_to(f"k:{number}")


def ask(spec: KernelSpec, source: str) -> str | None:
    """
    What a piece of Python prints in a Python kernel's own Python and environment, in an empty working directory.

    No kernel is started, and so nothing of a notebook. None where it is no Python kernel or does not answer within 30 s.
    """
    if not spec.ipykernel:
        return None
    with tempfile.TemporaryDirectory(prefix="libsafe-nb-ask-") as folder:
        try:
            answer = subprocess.run(
                [spec.argv[0], "-c", source],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
                env=_complete(spec, None),
                cwd=folder,
                check=True,
            )
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            return None
    return answer.stdout


def _complete(spec: KernelSpec, env: Mapping[str, str] | None) -> dict[str, str]:
    """A kernel's environment with the variables of its kernelspec, which may refer to others."""
    complete = dict(environment() if env is None else env)
    complete.update({name: Template(value).safe_substitute(complete) for name, value in spec.env.items()})
    return complete


class Process(Protocol):
    """What a kernel's process tells; that of a `subprocess.Popen`, or of one that another process bore."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self) -> int | None: ...


class Kernel:
    """
    One kernel's process, its group and its folder; ended by `with`, whatever state it is in.

    Attributes
    ----------
    pid
        The process, which leads its group and its session.
    folder, key
        Where its sockets are (`folder/k-1` …), and the key that signs its messages.
    sentinel
        A file descriptor that becomes readable when the process ends, whoever its parent is.
    errors
        A file descriptor, not blocking, with what it writes to its own stdout and stderr; `read_errors` empties it.
    """

    def __init__(
        self,
        spec: KernelSpec,
        folder: Path,
        key: str,
        process: Process,
        guard: int,
        errors: int,
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.key = key
        self.pid = process.pid
        self.errors = errors
        self._process = process
        self._guard = guard
        self._killed = False
        self._tail: collections.deque[int] = collections.deque(maxlen=TAIL)
        self.sentinel = os.pidfd_open(process.pid)

    def __enter__(self) -> Kernel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def exit_code(self) -> int | None:
        """
        None while it lives, negative for the signal that ended it.

        None as well where nobody is left to tell: its fork server ended before it.
        """
        return self._process.poll()

    @property
    def ended(self) -> bool:
        watch = select.poll()
        watch.register(self.sentinel, select.POLLIN)
        return bool(watch.poll(0))

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens if it is gone. The guard heeds only SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End the whole group now: the kernel, what it started, and the guard."""
        if self._killed:
            return
        # As long as the process is not reaped or the guard lives, no other group can have this number.
        self.signal(signal.SIGKILL)
        self._killed = True
        self._process.wait()
        self._reap()

    def read_errors(self) -> None:
        """Take in what the kernel wrote to its own stdout and stderr; only its end is kept."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.errors, 65536):
                self._tail.extend(chunk[-TAIL:])

    @property
    def last_words(self) -> str:
        """The end of what it wrote to its own stdout and stderr, unfiltered: it may hold output of cells."""
        self.read_errors()
        return bytes(self._tail).decode("utf-8", errors="replace").strip()

    def close(self) -> None:
        """Kill what is left, and remove the folder with its sockets."""
        if self._guard < 0:
            return
        self.kill()
        for descriptor in (self._guard, self.sentinel, self.errors):
            os.close(descriptor)
        self._guard = -1
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reap(self) -> None:
        """Collect the guard and orphans of the kernel if they became ours, as they do where we are process 1."""
        deadline = time.monotonic() + 0.5
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-self.pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.005)


def describe_exit(code: int) -> str:
    """Say in words how a process ended: `exit status 3`, `signal SIGKILL`."""
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"signal {name}" + (" (memory may have run out)" if -code == signal.SIGKILL else "")


def _spawn(
    argv: list[str],
    own: tuple[str, ...] | None,
    folder: Path,
    cwd: Path | None,
    env: Mapping[str, str],
    memory: int | None,
    cpu: float | None,
    platform: Path | None,
) -> tuple[Process, int, int]:
    """
    Have the kernel forked, or start the launcher; return the process, our end of the guard's pipe and that of its stderr.

    `own` is `KernelSpec.own` where the kernel is that of `runkernel.py`, which a fork server has ready.
    """
    # In the units of the shell's ulimit: KiB and seconds.
    space = None if memory is None else max(1, memory // 1024)
    seconds = None if cpu is None else max(1, int(cpu))
    guarded, guard = os.pipe()
    errors, writable = os.pipe()
    os.set_blocking(errors, False)
    try:
        process: Process | None = None
        if own is not None:
            from libsafe_nb import forking

            limits = {resource.RLIMIT_CORE: (0, 0)}
            if space is not None:
                limits[resource.RLIMIT_AS] = (space * 1024, space * 1024)
            if seconds is not None:
                limits[resource.RLIMIT_CPU] = (seconds, seconds + 2)
            process = forking.fork(argv, own, folder, cwd, env, limits, guarded, writable, platform)
        if process is None:
            asked = ["" if each is None else str(each) for each in (space, seconds)]
            process = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCH, "kernel", str(folder), *asked, *argv],
                stdin=guarded,
                stdout=writable,
                stderr=writable,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
            )
    except OSError as exc:
        os.close(guard)
        os.close(errors)
        where = f" in {cwd}" if cwd else ""
        raise ExecutionError(f"the kernel could not be started{where}: {exc}") from exc
    finally:
        os.close(guarded)
        os.close(writable)
    return process, guard, errors


def _argv(spec: KernelSpec, extension: str | None) -> list[str]:
    """
    A kernel's command. An ipykernel keeps no history, and does not start without the extension.

    Where it is ours (`KernelSpec.own`) and our extension is loaded, it is the kernel of `runkernel.py`.
    """
    if not spec.ipykernel:
        return list(spec.argv)
    # Below CRITICAL it says on stderr how to connect to it, where we look for the reason of its death.
    quiet = ["--HistoryManager.enabled=False", "--log-level=CRITICAL"]
    if not extension:
        return [*spec.argv, *quiet]
    quiet += [
        f"--ext={extension}",
        "--InteractiveShellApp.reraise_ipython_extension_failures=True",
        "--IPKernelApp.outstream_class=libsafe_nb.streams.OutStream",
    ]
    if spec.own is None or extension != _EXTENSION:
        return [*spec.argv, *quiet]
    command = [spec.argv[0], *spec.own, "-m", "libsafe_nb.runkernel", *_LAUNCHER[2:]]
    return [*command, *quiet, "--IPKernelApp.kernel_class=libsafe_nb.runkernel.RunKernel"]


def _folder() -> Path:
    """Make the folder of the sockets: short, mode 0700, on a file system that the user owns if there is one."""
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp is safe
        if not parent or len(f"{parent}/lsnb-12345678/k-5") > MAX_SOCKET_PATH:
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="lsnb-", dir=parent))
        except OSError:
            continue
    raise ExecutionError(
        "no folder for the kernel's sockets: neither XDG_RUNTIME_DIR, TMPDIR nor /tmp is writable and short enough"
    )


def _not_local(kernel_name: str) -> NotebookError:
    return NotebookError(
        f"the kernel {kernel_name!r} is started by a provisioner of its own, and only local kernels can be run. "
        f"Choose another kernel for the notebook."
    )


def _python(program: str) -> str:
    """Kernelspecs that say `python` mean the Python that runs this, as in jupyter_client."""
    own = {"python", f"python{sys.version_info[0]}", f"python{sys.version_info[0]}.{sys.version_info[1]}"}
    return sys.executable if program in own else program


def _check_python(kernel_name: str, python: str, modules: list[str]) -> None:
    missing = (
        _missing_here(modules) if python == sys.executable else _missing_there(kernel_name, python, modules)
    )
    if missing:
        names = " and ".join(missing)
        raise NotebookError(
            f"the kernel {kernel_name!r} runs {python}, which has no {names}. "
            f"Install libsafe-nb there: {python} -m pip install libsafe-nb"
        )


def _missing_here(modules: list[str]) -> list[str]:
    from importlib.util import find_spec

    return [name for name in modules if find_spec(name) is None]


def _missing_there(kernel_name: str, python: str, modules: list[str]) -> list[str]:
    ask = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if u.find_spec(n) is None], sep='\\n')"
    try:
        answer = subprocess.run(
            [python, "-c", ask, *modules],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            env=environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotebookError(f"the kernel {kernel_name!r} runs {python}, which does not start: {exc}") from exc
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise NotebookError(
            f"the kernel {kernel_name!r} runs {python}, which ends with "
            f"{describe_exit(answer.returncode)}: {said[0]}. Repair or reinstall that Python."
        )
    return answer.stdout.split()


def _choice(specs: object, language: str | None) -> str:
    """Say which kernels there are and how to take one."""
    names = sorted(specs.find_kernel_specs())  # type: ignore[attr-defined]
    if not names:
        return "No kernel is installed; install one with: python -m ipykernel install --user"
    remedy = "Choose one of them in JupyterLab (Kernel > Change Kernel) or install the missing one"
    if language in (None, "python"):
        remedy += ", for Python with: python -m ipykernel install --user --name NAME"
    elif language == "bash":
        remedy += ", for bash with: pip install 'libsafe-nb[bash]'"
    elif language == "R":
        remedy += ", for R with Debian's r-cran-irkernel or R's own IRkernel::installspec()"
    return f"Installed are: {', '.join(names)}. {remedy}."
