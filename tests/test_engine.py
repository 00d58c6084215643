"""The engine `libsafe`, with real kernels: what it keeps, what it tells, what it calls, and how it is stopped."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill
import pytest
from engine_runs import (
    MARK,
    execute,
    notebook,
    nothing_left,
    read,
    run,
    spawn,
    wait_for,
)

from libsafe_nb.errors import ExecutionError, KernelDied, NotebookError, RunCancelled, RunTimeout
from libsafe_nb.execution import Execution, Limits

MIB = 1024 * 1024
SLEEP = "print('begun', flush=True); import time; time.sleep(600)"


@pytest.fixture(autouse=True)
def mark(monkeypatch):
    with nothing_left(monkeypatch) as mark:
        yield mark


# ------------------------------------------------------------- the record


def test_a_run_is_told_in_the_notebook_itself(tmp_path):
    ran = execute(tmp_path, "print(1)", ("1/0", "raises-exception"), ("2", "skip-execution"), "1/0", "3")
    block = ran.nb.metadata.libsafe_nb

    assert block.schema == "libsafe-nb-execution/1"
    assert (block.status, block.cause) == ("failed", "cell-error")
    assert block.error == {"type": "ZeroDivisionError", "message": "division by zero", "cell_id": "cell-3"}
    assert [block.cells[f"cell-{number}"].status for number in range(5)] == [
        "completed",
        "expected-error",
        "skipped",
        "failed",
        "not-run",
    ]
    assert ran.statuses == [block.cells[f"cell-{number}"].status for number in range(5)]
    assert ran.papermills == ["completed", "completed", "pending", "failed", "pending"]
    assert [state.status for state in ran.outcome.cells] == ran.statuses


def test_papermills_own_keys_are_true(tmp_path):
    ran = execute(tmp_path, "import time; time.sleep(0.3)", "1/0", "3")
    first, second, third = (cell.metadata.papermill for cell in ran.nb.cells)

    assert ran.nb.metadata.papermill.exception is True
    assert first.start_time < first.end_time <= second.start_time <= second.end_time
    assert 0.3 <= first.duration < 5
    assert (first.exception, second.exception, third.exception) == (False, True, None)
    assert (third.start_time, third.end_time, third.duration) == (None, None, None)


def test_what_an_earlier_run_left_is_forgotten(tmp_path):
    execute(tmp_path, "print(1)", "1/0")
    (tmp_path / "in.ipynb").write_bytes((tmp_path / "out.ipynb").read_bytes())
    target = tmp_path / "again.ipynb"
    ran = run(Execution(save_to=target), tmp_path / "in.ipynb", target)

    assert ran.text(0) == "1\n"
    assert len(ran.nb.cells[0].outputs) == 1


def test_metadata_of_others_is_left_alone(tmp_path):
    made = notebook("1")
    made.metadata["libsafe_nb"] = {"strict_params": True}
    made.cells[0].metadata["libsafe_nb"] = {"mine": 1}
    nbformat.write(made, tmp_path / "in.ipynb")
    ran = run(Execution(save_to=tmp_path / "out.ipynb"), tmp_path / "in.ipynb", tmp_path / "out.ipynb")

    assert ran.nb.metadata.libsafe_nb.strict_params is True
    assert ran.nb.cells[0].metadata.libsafe_nb.mine == 1


def test_the_kernel_is_named(tmp_path):
    kernel = execute(tmp_path, "1").outcome.kernel

    assert (kernel["name"], kernel["language"]) == ("python3", "python")
    assert kernel["language_version"].startswith("3.")
    assert kernel["pid"] > 0


# ------------------------------------------------------------- outputs as JupyterLab shows them


def test_a_progress_bar_is_one_line(tmp_path):
    ran = execute(
        tmp_path,
        "import time\nfor i in range(101):\n    print(f'\\r{i}%', end='', flush=True)\n    time.sleep(0.005)\n"
        "print(' done')",
    )

    assert ran.text(0) == "100% done\n"


def test_tqdm_leaves_its_last_line(tmp_path):
    ran = execute(
        tmp_path,
        "import time\nfrom tqdm import tqdm\nfor _ in tqdm(range(50), desc='work'): time.sleep(0.01)\nprint('end')",
    )
    # Which of the two streams comes first is the kernel's choice.
    bar = "".join(each.text for each in ran.nb.cells[0].outputs if each.name == "stderr")

    assert bar.startswith("work: 100%|")
    assert "50/50" in bar
    assert bar.count("\n") == 1
    assert "\r" not in bar


def test_many_lines_and_colours_are_kept_as_they_are(tmp_path):
    ran = execute(tmp_path, "print('\\x1b[31mred\\x1b[0m\\n\\n  two\\tthree')", "'one\\ntwo'")

    assert ran.text(0) == "\x1b[31mred\x1b[0m\n\n  two\tthree\n"
    assert ran.nb.cells[1].outputs[0].data["text/plain"] == "'one\\ntwo'"


def widgets(ran):
    """The states of a notebook's widgets, by the name of their model."""
    states = ran.nb.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    return {
        name: [each.state for each in states if each.model_name == name]
        for name in {s.model_name for s in states}
    }


def test_a_bar_of_widgets_is_stored_at_its_end(tmp_path):
    pytest.importorskip("ipywidgets")
    ran = execute(tmp_path, "from tqdm.notebook import tqdm\nfor _ in tqdm(range(20), desc='work'): pass")
    (shown,) = ran.nb.cells[0].outputs
    (bar,) = widgets(ran)["FloatProgressModel"]

    assert "application/vnd.jupyter.widget-view+json" in shown.data
    assert (bar.value, bar.max, bar.bar_style) == (20, 20, "success")


def test_a_bar_of_rich_is_stored_at_its_end(tmp_path):
    """rich shows it in an Output widget, which it clears before each state."""
    pytest.importorskip("ipywidgets")
    ran = execute(
        tmp_path,
        "import time\nfrom rich.progress import track\n"
        "for _ in track(range(20), description='work'): time.sleep(0.02)\nprint('end')",
    )
    (area,) = widgets(ran)["OutputModel"]

    assert ran.text(0) == "end\n"
    assert len(area.outputs) == 1
    assert "100%" in area.outputs[0]["data"]["text/html"]


def test_a_reply_that_came_while_we_answered_a_widget_is_seen(tmp_path, monkeypatch):
    """
    The answer to the last message of an Output widget is sent when the cell's reply is there and not read yet.

    That send used to take back the signal for the reply, and the run waited for ever.
    """
    pytest.importorskip("ipywidgets")
    from libsafe_nb.frontend import FrontEnd

    answer = FrontEnd.output

    def late(self, outs, message, display_id, index):
        time.sleep(0.3)
        return answer(self, outs, message, display_id, index)

    monkeypatch.setattr(FrontEnd, "output", late)
    ran = execute(
        tmp_path,
        "import ipywidgets\nout = ipywidgets.Output()\nwith out: print('in it')",
        "print('second')",
        limits=Limits(cell_timeout=30),
    )

    assert (ran.outcome.status, ran.text(1)) == ("completed", "second\n")


def test_output_widgets_within_each_other(tmp_path):
    pytest.importorskip("ipywidgets")
    ran = execute(
        tmp_path,
        "import ipywidgets\nfrom IPython.display import clear_output, display\n"
        "outer, inner = ipywidgets.Output(), ipywidgets.Output()\ndisplay(outer)\nprint('cell')\n"
        "with outer:\n    print('outer')\n    display(inner)\n"
        "    with inner:\n        print('old')\n        clear_output()\n        print('inner')\n    print('outer again')",
        "with inner: print('from the next cell')\nprint('here')",
    )
    first, second = sorted(widgets(ran)["OutputModel"], key=lambda each: -len(each.outputs))

    assert [each.get("name", "widget") for each in ran.nb.cells[0].outputs] == ["widget", "stdout"]
    assert ran.text(0) == "cell\n"
    assert ran.text(1) == "here\n"
    assert [each.get("text", "widget") for each in first.outputs] == ["outer\n", "widget", "outer again\n"]
    assert "".join(each["text"] for each in second.outputs) == "inner\nfrom the next cell\n"


def test_a_display_is_updated_in_place_also_from_a_later_cell(tmp_path):
    ran = execute(
        tmp_path,
        "from IPython.display import display\nhandle = display('one', display_id=True)\nprint('after')",
        "handle.update('two')",
    )

    assert [each.output_type for each in ran.nb.cells[0].outputs] == ["display_data", "stream"]
    assert ran.nb.cells[0].outputs[0].data["text/plain"] == "'two'"
    assert ran.nb.cells[1].outputs == []


def test_clear_output_clears(tmp_path):
    ran = execute(
        tmp_path,
        "from IPython.display import clear_output\nfor i in range(5):\n    clear_output(wait=True)\n    print(i)",
        "print('x')\nclear_output()",
    )

    assert ran.text(0) == "4\n"
    assert ran.nb.cells[1].outputs == []


def test_an_image_of_ten_megabytes_is_kept(tmp_path):
    ran = execute(
        tmp_path,
        "from IPython.display import Image, display\nimport os\n"
        "data = b'\\x89PNG\\r\\n\\x1a\\n' + os.urandom(10 * 1024 * 1024)\ndisplay(Image(data, format='png'))",
        "import hashlib; print(hashlib.sha256(data).hexdigest())",
    )
    import hashlib

    stored = base64.b64decode(ran.nb.cells[0].outputs[0].data["image/png"])

    assert hashlib.sha256(stored).hexdigest() == ran.text(1).strip()
    assert ran.outcome.truncated == ()


def test_widgets_state_is_stored(tmp_path):
    """What ipywidgets does, without ipywidgets: a comm that opens, and an update of its state."""
    source = (
        "from comm import create_comm\n"
        "comm = create_comm(target_name='jupyter.widget', data={'state': {'_model_name': 'IntProgressModel',"
        " '_model_module': '@jupyter-widgets/controls', '_model_module_version': '2.0.0', 'value': 1}})\n"
        "comm.send({'method': 'update', 'state': {'value': 7}})"
    )
    ran = execute(tmp_path, source)
    ((state,)) = ran.nb.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()

    assert state.model_name == "IntProgressModel"
    assert state.state.value == 7


def test_what_a_task_prints_later_goes_to_the_cell_that_started_it(tmp_path):
    ran = execute(
        tmp_path,
        "import asyncio\nasync def work():\n    await asyncio.sleep(0.5)\n    print('late')\n"
        "task = asyncio.ensure_future(work())",
        "await task\nprint('second')",
    )

    assert ran.text(0) == "late\n"
    assert ran.text(1) == "second\n"


def test_rich_outputs_and_streams_keep_their_order(tmp_path):
    ran = execute(
        tmp_path,
        "from IPython.display import display\nimport sys\nprint('a')\ndisplay(1)\nprint('b', file=sys.stderr)\n'end'",
    )

    assert [each.output_type for each in ran.nb.cells[0].outputs] == [
        "stream",
        "display_data",
        "stream",
        "execute_result",
    ]


def test_half_characters_do_not_spoil_the_file(tmp_path):
    ran = execute(tmp_path, "print('a\\ud800b')\n'\\udfff'")

    assert ran.outcome.status == "completed"
    assert ran.text(0) == "a?b\n"


def test_what_subprocesses_print_is_kept(tmp_path, mark):
    env = {"PATH": os.environ["PATH"], MARK: mark}
    ran = execute(
        tmp_path, "import subprocess; subprocess.run(['echo', 'from a child'])", "!echo magic", env=env
    )

    assert "from a child\n" in ran.text(0)
    assert "magic" in ran.text(1)


def test_no_output_is_lost_however_fast_they_come(tmp_path):
    """Plain kernels drop messages when the reader falls behind; here the reader is slow on purpose."""

    class Slow:
        def segments(self, cell_id, name, text):
            return [(name, text)]

        def output(self, cell_id, output):
            time.sleep(0.001)
            return output

        def end_cell(self, cell_id):
            return []

        def text(self, text):
            return text

    ran = execute(
        tmp_path,
        "from IPython.display import display\nfor i in range(3000): display(i)",
        output_filter=Slow(),
    )

    assert [each.data["text/plain"] for each in ran.nb.cells[0].outputs] == [str(i) for i in range(3000)]


# ------------------------------------------------------------- bounds


def test_output_over_the_bound_is_cut_and_told(tmp_path):
    ran = execute(
        tmp_path,
        "for i in range(100_000): print(f'line {i:05}')",
        "print('x' * 10_000_000)",
        limits=Limits(cell_output=100_000, notebook_output=150_000),
    )
    first, second = ran.outcome.truncated

    assert ran.outcome.status == "completed"
    assert first["streams"]["stdout"]["bytes"] == 1_100_000
    assert first["kept"] <= 100_000
    assert second["kept"] <= 50_000
    assert ran.text(0).startswith("line 00000\n")
    assert ran.text(0).endswith("line 99999\n")
    assert [each.cell_id for each in ran.nb.metadata.libsafe_nb.truncated] == ["cell-0", "cell-1"]
    assert (tmp_path / "out.ipynb").stat().st_size < 400_000


PEAK = """
import json
from pathlib import Path
import papermill
from libsafe_nb.execution import Execution
execution = Execution(save_to=Path("out.ipynb"))
papermill.execute_notebook("in.ipynb", None, engine_name="libsafe", execution=execution, progress_bar=False)
# VmHWM, not ru_maxrss: that one is inherited from the process that started this one.
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
print(json.dumps([execution.outcome.status, peak, len(execution.outcome.truncated)]))
"""


# Slow: the rows 13 and 14 of the table of honesty show it through `run`.
@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    ["print('x' * 200_000_000)", "text = 'y' * 999\nfor i in range(200_000): print(text)"],
    ids=["one print", "many lines"],
)
def test_two_hundred_megabytes_of_prints_leave_our_memory_small(source, tmp_path):
    nbformat.write(notebook(source), tmp_path / "in.ipynb")
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=250
    )
    status, peak, truncated = json.loads(done.stdout)

    assert (status, truncated) == ("completed", 1)
    assert peak < 250


# ------------------------------------------------------------- nobody at the keyboard


@pytest.mark.parametrize("source", ["input('name? ')", "import getpass; getpass.getpass()"])
def test_asking_for_input_fails_at_once_and_says_what_to_do(source, tmp_path):
    ran = execute(tmp_path, source, "2")

    assert (ran.outcome.status, ran.outcome.error["type"]) == ("failed", "StdinNotImplementedError")
    assert "nobody at the keyboard" in ran.outcome.error["message"]
    assert "parameter" in ran.outcome.error["message"]
    assert ran.nb.metadata.libsafe_nb.error == ran.outcome.error
    assert ran.statuses == ["failed", "not-run"]


# ------------------------------------------------------------- hooks


def test_the_silent_step_comes_after_the_injected_cell_and_is_not_seen(tmp_path):
    ran = execute(
        tmp_path,
        "print('first')",
        ("json_sample = {'key': 'default'}", "parameters"),
        "print(json_sample['key'], 'In' in globals() and len(In))",
        parameters={"json_sample": {"key": "placeholder"}},
        after_parameters=lambda: "print('never shown'); json_sample['key'] = 'filled in'",
    )

    assert ran.text(3) == "filled in 5\n"
    assert "filled in'" not in (tmp_path / "out.ipynb").read_text()
    assert "never shown" not in (tmp_path / "out.ipynb").read_text()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([("x = 1", "parameters"), "print(x)"], "2\n"),
        (["x = 1; print(x, 'y' in globals())"], "1 True\n"),
    ],
    ids=["after the parameters cell", "before the first"],
)
def test_the_silent_step_without_injection(cells, expected, tmp_path):
    ran = execute(tmp_path, *cells, after_parameters=lambda: "x = 2; y = 3")

    assert ran.text(len(cells) - 1) == expected


def test_an_error_in_the_silent_step_ends_the_run_as_errored(tmp_path):
    ran = execute(tmp_path, "print(1)", after_parameters=lambda: "raise RuntimeError('no door')")

    assert ran.outcome.status == "errored"
    assert ran.outcome.cause == "after-parameters"
    assert "RuntimeError: no door" in ran.outcome.error["message"]
    assert ran.statuses == ["not-run"]
    assert isinstance(ran.error, ExecutionError)


class Upper:
    """Holds back each text's last letter, and makes everything capital."""

    def __init__(self):
        self.held = {}

    def segments(self, cell_id, name, text):
        text = self.held.pop((cell_id, name), "") + text
        self.held[cell_id, name] = text[-1]
        return [(name, text[:-1].upper())]

    def end_cell(self, cell_id):
        return [
            (name, self.held.pop((place, name)).upper())
            for place, name in list(self.held)
            if place == cell_id
        ]

    def output(self, cell_id, output):
        if "data" not in output:
            return type(output)({**output, "evalue": "filtered", "traceback": []})
        if "drop" in str(output["data"]):
            return None
        return json.loads(json.dumps(output).upper().replace('"OUTPUT_TYPE"', '"output_type"')) and type(
            output
        )({**output, "data": type(output)({k: str(v).upper() for k, v in output["data"].items()})})

    def text(self, text):
        return text.upper()


def test_a_filter_sees_all_before_it_is_kept(tmp_path):
    ran = execute(
        tmp_path,
        "from IPython.display import display\nprint('abc', end='')\ndisplay('rich')\nprint('tail', end='')",
        "display('drop me')",
        "1/0",
        output_filter=Upper(),
    )
    outputs = ran.nb.cells[0].outputs

    assert [each.get("text") or each.data["text/plain"] for each in outputs] == ["ABC", "'RICH'", "TAIL"]
    assert ran.nb.cells[1].outputs == []
    assert ran.nb.cells[2].outputs[0].evalue == "filtered"
    assert ran.outcome.error["message"] == "filtered"


def test_a_filter_that_fails_ends_the_run_and_keeps_nothing_unfiltered(tmp_path):
    class Broken(Upper):
        def segments(self, cell_id, name, text):
            raise ValueError("filter out of order")

    ran = execute(tmp_path, "print('not to be seen')", "2", output_filter=Broken())

    assert (ran.outcome.status, ran.outcome.cause) == ("errored", "internal")
    assert ran.statuses == ["killed", "not-run"]
    assert isinstance(ran.error, ValueError)
    assert "not to be seen\\n" not in (tmp_path / "out.ipynb").read_text().replace(ran.nb.cells[0].source, "")


def test_progress_is_told_at_each_start_and_end(tmp_path):
    told = []
    execute(
        tmp_path,
        "1",
        ("2", "skip-execution"),
        "1/0",
        "4",
        on_cell=lambda state: told.append((state.cell_id, state.status)),
    )

    assert told == [
        ("cell-0", "running"),
        ("cell-0", "completed"),
        ("cell-1", "skipped"),
        ("cell-2", "running"),
        ("cell-2", "failed"),
    ]


def test_an_error_in_a_listener_is_raised_and_the_outcome_is_there(tmp_path):
    def listener(state):
        raise LookupError("listener out of order")

    ran = execute(tmp_path, "1", on_cell=listener)

    assert isinstance(ran.error, LookupError)
    assert (ran.outcome.status, ran.outcome.cause) == ("errored", "internal")


# ------------------------------------------------------------- being stopped


def test_cancel_from_another_thread(tmp_path):
    execution = Execution(save_to=tmp_path / "out.ipynb")
    nbformat.write(notebook(SLEEP, "2"), tmp_path / "in.ipynb")

    def cancel():
        wait_for(lambda: "begun" in (tmp_path / "out.ipynb").read_text().split("source")[0], what="the cell")
        execution.cancel("enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    ran = run(execution, tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    canceller.join()

    assert (ran.outcome.status, ran.outcome.cause) == ("cancelled", "cancelled")
    assert "enough" in ran.outcome.error["message"]
    assert ran.statuses == ["interrupted", "not-run"]
    assert ran.papermills == ["failed", "pending"]
    assert ran.text(0).startswith("begun\n")
    assert isinstance(ran.error, RunCancelled)
    assert ran.error.exit_code == 130


def test_cancelled_before_it_began_nothing_runs(tmp_path):
    execution = Execution(save_to=tmp_path / "out.ipynb")
    execution.cancel("too late")
    nbformat.write(notebook("open('ran', 'w')"), tmp_path / "in.ipynb")
    ran = run(execution, tmp_path / "in.ipynb", tmp_path / "out.ipynb")

    assert ran.outcome.status == "cancelled"
    assert ran.statuses == ["not-run"]


def test_asking_twice_does_not_wait_for_the_grace(tmp_path):
    deaf = "while True:\n    try: import time; time.sleep(600)\n    except KeyboardInterrupt: pass"
    execution = Execution(save_to=tmp_path / "out.ipynb", limits=Limits(interrupt_grace=120))
    nbformat.write(notebook(deaf), tmp_path / "in.ipynb")

    def cancel():
        wait_for(lambda: read(tmp_path / "out.ipynb").metadata.libsafe_nb.cells["cell-0"].status == "running")
        time.sleep(0.5)
        execution.cancel("first")
        execution.cancel("second")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    ran = run(execution, tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    canceller.join()

    assert ran.seconds < 30
    assert ran.statuses == ["killed"]
    assert "first" in ran.outcome.error["message"]


def test_the_whole_runs_deadline(tmp_path):
    ran = execute(tmp_path, "print('first')", "import time; time.sleep(600)", "3", limits=Limits(timeout=3))

    assert (ran.outcome.status, ran.outcome.cause) == ("timeout", "run-timeout")
    assert ran.statuses == ["completed", "timed-out", "not-run"]
    assert isinstance(ran.error, RunTimeout)
    assert ran.error.exit_code == 4
    assert ran.seconds < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_papermills_program_is_a_cancel(number, tmp_path):
    process = spawn(tmp_path, SLEEP, "2")
    target = tmp_path / "out.ipynb"
    wait_for(
        lambda: "begun" in "".join(o.text for o in read(target).cells[0].outputs), what="the first output"
    )
    sent = time.monotonic()
    process.send_signal(number)
    code = process.wait(60)
    took = time.monotonic() - sent
    block = read(target).metadata.libsafe_nb

    assert code != 0
    assert took < 5
    assert (block.status, block.cause) == (
        "cancelled",
        "interrupted" if number == signal.SIGINT else "terminated",
    )
    assert [block.cells[f"cell-{number}"].status for number in range(2)] == ["interrupted", "not-run"]
    assert read(target).cells[0].outputs[0].text == "begun\n"


def test_handlers_of_others_are_left_in_place_and_ours_taken_away(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("theirs"))
    try:
        theirs = signal.getsignal(signal.SIGTERM)
        inside = []
        execute(tmp_path, "1", on_cell=lambda state: inside.append(signal.getsignal(signal.SIGTERM)))

        assert set(inside) == {theirs}
        assert signal.getsignal(signal.SIGTERM) is theirs
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------- saving


def test_the_file_is_whole_at_every_instant(tmp_path):
    """The runner is killed -9 again and again while it saves a large notebook; what is there can always be read."""
    big = "from IPython.display import display\nfor i in range(600): display({'text/plain': 'x' * 20_000}, raw=True)"
    process = spawn(tmp_path, big, "print(1)", "import time; time.sleep(1)")
    target = tmp_path / "out.ipynb"
    wait_for(target.exists)
    seen = set()
    while process.poll() is None:
        seen.add(read(target).metadata.libsafe_nb.status)

    assert process.returncode == 0
    assert seen == {"running", "completed"} or seen == {"running"}
    assert read(target).metadata.libsafe_nb.status == "completed"


HELD_IN_A_SAVE = """
import os, sys, time
from pathlib import Path
import papermill

def held(step, real):
    def stop(*arguments):
        if Path("armed").exists():
            Path("in-save").touch()
            time.sleep(600)
        return real(*arguments)
    return stop

step = sys.argv[1]
setattr(os, step, held(step, getattr(os, step)))
papermill.execute_notebook("in.ipynb", "out.ipynb", engine_name="libsafe", progress_bar=False)
"""


@pytest.mark.parametrize(
    ("step", "written"),
    [("fchmod", False), ("fsync", True)],
    ids=["copy still empty", "copy not yet renamed"],
)
def test_killed_in_the_middle_of_a_save_the_last_copy_is_there(step, written, tmp_path):
    """
    kill -9 at an exact point of a later save, over a copy that is good: that copy is what is found.

    Plain papermill left 0 bytes, three times of three.
    """
    big = "print('x' * 9_000_000)\nimport time\ntime.sleep(4)\nopen('armed', 'w')\nprint('later', flush=True)"
    nbformat.write(notebook(big, "import time; time.sleep(600)"), tmp_path / "in.ipynb")
    target = tmp_path / "out.ipynb"
    process = subprocess.Popen([sys.executable, "-c", HELD_IN_A_SAVE, step], cwd=tmp_path)
    try:
        wait_for((tmp_path / "in-save").exists, 60, "the save")
        (half,) = tmp_path.glob(".out.ipynb.*.tmp")
    finally:
        process.kill()
        process.wait()
    saved = read(target)

    assert (half.stat().st_size > 9_000_000) == written
    assert len(saved.cells[0].outputs[0].text) >= 9_000_000
    assert saved.metadata.libsafe_nb.cells["cell-0"].status == "running"


def test_papermills_own_last_write_is_atomic_too(tmp_path, monkeypatch):
    """papermill opens the file with 'w' once more after the engine returned; that would empty the good copy."""
    nbformat.write(notebook("1"), tmp_path / "in.ipynb")
    target = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        str(tmp_path / "in.ipynb"), str(target), engine_name="libsafe", progress_bar=False
    )
    in_place = []
    monkeypatch.setattr(papermill.iorw.LocalHandler, "write", lambda self, buf, path: in_place.append(path))
    handlers = list(papermill.iorw.papermill_io._handlers)
    papermill.execute_notebook(
        str(tmp_path / "in.ipynb"), str(target), engine_name="libsafe", progress_bar=False
    )

    assert in_place == []
    assert papermill.iorw.papermill_io._handlers == handlers


def test_a_path_with_braces(tmp_path):
    (tmp_path / "{a}").mkdir()
    target = tmp_path / "{a}" / "{out}.ipynb"
    nbformat.write(notebook("1"), tmp_path / "in.ipynb")
    ran = run(Execution(save_to=target), tmp_path / "in.ipynb", target)

    assert ran.outcome.status == "completed"


def test_relative_paths_and_papermills_cwd(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    nbformat.write(notebook("import os; print(os.getcwd())"), tmp_path / "in.ipynb")
    papermill.execute_notebook("in.ipynb", "out.ipynb", engine_name="libsafe", progress_bar=False, cwd="work")

    assert read(tmp_path / "out.ipynb").cells[0].outputs[0].text.strip() == str(tmp_path / "work")


def test_a_place_that_cannot_be_written_to_is_found_before_the_first_cell(tmp_path):
    nbformat.write(notebook("open('ran', 'w')"), tmp_path / "in.ipynb")
    execution = Execution(save_to=tmp_path / "gone" / "out.ipynb", cwd=tmp_path)
    with pytest.raises(ExecutionError, match="cannot be written"):
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), None, engine_name="libsafe", progress_bar=False, execution=execution
        )

    assert (execution.outcome.status, execution.outcome.cause) == ("errored", "save")
    assert not (tmp_path / "ran").exists()


def test_a_place_that_vanishes_costs_neither_the_run_nor_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    (tmp_path / "spare").mkdir()
    (tmp_path / "place").mkdir()
    nbformat.write(
        notebook("import shutil; shutil.rmtree('place')", "open('effect', 'w')"), tmp_path / "in.ipynb"
    )
    execution = Execution(save_to=tmp_path / "place" / "out.ipynb", cwd=tmp_path)
    with pytest.raises(ExecutionError, match="could not be written") as raised:
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), None, engine_name="libsafe", progress_bar=False, execution=execution
        )
    (kept,) = (tmp_path / "spare").rglob("*.ipynb")

    assert (tmp_path / "effect").exists()
    assert str(kept) in str(raised.value)
    assert read(kept).metadata.libsafe_nb.cells["cell-1"].status == "completed"
    assert execution.outcome.cause == "save"


# ------------------------------------------------------------- papermill as it is


def test_papermills_program_takes_the_engine(tmp_path):
    process = spawn(
        tmp_path, ("x = 1", "parameters"), "print(x)", options=["-p", "x", "5", "--stdout-file", "printed"]
    )

    assert process.wait(60) == 0
    assert read(tmp_path / "out.ipynb").cells[2].outputs[0].text == "5\n"
    assert (tmp_path / "printed").read_text() == "5\n"


def test_an_expected_error_is_no_error_to_papermill(tmp_path):
    process = spawn(tmp_path, ("1/0", "raises-exception"), "2")

    assert process.wait(60) == 0
    assert read(tmp_path / "out.ipynb").cells[0].outputs[0].output_type == "error"


def test_a_failed_cell_is_an_error_with_papermills_banner(tmp_path):
    process = spawn(tmp_path, ("1/0", "raises-exception"), "{}['missing']", "3")

    assert process.wait(60) == 1
    saved = read(tmp_path / "out.ipynb")
    assert "An Exception was encountered at" in saved.cells[0].source
    assert b"KeyError" in (tmp_path / "stderr").read_bytes()


def test_a_dead_kernel_is_papermills_138(tmp_path):
    process = spawn(tmp_path, "import os; os._exit(3)")

    assert process.wait(60) == 138
    assert b"the kernel died with exit status 3" in (tmp_path / "stderr").read_bytes()


def test_a_kernel_death_pickles(tmp_path):
    import pickle

    ran = execute(tmp_path, "import os; os._exit(3)")

    assert isinstance(ran.error, KernelDied)
    assert str(pickle.loads(pickle.dumps(ran.error))) == str(ran.error)


def test_a_notebook_without_a_kernel_is_told_so(tmp_path):
    nbformat.write(notebook("1", kernel=None), tmp_path / "in.ipynb")
    with pytest.raises(NotebookError, match="names no kernel"):
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), engine_name="libsafe", progress_bar=False
        )


def test_an_option_that_nobody_knows_is_refused(tmp_path):
    nbformat.write(notebook("1"), tmp_path / "in.ipynb")
    with pytest.raises(TypeError, match="exection_timeout"):
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), None, engine_name="libsafe", progress_bar=False, exection_timeout=3
        )


# ------------------------------------------------------------- at once


def test_sixteen_runs_in_threads(tmp_path):
    results = {}

    def one(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        results[number] = execute(
            folder,
            f"import os; print(os.getcwd(), {number})",
            "import time; time.sleep(0.2); print('end')",
            cwd=folder,
        )

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [results[number].outcome.status for number in range(16)] == ["completed"] * 16
    assert [results[n].text(0) for n in range(16)] == [f"{tmp_path / str(n)} {n}\n" for n in range(16)]


def test_inside_a_running_event_loop(tmp_path):
    async def caller():
        return execute(tmp_path, "print(1)")

    assert asyncio.run(caller()).text(0) == "1\n"


def test_many_runs_leave_no_descriptor_and_no_thread(tmp_path):
    execute(tmp_path, "1")
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for _ in range(5):
        execute(tmp_path, "1")

    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before
