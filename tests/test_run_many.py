"""`libsafe_nb.run_many`: many payloads, one after the other in their own time, on any executor."""

import itertools
import os
import pickle
import signal
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor

import pytest
from conftest import PARAMETERS, takes, write_function
from environs import variables

import libsafe_nb
from libsafe_nb import many
from libsafe_nb.crew import Crew
from libsafe_nb.errors import UsageError


@pytest.fixture(autouse=True)
def found_by_settings(platform, monkeypatch):
    """Workers find the platform by themselves."""
    for name, value in variables(platform.settings).items():
        monkeypatch.setenv(name, value)


def payload(container, **params):
    return {"function_data": {"container": {"id": container}}, "function_params": params}


@pytest.fixture
def function(tmp_path):
    return write_function(
        tmp_path / "f.ipynb",
        "n = json_sample['function_params']['n']\nassert n != 1, 'one is bad'",
        parameters=takes("n"),
    )


def test_each_payload_has_its_run_and_one_that_fails_stops_no_other(function, container):
    payloads = [payload(container, n=0), payload(container, n=1), {"nonsense": 1}, payload(container, n=2)]
    told = []
    runs = {
        run.number: run for run in libsafe_nb.run_many(payloads, function, workers=2, on_result=told.append)
    }

    assert [runs[number].status for number in range(4)] == ["completed", "failed", "errored", "completed"]
    assert (runs[2].exit_code, runs[2].job) == (2, "")
    assert runs[2].error["type"] == "PayloadError"
    assert len({runs[number].job for number in (0, 1, 3)}) == 3
    assert all(runs[number].evidence for number in (0, 1, 3))
    assert sorted(run.number for run in told) == [0, 1, 2, 3]


def test_payloads_are_taken_as_there_is_room(function, container):
    """A million of them is never made a list; what was begun when one leaves is cancelled."""
    taken = []

    def payloads():
        for number in itertools.count():
            taken.append(number)
            yield payload(container, n=0)

    with ThreadPoolExecutor(1) as executor:
        runs = libsafe_nb.run_many(payloads(), function, executor=executor, in_flight=2)
        assert taken == []
        assert next(runs).status == "completed"
        assert len(taken) <= 3
        runs.close()
    assert len(taken) <= 3


def test_a_dead_process_of_the_crew_takes_only_its_own_task_with_it():
    with Crew(1) as crew:
        dead = crew.submit(signal.raise_signal, signal.SIGKILL)
        alive = crew.submit(os.getpid)
        with pytest.raises(BrokenExecutor):
            dead.result(60)
        assert alive.result(60) != os.getpid()
        with pytest.raises(ZeroDivisionError):
            crew.submit(divmod, 1, 0).result(60)


def test_no_key_goes_to_the_workers(platform, function, container):
    api = {
        "url": platform.settings.url,
        "key_user": platform.settings.key_user,
        "key_root": platform.settings.key_root,
    }
    sent = []

    class Looking(ThreadPoolExecutor):
        def submit(self, fn, *args, **kwargs):
            sent.append(pickle.dumps((fn, args, kwargs)))
            done = Future()
            done.set_result(libsafe_nb.Run("r", "1", container, status="completed"))
            return done

    with Looking(1) as executor:
        (run,) = libsafe_nb.run_many([{"api": api, **payload(container, n=0)}], function, executor=executor)
    assert run.status == "completed"
    for key in (platform.settings.key_user, platform.settings.key_root):
        assert key.encode() not in sent[0]


def test_a_payload_with_a_key_of_another_platform_is_refused(function, container):
    api = {"url": "http://127.0.0.1:9/api", "key_user": "another-users-key-0123456789"}
    (run,) = libsafe_nb.run_many(
        [{"api": api, **payload(container, n=0)}], function, executor=ThreadPoolExecutor(1)
    )

    assert (run.status, run.exit_code) == ("errored", 2)
    assert "another-users-key" not in run.error["message"]


def test_the_value_of_a_secret_parameter_is_refused(container, tmp_path):
    path = write_function(tmp_path / "s.ipynb", parameters=PARAMETERS + '\ntoken: "Secret" = ""')
    (run,) = libsafe_nb.run_many([payload(container, token="s3cr3t")], path, executor=ThreadPoolExecutor(1))

    assert run.exit_code == 2
    assert "token is a secret" in run.error["message"]


def test_a_worker_that_dies_is_told_as_an_errored_run():
    dead = Future()
    dead.set_exception(BrokenExecutor("gone"))

    run = many._outcome(dead)
    assert (run.status, run.error["type"], run.exit_code) == ("errored", "ExecutionError", 3)


def test_a_notebook_that_is_not_there_is_told_at_once(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        next(libsafe_nb.run_many([], tmp_path / "none.ipynb"))
