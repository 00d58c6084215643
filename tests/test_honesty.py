"""
Each row of the table of honesty (`honesty.py`), from outside: `libsafe-nb run` on the real local platform.

Asserted of all of them: the exit code, one sentence on stderr that names the cause, a valid notebook and a record that
agree with each other and with what the cells themselves left behind, and a job that has ended as the run did.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import honesty
import pytest
from click.testing import CliRunner
from honesty import CASES, MIB, CannotBeMade, Case, Ours, Plain

from libsafe_nb import runner
from libsafe_nb.cli import cli
from libsafe_nb.execution import Limits
from libsafe_nb.models import Run

GIB = 1024 * MIB

PAPERMILLS = {
    "completed": "completed",
    "expected-error": "completed",
    "exited": "completed",
    "not-run": "pending",
    "failed": "failed",
    "killed": "failed",
    "timed-out": "failed",
    "interrupted": "failed",
}
"""What those are told who read papermill's keys."""


def test_every_row_has_its_case():
    assert {case.row for case in CASES} == set(honesty.ROWS)
    assert len({case.key for case in CASES}) == len(CASES)


@pytest.fixture(scope="session")
def answer_to(platform, tmp_path_factory):
    """Runs a case, once however many tests look at its answer."""
    answers: dict[str, honesty.Answer] = {}

    def answer_to(case):
        if case.key not in answers:
            folder = tmp_path_factory.mktemp(f"row-{case.row}-")
            try:
                answers[case.key] = honesty.ours(case, folder, platform.settings)
            except CannotBeMade as exc:
                pytest.skip(str(exc))
        return answers[case.key]

    return answer_to


@pytest.mark.parametrize("case", CASES, ids=[case.key for case in CASES])
def test_a_row_of_the_table(case, answer_to):
    answer, expected = answer_to(case), case.ours

    assert answer.exit == expected.exit, answer.stderr
    assert answer.job == expected.job
    assert answer.seconds < expected.within
    assert answer.secrets == 0
    assert_one_sentence(case, answer)
    if expected.status is None:
        assert (answer.stdout, answer.record, answer.began) == ("", None, set())
        return
    assert_record(answer, case)
    assert_true(answer)
    if expected.seen_within is not None:
        assert answer.seen < expected.seen_within
    if not case.recovered:
        assert answer.told["status"] == expected.status
        assert answer.told["error"] == answer.record["error"]
    if case.row in (13, 14):
        # 200 MB, of which our memory holds little.
        assert answer.peak < 275 * MIB


def assert_one_sentence(case: Case, answer):
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == (1 if answer.exit > 0 else 0), answer.stderr
    assert [each for each in case.ours.told if each not in answer.stderr] == []
    if case.ours.job == "FAILED" and not case.recovered:
        # Whoever looks at the job only is told as much.
        assert [each for each in case.ours.told if not any(each in text for text in answer.messages)] == []


def assert_record(answer, case: Case):
    """Record and notebook are those of `case`, and one."""
    record, expected = answer.record, case.ours
    told = answer.notebook.metadata.libsafe_nb

    assert answer.file == "valid"
    assert answer.size < 12 * MIB if case.row != 6 else answer.size < 32 * MIB
    assert (record["status"], record["cause"]) == (expected.status, expected.cause)
    assert answer.cells == list(expected.cells)
    assert (told.status, told.cause) == (record["status"], record["cause"]) or record["cause"] == "save"
    assert (record["error"] is None) == (expected.status == "completed")
    assert record["notebook"]["size"] == answer.size
    by_id = {each["cell_id"]: each["status"] for each in record["cells"]}
    for cell, state in zip(honesty.own_cells(answer.notebook), answer.cells, strict=True):
        assert by_id[cell.id] == state
        assert cell.metadata.papermill.status == PAPERMILLS[state]
    if record["cause"] != "save":
        assert answer.exception is (None if expected.status == "completed" else True)
    if case.row not in (9, 10):
        # How much an endless cell prints depends on the machine.
        assert bool(record["truncated"]) == (case.row in (13, 14))


def assert_true(answer):
    """What is told of the cells is what they did, by the files that they made."""
    assert answer.lies == []
    for number, state in enumerate(answer.cells):
        assert (number in answer.began) == (state != "not-run")
        assert (number in answer.ended) == (state == "completed")
    if answer.working_copy:
        # What a killed runner left says nothing either that is not so.
        assert not [
            n for n, s in enumerate(answer.working_copy) if s == "completed" and n not in answer.ended
        ]


# ------------------------------------------------------------- a run's limits on the command line


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ([], Limits()),
        (["--cell-timeout", "1.5", "--hung", "7"], Limits(cell_timeout=1.5, hung=7)),
        (["--hung", "0"], Limits(hung=None)),
        (["--memory", "4G", "--cpu", "90"], Limits(memory=4 * GIB, cpu=90)),
        (["--memory", "3000000000"], Limits(memory=3_000_000_000)),
        (["--memory", "512m"], Limits(memory=512 * MIB)),
        (["--memory", "70000K"], Limits(memory=70_000 * 1024)),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["run", "exec"])
def test_options_become_limits(command, options, limits, monkeypatch):
    given = {}

    def run(payload, notebook, **named):
        given.update(named)
        return Run("id", "1", "1", status="completed")

    monkeypatch.setattr(runner, "run", run)
    done = CliRunner().invoke(cli, [command, "f", *options])

    assert done.exit_code == 0, done.output
    assert given["limits"] == limits


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[
            (name, value)
            for name in ("--cell-timeout", "--timeout")
            for value in ("0", "-1", "nan", "inf", "1s", "")
        ],
        *[("--hung", value) for value in ("-1", "0.5", "nan", "inf", "off")],
        *[
            ("--memory", value)
            for value in ("0", "-4G", "1.5G", "4GB", "G", "1000", "63M", "9" * 15 + "G", "")
        ],
        *[("--cpu", value) for value in ("0", "-1", "1.5", "nan", "9" * 30)],
    ],
)
def test_a_limit_that_is_none_is_bad_usage(option, value, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *_, **__: pytest.fail("it was started"))
    done = CliRunner().invoke(cli, ["run", "f.ipynb", option, value])

    assert done.exit_code == 2
    assert option in done.output


LIMITED = [
    (
        "--memory",
        "3G",
        "x = bytes(4 * 2**30)",
        Ours(1, "failed", "cell-error", ("failed",), "FAILED", ("MemoryError",)),
    ),
    (
        "--cpu",
        "3",
        "while True: pass",
        Ours(3, "errored", "cpu-limit", ("killed",), "FAILED", ("more than 3 s of CPU",)),
    ),
]


@pytest.mark.parametrize(("option", "value", "source", "told"), LIMITED, ids=["memory", "cpu"])
def test_a_limit_holds(option, value, source, told, tmp_path, platform):
    case = Case(0, option, (source,), Plain(None, "", "", ""), told, options=(option, value))
    answer = honesty.ours(case, tmp_path, platform.settings)

    assert (answer.exit, answer.job) == (told.exit, told.job), answer.stderr
    assert_one_sentence(case, answer)
    assert_record(answer, case)
    assert_true(answer)


# ------------------------------------------------------------- what else is told


def test_a_notebook_without_a_parameters_cell_is_nothing_to_warn_of(tmp_path, platform):
    found = next(case for case in CASES if case.row == 17)
    answer = honesty.ours(dataclasses.replace(found, parameters_cell=False), tmp_path, platform.settings)

    assert (answer.exit, answer.stderr) == (0, "")


def test_a_broken_kernel_environment_starts_nothing(tmp_path, platform, monkeypatch):
    """A kernel whose Python is gone, and one whose Python lacks what a run needs."""
    for name, program, told in (
        ("gone", "/nowhere/python", "jupyter kernelspec remove gone"),
        ("bare", "{bare}", "-m pip install libsafe-nb"),
    ):
        folder = tmp_path / name
        spec = folder / "jupyter" / "kernels" / name
        spec.mkdir(parents=True)
        bare = folder / "python"
        # The system's modules only: no ipykernel, no extension.
        bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        bare.chmod(0o755)
        argv = [program.replace("{bare}", str(bare)), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        text = json.dumps({"argv": argv, "display_name": name, "language": "python"})
        (spec / "kernel.json").write_text(text)
        monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        case = Case(0, name, ("1",), Plain(None, "", "", ""), Ours(2, told=(name, told)), kernel=name)
        answer = honesty.ours(case, folder, platform.settings)

        assert (answer.exit, answer.job, answer.began) == (2, None, set()), answer.stderr
        assert_one_sentence(case, answer)


def test_a_secret_typed_in_is_refused_as_input_is(run, notebook, connection, stored):
    done = run(notebook("import getpass; getpass.getpass()"))

    assert (done.status, done.exit_code) == ("failed", 1)
    for told in (
        done.error["message"],
        json.loads(stored(done, "record.json"))["error"]["message"],
        " ".join(each["message"] for each in connection.client.messages(done.job)),
    ):
        assert "nobody at the keyboard" in told
        assert "parameter" in told
