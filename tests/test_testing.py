"""The pytest plug-in, as an author's own tests use it: pytest runs pytest."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_function

from libsafe_nb.processes import ProcessId

pytest_plugins = ["pytester"]

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
REQUEST = """
import json
from libnova.com.Api import File, JobMessage
from libnova.com.Nuclio.Request import Request
request = Request(None, type("Event", (), {"body": json.dumps(json_sample)})())
"""


@pytest.fixture
def tests(pytester):
    """Writes a module of tests and runs it in a pytest of its own, as a user does."""

    def tests(source, *options):
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-W", "error", *options)

    return tests


def test_a_function_is_tested_in_a_few_lines(tests, pytester):
    """The page's example, and all that a result offers, with one platform for all of the tests."""
    shutil.copy(NOTEBOOKS / "hash_files.ipynb", pytester.path / "hash.ipynb")
    (pytester.path / "letter.txt").write_text("Dear archive")
    write_function(
        pytester.path / "titles.ipynb",
        REQUEST,
        "for file in request.Files:\n"
        "    File.set_metadata(file.id, {'title': prefix + file.fullpath})\n"
        "    File.write(request.container_id, file.fullpath + '.bak', 'copy')\n"
        "    request.log('done', JobMessage.JobMessageType.INFO, file.id)",
        parameters='json_sample = {"function_data": {"container": {"id": "1"}}}\nprefix: str = ""',
    )
    write_function(pytester.path / "boom.ipynb", "raise ValueError('no such letter')")

    done = tests(
        """
        import hashlib, pytest, libsafe_nb
        from libsafe_nb import errors

        def test_hashes(run_notebook):
            run = run_notebook("hash.ipynb", files=["letter.txt"])

            assert run.status == "completed", run.error
            assert run.scraps == {"hashed": 1, "failures": 0}
            assert run.file("/letter.txt").hashes["md5"] == hashlib.md5(b"Dear archive").hexdigest()
            assert isinstance(run, libsafe_nb.Run)
            assert run.record["inputs"][0]["read"] == "full"
            assert "report.html" in [name.rsplit("/")[-1] for name in names(run)]

        def names(run):
            return [each.path for each in run.place.connection.storage.list(run.container)]

        def test_what_was_written_is_at_hand(run_notebook, libsafe_container):
            assert libsafe_container.files == []
            libsafe_container.put("/in/a.txt", "already there")

            run = run_notebook("titles.ipynb", files=["/in/a.txt", "letter.txt"], params={"prefix": "T"})

            assert run.raise_for_failure() is run
            assert run.file("/in/a.txt").metadata == {"title": "T/in/a.txt"}
            assert run.read("/letter.txt.bak") == b"copy"
            assert [each.message for each in run.messages] == ["done", "done"]
            assert libsafe_container.files == ["/in/a.txt", "/in/a.txt.bak", "/letter.txt", "/letter.txt.bak"]
            again = f"libsafe://{libsafe_container}/letter.txt"
            assert run_notebook("titles.ipynb", files=[again], params={"prefix": ""}).container == run.container

        def test_each_test_has_a_container_of_its_own(libsafe_container):
            assert libsafe_container.files == []

        def test_what_cannot_be_is_refused(run_notebook, libsafe_container):
            with pytest.raises(errors.ParameterError, match="unknown parameter 'nonsense'"):
                run_notebook("titles.ipynb", params={"nonsense": 1})
            with pytest.raises(errors.UsageError, match="not/there"):
                run_notebook("titles.ipynb", files=["not/there"])
            with pytest.raises(errors.UsageError, match="expected a file of container"):
                run_notebook("titles.ipynb", files=["libsafe://1/x"])

        def test_that_fails_tells_why(run_notebook):
            assert run_notebook("boom.ipynb").status == "completed"
        """
    )

    done.assert_outcomes(passed=4, failed=1)
    done.stdout.fnmatch_lines(["*libsafe*", "*boom.ipynb: job * FAILED in *ValueError: no such letter*"])


def test_nothing_is_imported_or_started_for_those_who_do_not_use_it(tests):
    done = tests(
        """
        import sys

        def test_modules():
            ours = {name for name in sys.modules if name.startswith("libsafe_nb")}
            assert ours == {"libsafe_nb", "libsafe_nb.pytest_plugin"}
            assert not {"papermill", "boto3", "requests", "nbformat", "IPython"} & set(sys.modules)
        """
    )

    done.assert_outcomes(passed=1)


@pytest.mark.slow
def test_workers_have_a_platform_each_and_nothing_stays(tests, pytester, monkeypatch):
    """Nor is the configured platform used: its keys and its home are left alone."""
    told = pytester.path / "told"
    told.mkdir()
    home = pytester.path / "users-home"
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.setenv("LIBSAFE_NB_HOME", str(home))
    monkeypatch.setenv("LIBSAFE_URL", "http://127.0.0.1:1/api")
    monkeypatch.setenv("LIBSAFE_KEY_USER", "a-key-of-the-user-0123456789")
    write_function(pytester.path / "f.ipynb", "1 + 1")

    done = tests(
        """
        import json, os, pathlib, pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(number, run_notebook, libsafe_platform, worker_id):
            run = run_notebook("f.ipynb")
            assert run.status == "completed", run.error
            root = pathlib.Path(libsafe_platform.settings.source).parent
            assert "a-key-of-the-user" not in (root / "platform.json").read_text()
            facts = {"root": str(root), "url": libsafe_platform.settings.url, "worker": worker_id}
            (pathlib.Path(os.environ["TOLD"]) / str(number)).write_text(json.dumps(facts))
        """,
        "-n",
        "2",
    )

    done.assert_outcomes(passed=2)
    facts = [json.loads((told / str(number)).read_text()) for number in range(2)]
    assert len({each["worker"] for each in facts}) == len({each["url"] for each in facts})
    assert not [each for each in facts if Path(each["root"]).exists()]
    assert not home.exists()


def test_a_platform_starts_within_three_seconds(tmp_path):
    """On an idle machine of two cores it takes 1.2 s; five times the promise where others are at work."""
    from libsafe_nb import testing

    began = time.monotonic()
    with testing.platform(tmp_path):
        seconds = time.monotonic() - began

    assert seconds < 15


def test_ctrl_c_ends_the_tests_and_not_only_the_run(pytester):
    """A run takes SIGINT to end itself well; the tests after it must not go on."""
    started = pytester.path / "started"
    write_function(
        pytester.path / "slow.ipynb",
        f"import time, pathlib; pathlib.Path({str(started)!r}).touch(); time.sleep(600)",
    )
    pytester.makepyfile(
        """
        import os, pathlib
        def test_slow(run_notebook, libsafe_platform):
            pathlib.Path("root").write_text(libsafe_platform.settings.source)
            run_notebook("slow.ipynb")
        def test_next():
            pathlib.Path("next").touch()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not started.exists():
            assert time.monotonic() < deadline, "it did not start"
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()

    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert not (pytester.path / "next").exists()
    assert not Path((pytester.path / "root").read_text()).exists()


def test_a_killed_session_leaves_no_platform(pytester):
    pytester.makepyfile(
        """
        import os, pathlib, signal
        from libsafe_nb.local.root import Root
        def test_it(libsafe_platform):
            root = pathlib.Path(libsafe_platform.settings.source).parent
            process = Root(root).running()
            pathlib.Path("process.json").write_text(__import__("json").dumps(process.as_dict()))
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=pytester.path, check=False, capture_output=True
    )

    platform = ProcessId.parse(json.loads((pytester.path / "process.json").read_text()))
    deadline = time.monotonic() + 60
    while platform.alive:
        assert time.monotonic() < deadline
        time.sleep(0.05)
