"""Workflows whose calls are run by processes of their own run, or by a Dask cluster."""


import pytest

import libsafe_nb

NESTED = """
import libsafe_nb
depth, leaf = json_sample["function_params"]["depth"], json_sample["function_params"]["leaf"]
key = json_sample["function_params"]["nested"]
again = dict(depth=depth - 1, leaf=leaf, nested=key)
calls = [libsafe_nb.call(key, params=again) if depth else libsafe_nb.call(leaf)]
calls.append(libsafe_nb.call(leaf))
assert ["completed"] * 2 == [each.result().status for each in calls]
"""


@pytest.fixture
def nested(publish, notebook):
    """A workflow of two calls, one of which calls likewise; its path and parameters."""
    parameters = "depth: int = 0\nleaf: str = ''\nnested: str = ''"
    leaf, key = publish("print(1)"), publish(NESTED, parameters=parameters)
    return notebook(NESTED, parameters=parameters), {"depth": 1, "leaf": leaf, "nested": key}


def called(functions, job):
    return [each for each in functions.calls(order="newest") if each["root_job_id"] == job]


@pytest.mark.parametrize("workers", [1, 2])
def test_nested_calls_are_run_by_as_many_processes_as_there_are_places(
    nested, functions, container, platform, workers
):
    path, params = nested
    run = libsafe_nb.run(
        None, path, container=container, params=params, settings=platform.settings, workers=workers
    ).raise_for_failure()

    made = called(functions, run.job)
    assert [each["status"] for each in made] == ["completed"] * 4
    assert {"own"} == {functions._client.call("job_get", job=run.job)["hosts"]}
