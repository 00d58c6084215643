"""
The pytest plug-in: `def test_x(run_notebook): run = run_notebook("f.ipynb", files=[…], params={…})`.

pytest loads this in every session of an environment that has libsafe-nb, so it imports nothing of ours before a fixture
is used, and all its names but `run_notebook` begin with `libsafe_`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection
    from libsafe_nb.testing import Container, NotebookRun


@pytest.fixture(scope="session")
def libsafe_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A local LIBSAFE Go of the session's own (`.client`, `.storage`, `.settings`); with pytest-xdist each worker has one."""
    import contextlib
    import shutil

    from libsafe_nb import testing

    folder = tmp_path_factory.mktemp("libsafe")
    with contextlib.ExitStack() as ending:
        ending.callback(shutil.rmtree, folder, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            # A platform that starts with keys in its environment takes them for its own; the user's are for another.
            for name in [each for each in os.environ if each.startswith("LIBSAFE_")]:
                patch.delenv(name)
            connection = ending.enter_context(testing.platform(folder))
        yield connection


@pytest.fixture
def libsafe_container(libsafe_platform: Connection, request: pytest.FixtureRequest) -> Container:
    """An empty container of the test's own: `.id`, `.put(path, bytes)`, `.read(path)`, `.file(path)`, `.files`."""
    from libsafe_nb.testing import Container

    made = libsafe_platform.client.create_container(request.node.nodeid[-200:])
    return Container(made["id"], libsafe_platform)


@pytest.fixture
def run_notebook(libsafe_container: Container, request: pytest.FixtureRequest) -> Callable[..., NotebookRun]:
    """
    Run a function notebook in the test's own container: `run_notebook("f.ipynb", files=[…], params={…})`.

    Relative paths are looked for in the working directory, beside the test's file, and in pytest's root. `files` are
    local files, which are stored as /NAME, or paths in the container. What else `libsafe_nb.run` takes (`timeout`,
    `payload`, `limits`, …) can be given. The result has `status`, `error`, `scraps`, `evidence`, `messages`, `record`,
    `notebook`, `file(path)` and `read(path)`. A function that fails raises nothing: assert `run.status`, or call
    `run.raise_for_failure()`.
    """
    from libsafe_nb import testing
    from libsafe_nb.errors import RunCancelled
    from libsafe_nb.models import describe

    folders = [Path(), request.path.parent, request.config.rootpath]

    def find(name: str) -> Path:
        return next((folder / name for folder in folders if (folder / name).exists()), Path(name))

    def run_notebook(notebook: str | Path, **options: Any) -> NotebookRun:
        try:
            run = testing.run(libsafe_container, notebook, find=find, **options)
        except RunCancelled as exc:
            _end_session("terminated" if exc.exit_code == 143 else "interrupted")
            raise
        # A run takes the signals for its own end. Here they are meant for all of the tests.
        _end_session(run.cause)
        told = describe(run.error) if run.status != "completed" else f"evidence {run.evidence}"
        line = f"{notebook}: job {run.job} {run.status.upper()} in {run.seconds:.1f} s, {told}"
        request.node.add_report_section("call", "libsafe", line)
        return run

    return run_notebook


def _end_session(cause: str) -> None:
    if cause == "interrupted":
        raise KeyboardInterrupt
    if cause == "terminated":
        pytest.exit("terminated", returncode=143)
