"""Kernels: found out before a run, started in a place of their own, and never left behind."""

import errno
import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from engine_runs import MARK, execute, marked_processes, nothing_left, wait_for

from libsafe_nb import kernels
from libsafe_nb.errors import ExecutionError, NotebookError
from libsafe_nb.execution import Limits


@pytest.fixture(autouse=True)
def mark(monkeypatch):
    with nothing_left(monkeypatch) as mark:
        yield mark


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a kernelspec for this test only."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    def install(name, argv, **spec):
        folder = tmp_path / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        described = {"argv": argv, "display_name": name, "language": "python", **spec}
        (folder / "kernel.json").write_text(json.dumps(described))
        return name

    return install


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


IPYKERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]


# ------------------------------------------------------------- before a run


def test_the_kernel_of_this_python_can_be_started():
    found = kernels.check("python3")

    assert (found.name, found.language, found.ipykernel) == ("python3", "python", True)
    assert found.argv[0] == sys.executable or Path(found.argv[0]).samefile(sys.executable)


def test_a_kernel_called_python_means_this_one():
    assert kernels.check("python") == kernels.check("python3")


def test_an_unknown_kernel_is_named_with_those_that_exist_and_the_remedy():
    with pytest.raises(NotebookError, match=r"'no-such-kernel'.*not installed.*python3.*[Cc]hoose"):
        kernels.check("no-such-kernel")


def test_a_notebook_without_a_kernel_is_told_so():
    with pytest.raises(NotebookError, match=r"names no kernel.*kernelspec.*python3"):
        kernels.check(None)


def test_a_kernel_whose_program_is_gone(install):
    name = install("gone", ["/nowhere/python", *IPYKERNEL])

    with pytest.raises(NotebookError, match=r"'gone'.*'/nowhere/python'.*kernelspec remove gone"):
        kernels.check(name)


def test_a_python_without_ipykernel(install, tmp_path):
    bare = program(tmp_path / "bare", f'exec {sys.executable} -I -S "$@"')

    with pytest.raises(NotebookError, match=r"has no ipykernel and libsafe_nb.*pip install"):
        kernels.check(install("bare", [bare, *IPYKERNEL]))


def test_a_python_that_does_not_run(install, tmp_path):
    broken = program(tmp_path / "broken", "echo no such library >&2; exit 3")

    with pytest.raises(NotebookError, match=r"exit status 3: no such library"):
        kernels.check(install("broken", [broken, *IPYKERNEL]))


def test_a_kernel_on_another_machine_is_refused(install):
    name = install(
        "far", [sys.executable, *IPYKERNEL], metadata={"kernel_provisioner": {"provisioner_name": "yarn"}}
    )

    with pytest.raises(NotebookError, match="only local kernels"):
        kernels.check(name)


def test_a_kernel_that_ends_at_once_is_told_with_its_last_words(install, tmp_path):
    name = install("brief", [program(tmp_path / "brief", "echo library missing >&2; exit 4")])
    ran = execute(tmp_path, "1", kernel_name=name)

    assert ran.outcome.status == "errored"
    assert ran.outcome.cause == "kernel-start"
    assert ran.outcome.error["message"] == (
        "the kernel ended before it answered with exit status 4 (brief): library missing"
    )
    assert ran.statuses == ["not-run"]
    assert ran.seconds < 5


def test_an_extension_that_does_not_load_is_told(tmp_path, monkeypatch):
    (tmp_path / "lsnb_broken.py").write_text(
        "def load_ipython_extension(shell):\n    raise ValueError('no way')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    ran = execute(tmp_path, "1", extension="lsnb_broken")

    assert ran.outcome.cause == "kernel-start"
    assert "ValueError: no way" in ran.outcome.error["message"]


def test_a_kernel_that_never_answers_is_given_up(install, tmp_path):
    name = install("mute", [program(tmp_path / "mute", "exec sleep 600")])
    ran = execute(tmp_path, "1", kernel_name=name, limits=Limits(startup_timeout=1))

    assert ran.outcome.cause == "kernel-start"
    assert "did not answer within 1 s" in ran.outcome.error["message"]
    assert ran.seconds < 6


# ------------------------------------------------------------- a place of its own


@pytest.fixture(params=["forked", "ordinary"])
def way(request, monkeypatch):
    """The two ways in which a kernel is started; nothing tells them apart but time."""
    monkeypatch.setenv("LIBSAFE_NB_FORK", "1" if request.param == "forked" else "0")
    return request.param


both_ways = pytest.mark.usefixtures("way")


@both_ways
def test_the_environment_is_exactly_the_one_given(tmp_path, mark):
    env = {"PATH": os.environ["PATH"], MARK: mark, "ONE": "1"}
    ran = execute(tmp_path, "import os, json; print(json.dumps(dict(os.environ)))", env=env)
    seen = json.loads(ran.text(0))
    own = {"PWD", "IPYTHONDIR"}
    pythons = {"LC_CTYPE", "MPLBACKEND", "PYDEVD_USE_FRAME_EVAL"}
    ipythons = {"CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "PAGER", "GIT_PAGER", "TERM"}

    assert {name: value for name, value in seen.items() if name not in own | pythons | ipythons} == env


@both_ways
def test_no_setting_of_ours_reaches_a_kernel_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("LIBSAFE_KEY_USER", "secret-of-the-user")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    ran = execute(tmp_path, "import os; print([n for n in os.environ if n.startswith(('LIBSAFE_', 'JPY_'))])")

    assert ran.text(0) == "[]\n"


@both_ways
def test_the_directory_is_the_kernels_and_not_ours(tmp_path):
    (tmp_path / "work").mkdir()
    before = Path.cwd()
    ran = execute(tmp_path, "import os; print(os.getcwd())", cwd=tmp_path / "work")

    assert ran.text(0).strip() == str(tmp_path / "work")
    assert Path.cwd() == before


@both_ways
def test_a_missing_directory_is_told(tmp_path):
    ran = execute(tmp_path, "1", cwd=tmp_path / "gone")

    assert ran.outcome.cause == "kernel-start"
    assert str(tmp_path / "gone") in ran.outcome.error["message"]


@both_ways
def test_a_kernel_has_no_child_that_it_did_not_start(tmp_path):
    ran = execute(tmp_path, "import psutil; print(psutil.Process().children(recursive=True))")

    assert ran.text(0) == "[]\n"


@both_ways
def test_a_kernel_leads_a_session_without_a_terminal(tmp_path):
    ran = execute(
        tmp_path, "import os; print(os.getpid() == os.getpgrp() == os.getsid(0))", "open('/dev/tty')"
    )

    assert ran.text(0) == "True\n"
    assert ran.outcome.error["type"] == "OSError"


def test_the_sockets_lie_in_a_private_folder():
    with kernels.start(kernels.check("python3")) as kernel:
        assert stat.S_IMODE(kernel.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((kernel.folder / "c.json").stat().st_mode) == 0o600
        folder = kernel.folder

    assert not folder.exists()


def test_a_long_runtime_directory_is_passed_over(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with kernels.start(kernels.check("python3")) as kernel:
        assert len(f"{kernel.folder}/k-5") <= kernels.MAX_SOCKET_PATH


def test_a_folder_that_cannot_be_written_is_told_and_removed(tmp_path, monkeypatch):
    def full(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="x-", dir="/tmp"))
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ExecutionError, match=f"{runtime}/lsnb-.* cannot be written .No space left"):
        kernels.start(kernels.check("python3"))

    assert not list(runtime.iterdir())
    runtime.rmdir()


@both_ways
def test_a_kernel_writes_nothing_into_the_users_profile(tmp_path, mark):
    (tmp_path / "home").mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), MARK: mark}
    execute(tmp_path, "x = 1", "%history", env=env)

    assert list((tmp_path / "home").rglob("*")) == []


@both_ways
def test_a_start_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ExecutionError, match="could not be started"):
        kernels.start(kernels.check("python3"), cwd=tmp_path / "gone")


# ------------------------------------------------------------- its end


@both_ways
def test_atexit_runs_and_open_files_are_written(tmp_path):
    execute(
        tmp_path,
        "import atexit; file = open('unflushed', 'w'); file.write('all of it');"
        "atexit.register(lambda: open('atexit', 'w').write('called'))",
        cwd=tmp_path,
    )

    assert (tmp_path / "atexit").read_text() == "called"
    assert (tmp_path / "unflushed").read_text() == "all of it"


OPEN_AT_THE_END = {
    "of a module of the notebook's": (
        "open('mine.py', 'w').write('file = open(\"left\", \"w\"); file.write(\"all of it\")'); import mine"
    ),
    "of a task that never ends": (
        "import asyncio\nasync def write():\n    with open('left', 'w') as file:\n"
        "        file.write('all of it')\n        await asyncio.Event().wait()\n"
        "task = asyncio.create_task(write()); await asyncio.sleep(0.01)"
    ),
    "that a library holds": "import os; os.left = open('left', 'w'); os.left.write('all of it')",
    "compressed": (
        "import gzip, io, json; json.left = io.TextIOWrapper(gzip.open('left', 'wb')); json.left.write('all of it')"
    ),
}


@both_ways
@pytest.mark.parametrize("case", OPEN_AT_THE_END)
def test_a_file_that_is_open_at_the_end_is_written(case, tmp_path):
    execute(tmp_path, OPEN_AT_THE_END[case], cwd=tmp_path, limits=Limits(shutdown_grace=30))
    left = (tmp_path / "left").read_bytes()

    assert (gzip.decompress(left) if case == "compressed" else left) == b"all of it"


def test_no_kernel_aborts_at_its_end(tmp_path):
    """One in ten did: its main thread closed the socket through which its control thread was still sending."""
    for number in range(25):
        code = f"import os; os.left = open('left-{number}', 'w'); os.left.write('all of it')"
        execute(tmp_path, code, cwd=tmp_path, limits=Limits(shutdown_grace=30))

    assert {path.read_text() for path in tmp_path.glob("left-*")} == {"all of it"}


@both_ways
def test_the_end_of_a_process_goes_in_pythons_order(tmp_path):
    """Threads are waited for, then the `atexit` functions are called, then what is left is taken apart."""
    execute(
        tmp_path,
        "import atexit, os, threading, time\n"
        "def tell(what, write=os.write, to=os.open('told', os.O_CREAT | os.O_WRONLY | os.O_APPEND)):\n"
        "    write(to, what.encode())\n"
        "class Made:\n    def __del__(self, tell=tell): tell('made ')\n"
        "atexit.register(tell, 'first '); atexit.register(tell, 'last ')\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), tell('thread '))).start()\n"
        "os.keeps = [Made()]; import types; kept = types.ModuleType('kept'); kept.made = Made()\n"
        "import sys; sys.modules['kept'] = kept; del kept, sys.modules['kept'].__spec__",
        cwd=tmp_path,
        limits=Limits(shutdown_grace=30),
    )

    assert (tmp_path / "told").read_text() == "thread last first made "


@both_ways
def test_a_kernel_looks_like_ipykernels_own(tmp_path):
    ran = execute(
        tmp_path,
        "import sys; print(sys.argv[0])",
        "assert 'debugpy' not in sys.modules; import debugpy; print('there')",
        "!echo child",
    )

    assert Path(ran.text(0).strip()).name == "ipykernel_launcher.py"
    assert ran.text(1) == "there\n"
    assert ran.text(2) == "child\n"


@both_ways
def test_a_kernel_that_does_not_want_to_end_is_killed(tmp_path):
    ran = execute(
        tmp_path,
        "import atexit, time; atexit.register(time.sleep, 600)",
        limits=Limits(shutdown_grace=0.5),
    )

    assert ran.outcome.status == "completed"
    assert ran.seconds < 10


@both_ways
def test_what_a_kernel_started_ends_with_it(tmp_path, mark):
    execute(tmp_path, "import subprocess; subprocess.Popen(['sleep', '600'])")

    assert marked_processes(mark) == []


FLUSH_AFTER_THE_END = """
import threading, time, zmq
from ipykernel.iostream import IOPubThread
from jupyter_client.session import Session
from libsafe_nb.streams import OutStream
sender = IOPubThread(zmq.Context().socket(zmq.PUB))
sender.start()
stream = OutStream(Session(), sender, "stdout", watchfd=False)
stream.write("a")
stream.flush()
if {open_still}:
    # Its reader has left, and it is not yet closed.
    sender._event_pipes.clear()
sender.stop()
# It was alive when it was looked at, and is gone when it is called.
sender.thread = threading.Thread(target=time.sleep, args=(1,))
sender.thread.start()
# What is not there to be sent is not waited for.
stream._written += 1
stream.flush()
print("returned", flush=True)
import os
os._exit(0)
"""


@pytest.mark.parametrize("open_still", [True, False], ids=["no reader", "closed pipe"])
def test_a_flush_returns_when_its_thread_has_just_ended(open_still):
    """ipykernel's own waits for ever, which cost one run in twenty the whole grace of its kernel's end."""
    done = subprocess.run(
        [sys.executable, "-c", FLUSH_AFTER_THE_END.format(open_still=open_still)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.stdout == "returned\n", done.stderr


RUNNER = """
import os, sys, time
from libsafe_nb import kernels
kernel = kernels.start(kernels.check("python3"))
import asyncio
from jupyter_client.blocking import BlockingKernelClient
client = BlockingKernelClient(transport="ipc", ip=str(kernel.folder / "k"), shell_port=1, iopub_port=2,
    stdin_port=3, control_port=4, hb_port=5)
client.session.key = kernel.key.encode()
client.start_channels(hb=False)
client.wait_for_ready(timeout=60)
client.execute(sys.argv[1])
while not os.path.exists(sys.argv[2]):
    time.sleep(0.02)
print(kernel.pid, kernel.folder, flush=True)
time.sleep(600)
"""

BUSY = {
    "sleeping": "open({flag!r}, 'w'); import time; time.sleep(600)",
    "holding the interpreter's lock": "open({flag!r}, 'w'); import re; re.match('(a+)+b', 'a' * 60)",
    "stopped": "open({flag!r}, 'w'); import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "deaf to signals": (
        "import signal, time\nfor each in (1, 2, 3, 15): signal.signal(each, signal.SIG_IGN)\n"
        "open({flag!r}, 'w'); time.sleep(600)"
    ),
    "with a child": (
        "import subprocess; subprocess.Popen(['sleep', '600']); open({flag!r}, 'w'); import time; time.sleep(600)"
    ),
}


@both_ways
@pytest.mark.parametrize("state", BUSY)
def test_a_kernel_dies_with_its_runner(state, tmp_path, mark):
    """Killed -9, the runner can do nothing any more: kernel, children and sockets are gone within a second."""
    flag = tmp_path / "flag"
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, BUSY[state].format(flag=str(flag)), str(flag)], stdout=subprocess.PIPE
    )
    try:
        pid, folder = runner.stdout.readline().decode().split()
        assert int(pid) in marked_processes(mark)
    finally:
        runner.kill()
        runner.wait()
        runner.stdout.close()
    killed = time.monotonic()
    wait_for(lambda: not marked_processes(mark), 10, "the kernel's end")
    wait_for(lambda: not Path(folder).exists(), 10, "the removal of its folder")

    # A second is promised; five allow for a busy machine.
    assert time.monotonic() - killed < 5


# ------------------------------------------------------------- limits


@both_ways
def test_the_memory_limit_is_an_error_of_the_cell(tmp_path):
    ran = execute(tmp_path, "block = bytearray(3 << 30)", limits=Limits(memory=2 << 30))

    assert ran.outcome.error["type"] == "MemoryError"
    assert ran.statuses == ["failed"]


@both_ways
def test_the_cpu_limit_ends_the_kernel_and_is_named(tmp_path):
    ran = execute(tmp_path, "while True: pass", "1", limits=Limits(cpu=3))

    assert ran.outcome.status == "errored"
    assert ran.outcome.cause == "cpu-limit"
    assert ran.statuses == ["killed", "not-run"]


@both_ways
def test_no_core_file_is_written(tmp_path):
    ran = execute(tmp_path, "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")

    assert ran.text(0) == "(0, 0)\n"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "exit status 3"),
        (-signal.SIGSEGV, "signal SIGSEGV"),
        (-signal.SIGKILL, "signal SIGKILL (memory may have run out)"),
    ],
)
def test_an_end_in_words(code, words):
    assert kernels.describe_exit(code) == words
