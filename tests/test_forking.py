"""Kernels from a fork server: like a new process in everything but time, also where the server or its owner is lost."""

import array
import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from engine_runs import execute, is_zombie, nothing_left, wait_for
from environs import variables
from honesty import CASES

from libsafe_nb import forking, forkservers, heritage, kernels, local
from libsafe_nb.connection import connect
from libsafe_nb.execution import Limits
from libsafe_nb.local.root import Root


@pytest.fixture(autouse=True)
def mark(monkeypatch):
    with nothing_left(monkeypatch) as mark:
        yield mark


@pytest.fixture
def fresh():
    """No server before, and none after."""
    forking.close()
    yield
    forking.close()


def server():
    """The pid of this process's one server."""
    (found,) = forking._servers.values()
    return found._process.pid


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def by_hand(**options):
    return kernels.start(kernels.check("python3"), **options)


# ------------------------------------------------------------- the same as a new process

FACTS = """
import asyncio, gc, json, locale, os, resource, signal, sys, threading, time, warnings
from pathlib import Path
def files():
    # When nothing has come or gone for a while: connections of the runner may still be in the making.
    last, since = None, time.monotonic()
    while time.monotonic() - since < 0.3:
        found = sorted(each.readlink().name.split(":")[0] for each in Path("/proc/self/fd").iterdir() if each.is_symlink())
        if found != last:
            last, since = found, time.monotonic()
        time.sleep(0.02)
    return found
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
own = ("Umask Uid Gid Groups SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs "
       "Seccomp Threads Cpus_allowed").split()
print(json.dumps({
    "arguments": [each for each in sys.argv + sys.orig_argv if not each.endswith("c.json")],
    "seen from outside": [each for each in open("/proc/self/cmdline").read().split(chr(0)) if not each.endswith("c.json")],
    "environment seen from outside": sorted(each for each in open("/proc/self/environ").read().split(chr(0))
                                            if not each.startswith("IPYTHONDIR")),
    "environment": {name: value for name, value in sorted(os.environ.items()) if name != "IPYTHONDIR"},
    "python": [str(sys.flags), sys._xoptions, sys.path, sys.executable, sys.prefix, sys.getrecursionlimit(), sys.getswitchinterval()],
    "places": [os.getcwd(), os.readlink("/proc/self/exe"), os.readlink("/proc/self/root")],
    "status": {name: status.get(name) for name in own},
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")},
    "signals": {str(each): str(signal.getsignal(each)) for each in sorted(signal.valid_signals())},
    "threads": sorted(each.name for each in threading.enumerate()),
    "main thread": [threading.current_thread() is threading.main_thread(), threading.main_thread().native_id == os.getpid()],
    "files": files(),
    "garbage": [gc.isenabled(), gc.get_threshold()],
    "namespace": sorted(globals()),
    "main": [sys.modules["__main__"].__dict__ is globals(), __name__, globals().get("__file__")],
    "warnings": list(map(str, warnings.filters)),
    "encodings": [sys.__stdout__.encoding, sys.__stdin__.encoding, sys.getfilesystemencoding(), locale.setlocale(locale.LC_ALL)],
    "streams": [(each.name, each.mode, each.errors, each.line_buffering, each.isatty()) for each in (sys.__stdin__, sys.__stdout__, sys.__stderr__)],
    "session": [os.getsid(0) == os.getpid() == os.getpgrp(), os.nice(0), time.tzname],
}))
"""
MODULES = "print(*sorted(sys.modules))"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_forked_kernel_is_like_a_new_process(locale, tmp_path, monkeypatch, fresh):
    monkeypatch.setenv("LC_ALL", "")
    monkeypatch.setenv("LANG", locale)
    (tmp_path / "work").mkdir()
    umask = os.umask(0o027)
    try:
        found = {}
        for way in ("0", "1"):
            monkeypatch.setenv(forking.SWITCH, way)
            ran = execute(
                tmp_path, FACTS, MODULES, cwd=tmp_path / "work", limits=Limits(cpu=50, memory=4 << 30)
            )
            found[way] = json.loads(ran.text(0)), set(ran.text(1).split())
    finally:
        os.umask(umask)
    (ordinary, its_modules), (forked, modules) = found["0"], found["1"]

    assert forked == ordinary, {
        name: (forked[name], ordinary[name]) for name in forked if forked[name] != ordinary[name]
    }
    assert its_modules <= modules
    # Nothing comes besides that the notebook could miss or mistake for its own.
    more = {each.partition(".")[0] for each in modules - its_modules}
    assert more - {"libsafe_nb"} <= sys.stdlib_module_names


@contextlib.contextmanager
def ignoring(*numbers):
    """As under `nohup`, in a shell's background, or where a daemon does not wait for its children."""
    before = {each: signal.signal(each, signal.SIG_IGN) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize("at_the_start", [(), (signal.SIGHUP, signal.SIGINT, signal.SIGCHLD)])
@pytest.mark.parametrize("later", [(), (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)])
def test_a_kernel_ignores_what_its_runner_ignores_whatever_the_server_does(
    at_the_start, later, tmp_path, monkeypatch, fresh
):
    told = {}
    with ignoring(*at_the_start):
        forking.prepare(kernels.environment())
        begun = server()
    with ignoring(*later):
        for way in ("0", "1"):
            monkeypatch.setenv(forking.SWITCH, way)
            facts = json.loads(execute(tmp_path, FACTS).text(0))
            told[way] = facts["status"]["SigIgn"], facts["signals"]

    assert told["1"] == told["0"]
    assert server() == begun


OUTPUTS = (
    "print('a'); import sys; print('b', file=sys.stderr); 1 + 1",
    "from IPython.display import HTML, display; display(HTML('<b>x</b>'), display_id='d'); HTML('<i>y</i>')",
    "import os; os.write(1, b'written to the descriptor\\n'); os.system('echo from a child')",
    "!echo from the shell",
    "%%bash\necho from a bash cell",
    "import asyncio; await asyncio.sleep(0.01); _",
    "x = 3\n%whos",
    "def f(n): return 1 // n\nf(0)",
    "import os; os.listdir('/no such folder')",
    "from os import path; path.join(1, 2)",
    "input('name? ')",
    "import warnings; warnings.warn('careful'); import logging; logging.warning('told')",
    "import matplotlib.pyplot as plt; print(plt.get_backend()); plt.plot([1, 2]); plt.show()",
    "from tqdm.notebook import tqdm\nfor _ in tqdm(range(3)): pass",
    "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys; print(sys.path[0], 5)'],"
    " capture_output=True, text=True).stdout)",
    "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
    "import threading; t = threading.Thread(target=print, args=('from a thread',)); t.start(); t.join()",
    "import pickle; pickle.loads(pickle.dumps(f)) is f, In[1][:5], Out[1]",
    "help(abs)",
    "f??",
    "import libnova; print(libnova.__file__)",
    "get_ipython(), type(get_ipython().kernel), __name__",
    "import doctest; doctest.testmod()",
    "open('mine.py', 'w').write('y = 4'); import mine; mine.y, mine.__file__",
    "class C: pass\nC, C.__module__, f.__module__, repr(sys.stdout)[:20]",
)


def test_every_kind_of_cell_gives_the_same_outputs(tmp_path, monkeypatch):
    pytest.importorskip("ipywidgets")
    pytest.importorskip("matplotlib")
    cells = [(each, "raises-exception") for each in OUTPUTS]
    found = []
    for way in ("0", "1"):
        monkeypatch.setenv(forking.SWITCH, way)
        (tmp_path / "work").mkdir(exist_ok=True)
        ran = execute(tmp_path, *cells, cwd=tmp_path / "work")
        (tmp_path / "work" / "mine.py").unlink()
        found.append([[seen(each) for each in cell.outputs] for cell in ran.nb.cells])
        assert ran.outcome.status == "completed"

    assert found[0] == found[1]


BY_THEMSELVES = [case for case in CASES if case.row in (3, 11, 12, 15, 16, 17, 18, 19)]
"""Of the table of honesty, what ends without a hand from outside; `test_honesty.py` has the others, and `run` itself."""


@pytest.mark.parametrize("case", BY_THEMSELVES, ids=[case.key for case in BY_THEMSELVES])
def test_every_end_is_told_the_same(case, tmp_path, monkeypatch):
    cells = [each if isinstance(each, str) else each[0] for each in case.notebook]
    # What was flushed is with zmq's own thread, which os._exit does not wait for.
    cells = [each.replace("os._exit(", "__import__('time').sleep(0.5); os._exit(") for each in cells]
    tags = [() if isinstance(each, str) else each[1:] for each in case.notebook]
    (tmp_path / "work").mkdir()
    limits = Limits(cell_timeout=1.0 if case.row in (11, 12) else None, interrupt_grace=1.0)
    found = []
    for way in ("0", "1"):
        monkeypatch.setenv(forking.SWITCH, way)
        sources = [each.replace("{folder}", str(tmp_path / "work")) for each in cells]
        marked = [(source, *more) for source, more in zip(sources, tags, strict=True)]
        ran = execute(tmp_path, *marked, cwd=tmp_path / "work", limits=limits)
        told = (ran.outcome.status, ran.outcome.cause, ran.outcome.error, type(ran.error))
        found.append((told, ran.statuses, [[seen(each) for each in cell.outputs] for cell in ran.nb.cells]))

    assert found[0] == found[1]
    assert found[0][0][:2] == (case.ours.status, case.ours.cause)
    assert found[0][1] == list(case.ours.cells)


def seen(output):
    """An output without what differs from process to process: ids, addresses, numbers of temporary files."""
    import re

    text = json.dumps(output, sort_keys=True)
    text = re.sub(r"0x[0-9a-f]{6,}|[0-9a-f]{32}|ipykernel_\d+/\d+", "…", text)
    return re.sub(r"\d+(\.\d+)?(it/s|s/it)|\d\d:\d\d", "…", text)


def test_each_draws_its_own_chances_and_has_a_pid_of_its_own(tmp_path):
    source = (
        "import json, multiprocessing, os, random, secrets, tempfile, uuid\n"
        "print(json.dumps([os.getpid(), random.random(), secrets.token_hex(8), str(uuid.uuid1()), str(uuid.uuid4()),"
        "next(tempfile._get_candidate_names()), multiprocessing.current_process().authkey.hex()]))"
    )
    drawn = [json.loads(execute(tmp_path, source).text(0)) for _ in range(3)]

    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 3


LEAVES_ITS_TRACES = """
import atexit, builtins, matplotlib, os, random, signal, subprocess, sys, tempfile, threading, time, types, warnings
os.environ["LEFT"] = "behind"; os.chdir("/"); os.umask(0)
sys.modules["json"] = types.ModuleType("json"); sys.modules["left"] = types.ModuleType("left"); sys.path.insert(0, "/left")
for each in (signal.SIGTERM, signal.SIGUSR1): signal.signal(each, signal.SIG_IGN)
matplotlib.use("svg"); builtins.left = 1; os.path.left = 1; tempfile.tempdir = "/left"; random.seed(1)
warnings.simplefilter("error"); sys.setrecursionlimit(123456); sys.meta_path.clear()
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
subprocess.Popen(["sleep", "600"]); subprocess.Popen(["sleep", "600"], start_new_session=False)
import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); os.nice(1); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
del str, builtins.print
"""
LOOKS = """
import builtins, json, os, resource, signal, sys, tempfile, threading, warnings, psutil
print(json.dumps([os.environ.get("LEFT"), os.getcwd(), os.umask(0o22), json.__file__[-16:], "left" in sys.modules, "/left" in sys.path,
    str(signal.getsignal(signal.SIGTERM)), str(signal.getsignal(signal.SIGUSR1)), hasattr(builtins, "left"), hasattr(os.path, "left"),
    tempfile.gettempdir(), "error" in [each[0] for each in warnings.filters], sys.getrecursionlimit(), len(sys.meta_path),
    len(threading.enumerate()), len(psutil.Process().children()), resource.getrlimit(resource.RLIMIT_NOFILE), os.nice(0),
    sorted(os.sched_getaffinity(0)), sorted(globals()), "matplotlib" in sys.modules]))
import matplotlib; print(matplotlib.get_backend())
"""


def test_nothing_that_a_run_does_touches_the_next_one(tmp_path):
    (tmp_path / "work").mkdir()
    before = execute(tmp_path, LOOKS, cwd=tmp_path / "work")
    execute(tmp_path, LEAVES_ITS_TRACES, cwd=tmp_path / "work")
    after = execute(tmp_path, LOOKS, cwd=tmp_path / "work")

    assert before.outcome.status == after.outcome.status == "completed"
    assert after.text(0) == before.text(0)


def test_runs_beside_each_other_have_each_their_own(tmp_path):
    """Twelve kernels at once, from four threads: each in its directory, with its environment."""
    from concurrent.futures import ThreadPoolExecutor

    def one(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        env = {**kernels.environment(), "NUMBER": str(number)}
        ran = execute(folder, "import os; print(os.environ['NUMBER'], os.getcwd())", cwd=folder, env=env)
        return ran.text(0)

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(one, range(12)))

    assert told == [f"{number} {tmp_path / str(number)}\n" for number in range(12)]


# ------------------------------------------------------------- the server


def blocked():
    with by_hand() as kernel:
        status = Path(f"/proc/{kernel.pid}/status").read_text()
        assert parent(kernel.pid) == server()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)


def test_a_kernel_holds_back_the_signals_of_its_own_runner(fresh):
    """And not those of the thread that happened to start the server: it could never be interrupted."""
    found = []

    def held_back():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        found.append(blocked())

    thread = threading.Thread(target=held_back)
    thread.start()
    thread.join()

    assert [*found, blocked()] == [1 << signal.SIGINT - 1 | 1 << signal.SIGTERM - 1, 0]


def test_the_server_has_one_thread_and_nothing_of_a_run(tmp_path, fresh):
    secret = "the-secret-of-this-run"
    env = {**kernels.environment(), "PASSWORD": secret}
    ran = execute(tmp_path, "import os; print(len(os.environ['PASSWORD']))", env=env, cwd=tmp_path)
    pid = server()

    assert ran.text(0) == f"{len(secret)}\n"
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    names = {each.partition("=")[0] for each in Path(f"/proc/{pid}/environ").read_text().split("\0") if each}
    assert {each for each in names if not each.startswith(heritage.READ_AT_START)} <= set(
        heritage.NAMES_READ_AT_START
    )
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert secret.encode() not in memory(pid)
    assert str(tmp_path).encode() not in memory(pid)


def memory(pid):
    """All that a process may write to."""
    found = b""
    try:
        with open(f"/proc/{pid}/mem", "rb", 0) as held:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                place, rights = line.split()[:2]
                start, end = (int(each, 16) for each in place.split("-"))
                if rights.startswith("rw") and "[v" not in line:
                    held.seek(start)
                    found += held.read(end - start)
    except PermissionError:
        pytest.skip("this system does not let one look into a process's memory")
    assert len(found) > 1 << 20
    return found


def test_a_kernel_has_no_file_of_the_servers_or_of_another_kernel():
    source = []
    with by_hand() as one, by_hand() as other:
        for kernel in (one, other):
            names = [str(each.readlink()) for each in Path(f"/proc/{kernel.pid}/fd").iterdir()]
            source.append({each for each in names if each.startswith(("pipe", "socket"))})
        assert parent(one.pid) == parent(other.pid) == server()

    assert not source[0] & source[1]


def test_a_server_that_is_killed_lets_the_run_go_on_and_the_next_one_has_another(tmp_path, fresh):
    (tmp_path / "first").mkdir()
    execute(tmp_path / "first", "1")
    first = server()
    kill = f"import os, signal, time; os.kill({first}, signal.SIGKILL); time.sleep(0.2); print('alive')"
    ran = execute(tmp_path, kill, "print('still')")

    assert ran.outcome.status == "completed"
    assert (ran.text(0), ran.text(1)) == ("alive\n", "still\n")

    again = execute(tmp_path, "import os; print(os.getppid())")

    assert again.outcome.status == "completed"
    assert int(again.text(0)) == server() != first


def test_a_kernel_that_dies_after_its_server_is_told_dead_without_a_reason(tmp_path, fresh):
    (tmp_path / "first").mkdir()
    execute(tmp_path / "first", "1")
    kill = f"import os, signal; os.kill({server()}, signal.SIGKILL)"
    ran = execute(tmp_path, kill, "import os; os._exit(3)", "print('never')")

    assert (ran.outcome.status, ran.outcome.cause) == ("errored", "kernel-died")
    assert ran.statuses == ["completed", "killed", "not-run"]
    assert "the kernel died (python3)" in ran.outcome.error["message"]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 11)", "signal SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "signal SIGKILL"),
    ],
)
def test_how_a_kernel_ended_is_told(ends, words, tmp_path):
    ran = execute(tmp_path, f"import os; {ends}", "1")

    assert ran.outcome.cause == "kernel-died"
    assert words in ran.outcome.error["message"]


def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch, fresh):
    (tmp_path / "first").mkdir()
    execute(tmp_path / "first", "1")
    stopped = server()
    monkeypatch.setattr(forkservers, "ANSWERS_WITHIN", 0.5)
    os.kill(stopped, signal.SIGSTOP)
    ran = execute(tmp_path, "import os; print(os.getppid())")

    assert ran.text(0) == f"{os.getpid()}\n"
    assert not forking._servers
    wait_for(lambda: is_zombie(stopped), 5, "the server's end")


@pytest.mark.parametrize("more", range(6))
def test_a_server_with_no_room_for_one_more_keeps_those_it_has(more, fresh):
    """At whichever of the files that it opens for a kernel there is none left."""
    with by_hand() as first:
        serving = server()
        number = len(list(Path(f"/proc/{serving}/fd").iterdir()))
        resource.prlimit(serving, resource.RLIMIT_NOFILE, (number + more, 4096))
        with by_hand() as second:
            assert parent(second.pid) in (serving, os.getpid())
        assert server() == serving
        os.kill(first.pid, signal.SIGTERM)
        wait_for(lambda: first.ended, 5, "the kernel's end")
        assert first.exit_code == -signal.SIGTERM


def test_a_server_that_cannot_start_is_done_without(tmp_path, monkeypatch, fresh):
    """A package that breaks ipykernel's import, say: the ordinary start then tells of it, or manages."""
    real = subprocess.Popen

    def broken(command, *rest, **options):
        return real(
            ["/bin/false", *command[1:]] if "libsafe_nb.forkserver" in command else command, *rest, **options
        )

    monkeypatch.setattr(forkservers.subprocess, "Popen", broken)
    ran = execute(tmp_path, "import os; print(os.getppid())")

    assert ran.text(0) == f"{os.getpid()}\n"


# ------------------------------------------------------------- who may have one


def runs_forked(tmp_path, **plan):
    ran = execute(tmp_path, "import os; print(os.getppid())", **plan)
    return int(ran.text(0)) != os.getpid()


def test_it_can_be_turned_off(tmp_path, monkeypatch, fresh):
    monkeypatch.setenv(forking.SWITCH, "0")

    assert not runs_forked(tmp_path)
    assert not forking._servers


@pytest.mark.parametrize(
    ("spec", "forked"),
    [
        ({"argv": ["-m", "ipykernel_launcher", "-f", "{connection_file}"]}, True),
        ({"argv": ["-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]}, True),
        (
            {
                "argv": ["-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "env": {"A_PATH": "${PATH}:/more"},
            },
            True,
        ),
        ({"argv": ["-O", "-m", "ipykernel_launcher", "-f", "{connection_file}"]}, False),
        ({"argv": ["-m", "ipykernel", "-f", "{connection_file}"]}, False),
        ({"argv": ["-m", "ipykernel_launcher", "-f", "{connection_file}", "--quiet"]}, False),
    ],
)
def test_only_a_usual_start_of_this_python_is_replaced(spec, forked, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    folder = tmp_path / "jupyter" / "kernels" / "mine"
    folder.mkdir(parents=True)
    described = {
        "display_name": "mine",
        "language": "python",
        **spec,
        "argv": [sys.executable, *spec["argv"]],
    }
    (folder / "kernel.json").write_text(json.dumps(described))
    env = {**kernels.environment(), "JUPYTER_PATH": ""}
    source = (
        "import os, sys; print(os.getppid(), sys.flags.optimize, sys._xoptions, os.environ.get('A_PATH'))"
    )
    ran = execute(tmp_path, source, kernel_name="mine", env=env)
    ppid, rest = ran.text(0).split(" ", 1)

    assert (int(ppid) != os.getpid()) == forked
    frozen = "{'frozen_modules': 'off'}" if "-Xfrozen_modules=off" in described["argv"] else "{}"
    path = env["PATH"] + ":/more" if "env" in spec else None
    assert rest == f"{int('-O' in described['argv'])} {frozen} {path}\n"


def test_without_our_extension_it_is_ipykernels_own_kernel(tmp_path):
    assert not runs_forked(tmp_path, extension=None)


def test_what_depends_on_the_directory_is_started_there(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "beside.py").write_text("here = True")
    env = {**kernels.environment(), "PYTHONPATH": "lib"}
    ran = execute(tmp_path, "import beside; print(beside.here)", cwd=tmp_path, env=env)

    assert ran.text(0) == "True\n"


def test_what_python_reads_at_its_start_gets_a_server_of_its_own(tmp_path, fresh):
    env = kernels.environment()
    source = "import sys; print(hash('a'), sys.flags.hash_randomization, sys.flags.utf8_mode)"
    seeded = {**env, "PYTHONHASHSEED": "7"}
    ordinary = subprocess.run(
        [sys.executable, "-c", source], env=seeded, capture_output=True, text=True, check=True
    )
    told = [
        execute(tmp_path, source, env=each).text(0)
        for each in (seeded, env, seeded, {**env, "PYTHONUTF8": "1"})
    ]

    assert told[0] == told[2] == ordinary.stdout != told[1]
    assert told[3].endswith("1 1\n")
    assert len(forking._servers) == forking.MOST
    wait_for(
        lambda: not [each for each in forking._leaving if each.alive],
        5,
        "the end of the server that made room",
    )


def test_a_key_tells_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("site.getsitepackages", lambda: [str(tmp_path)])
    env = kernels.environment()
    keys = [heritage.key(env, ())]
    (tmp_path / "package").mkdir()
    keys.append(heritage.key(env, ()))
    (tmp_path / "more.pth").write_text("/a\n")
    keys.append(heritage.key(env, ()))
    (tmp_path / "more.pth").write_text("/other\n")
    keys.append(heritage.key(env, ()))
    (tmp_path / "sitecustomize.py").write_text("")
    keys.append(heritage.key(env, ()))
    (tmp_path / "sitecustomize.py").write_text("import this")
    keys.append(heritage.key(env, ()))
    keys.append(heritage.key(env, ("-Xfrozen_modules=off",)))
    keys.append(heritage.key({**env, "HOME": "/elsewhere"}, ()))

    assert len(set(keys)) == len(keys)
    assert heritage.key({**env, "ANY": "other"}, ()) == keys[5]


def test_a_key_tells_what_python_executes_at_its_start(tmp_path):
    """Which may lie in a folder of PYTHONPATH; what else is there is imported by the runs' own kernels."""
    env = {**kernels.environment(), "PYTHONPATH": str(tmp_path)}
    keys = [heritage.key(env, ())]
    (tmp_path / "own.py").write_text("")
    assert heritage.key(env, ()) == keys[0]
    for text in ("", "import this"):
        (tmp_path / "usercustomize.py").write_text(text)
        keys.append(heritage.key(env, ()))

    assert len(set(keys)) == 3


READS = """
import collections.abc, os, sys
read = set()
class Watched(dict):
    def __getitem__(self, name):
        read.add(name.decode()); return super().__getitem__(name)
    def __contains__(self, name):
        read.add(name.decode()); return super().__contains__(name)
os.environ._data = Watched(os.environ._data)
from libsafe_nb import forkserver
forkserver.load(forkserver.FIRST); forkserver.load(forkserver.LATER)
print(*sorted(read))
"""


def test_what_the_server_reads_is_in_the_key():
    """Of the variables that the modules of a server read while they are imported, none is the runs' own."""
    done = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, check=True)
    read = dict.fromkeys(done.stdout.split(), "x")

    assert set(read) - set(heritage.start_environment(read)) == set(heritage.NOT_FORKED)
    assert heritage.key({"JPY_PARENT_PID": "1"}, ()) is None


def test_no_key_of_anybodys_is_what_the_server_starts_with():
    """Names that begin as those of Python, the loader or a locale do, and are keys."""
    keys = (
        "COVERAGE_TOKEN LANGCHAIN_API_KEY LANGFUSE_SECRET LC_APP_KEY LD_SDK_KEY OPENSSL_PASSPHRASE "
        "PYTHONANYWHERE_API_TOKEN PYTHON_KEYRING_CREDENTIALS"
    )
    read = ["LANG", "LANGUAGE", "LC_ALL", "LD_PRELOAD", "PYTHONHASHSEED", "PYTHON_GIL", "OPENSSL_CONF"]
    env = dict.fromkeys([*keys.split(), *read], "x")

    assert sorted(heritage.start_environment(env)) == sorted(read)
    assert heritage.key(env, ()) == heritage.key({**env, "LANGCHAIN_API_KEY": "y"}, ())


# ------------------------------------------------------------- a platform's


@pytest.fixture
def platform(tmp_path_factory, fresh):
    """One of the moment: with the environment that this process has now, whatever the tests before have imported."""
    with local.serve(tmp_path_factory.mktemp("serving") / "platform") as served:
        yield served


@pytest.fixture
def platforms(platform):
    """The platform's folder, and the pid of its server; none of this process's own is started."""
    folder = platform.settings.platform_folder
    assert folder is not None

    def bears():
        with kernels.start(kernels.check("python3"), platform=folder) as kernel:
            return {parent(kernel.pid)} - {os.getpid()}

    with forking.once():
        try:
            (serving,) = wait_for(bears, 30, "the start of the platform's server")
        except AssertionError as exc:
            own = (heritage.start_environment(kernels.environment()), heritage.place(), heritage.installed())
            its = Path(f"/proc/{Root(folder).running().pid}/environ").read_text().replace("\0", " ")
            raise AssertionError(f"{exc}; of this process: {own}; the platform's environment: {its}") from exc
        yield folder, serving


def test_the_platforms_server_is_used_by_processes_that_run_one_notebook(platforms, tmp_path):
    folder, serving = platforms
    ran = execute(tmp_path, "import os; print(os.getppid())", platform=folder)

    assert ran.text(0) == f"{serving}\n"
    assert not forking._servers
    assert ran.outcome.status == "completed"


def test_a_run_on_the_command_line_uses_it(platforms, platform, notebook):
    path = notebook("import os; print('born by', os.getppid())")
    settings = platform.settings
    program = [sys.executable, "-P", "-m", "libsafe_nb", "run", str(path), "--json"]
    env = {**os.environ, **variables(settings), "LIBSAFE_NB_HOME": str(platforms[0].parent)}
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=True)

    evidence = json.loads(done.stdout)["evidence"]
    container, prefix = evidence.removeprefix("libsafe://").split("/", 1)
    executed = connect(settings=settings).storage.get(container, f"{prefix}executed.ipynb")
    assert f"born by {platforms[1]}\\n" in executed.decode()


def test_it_is_used_under_nohup_as_well(platforms, tmp_path):
    folder, serving = platforms
    with ignoring(signal.SIGHUP):
        ran = execute(tmp_path, "import os; print(os.getppid())", platform=folder)

    assert ran.text(0) == f"{serving}\n"


def test_it_is_not_used_for_other_kernels(platforms, tmp_path):
    folder, _ = platforms
    ran = execute(
        tmp_path,
        "import os; print(os.getppid())",
        platform=folder,
        env={**kernels.environment(), "PYTHONHASHSEED": "7"},
    )

    assert ran.text(0) == f"{os.getpid()}\n"


def test_its_socket_is_the_users_alone(platforms):
    folder, _ = platforms

    assert stat.S_IMODE((folder / forkservers.SOCKET).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_sent_to_it_by_mistake_does_no_harm(platforms, tmp_path):
    folder, serving = platforms
    for sent in (b"", b"x", b"y" * 100_000, None):
        with forkservers._connect(folder) as control:
            control.recv(100)
            if sent is not None:
                control.send(sent)
    line, theirs = socket.socketpair()
    with line, theirs, forkservers._connect(folder) as control:
        # Somebody who asks and says nothing, and is gone.
        files = array.array("i", [theirs.fileno()] * 3)
        control.sendmsg([b"fork"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    ran = execute(tmp_path, "import os; print(os.getppid())", platform=folder)

    assert ran.text(0) == f"{serving}\n"


# ------------------------------------------------------------- its end

OWNER = """
import os, sys, time
from libsafe_nb import forking, kernels
kernels.start(kernels.check("python3")).close()
(server,) = forking._servers.values()
# What a process forks holds its pipes, those of its kernels as well: hence no kernel while it does.
child = os.fork() if "fork" in sys.argv else None
if child == 0:
    assert not forking._servers
    time.sleep(600)
kernel = kernels.start(kernels.check("python3"))
assert list(forking._servers.values()) == [server]
print(server._process.pid, kernel.pid, child, flush=True)
if "end" in sys.argv:
    kernel.close()
    sys.exit(0)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["killed", "end", "fork"])
def test_a_server_ends_with_its_owner(how):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, how], stdout=subprocess.PIPE, text=True)
    try:
        serving, kernel, child = owner.stdout.readline().split()
    finally:
        if how != "end":
            owner.kill()
        assert owner.wait(30) == (0 if how == "end" else -signal.SIGKILL)
        owner.stdout.close()
    wait_for(lambda: not Path(f"/proc/{kernel}").exists() or is_zombie(int(kernel)), 10, "the kernel's end")
    wait_for(lambda: not Path(f"/proc/{serving}").exists() or is_zombie(int(serving)), 10, "the server's end")
    if how == "fork":
        os.kill(int(child), signal.SIGKILL)


def test_a_server_that_is_let_go_stays_for_its_kernel():
    with by_hand() as kernel:
        serving = server()
        forking._let_go(next(iter(forking._servers)))
        time.sleep(0.2)
        os.kill(kernel.pid, signal.SIGTERM)
        wait_for(lambda: kernel.ended, 5, "the kernel's end")

        assert kernel.exit_code == -signal.SIGTERM
    wait_for(lambda: not [each for each in forking._leaving if each.alive], 5, f"the end of {serving}")


def resources():
    """Open files and resident KiB, of this process and of its server."""
    found = []
    for pid in (os.getpid(), server()):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        found += [len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["VmRSS"].split()[0])]
    return found


@pytest.mark.parametrize("runs", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_many_runs_leave_nothing_behind(runs, tmp_path):
    def some(number):
        for _ in range(number):
            assert execute(tmp_path, "print(1)").outcome.status == "completed"

    some(10)
    files, kib, its_files, its_kib = resources()
    some(runs)
    more_files, more_kib, its_more_files, its_more_kib = resources()

    assert (more_files, its_more_files) == (files, its_files)
    # What one run takes is some 100 KiB, were it kept: more than this. The heaps settle in the first runs.
    assert more_kib - kib < 2048 + 20 * runs
    assert its_more_kib - its_kib < 2048
