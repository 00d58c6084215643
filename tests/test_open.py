"""What lies in a container as a copy here, and the report of a run in the browser."""

import sys

import pytest
from test_run import command

from libsafe_nb import errors, opening


@pytest.fixture
def address(connection, container):
    connection.storage.put(container, "/in/f.ipynb", b"first")
    return f"libsafe://{container}/in/f.ipynb"


def test_a_copy_has_its_own_name_and_tells_its_version(address, connection, container, platform, tmp_path):
    found = opening.copy(address, tmp_path, settings=platform.settings)

    assert found.path.read_bytes() == b"first"
    assert (found.path, found.created) == (tmp_path / "f.ipynb", True)
    assert found.version_id == connection.storage.head(container, "in/f.ipynb").version_id


def test_a_copy_that_was_changed_is_not_overwritten(address, platform, tmp_path):
    opening.copy(address, tmp_path, settings=platform.settings)
    again = opening.copy(address, tmp_path, settings=platform.settings)
    (tmp_path / "f.ipynb").write_bytes(b"other")
    with pytest.raises(errors.UsageError, match="another file already"):
        opening.copy(address, tmp_path, settings=platform.settings)

    assert not again.created
    assert (tmp_path / "f.ipynb").read_bytes() == b"other"
    assert [path.name for path in tmp_path.iterdir()] == ["f.ipynb"]


def test_what_is_not_there_leaves_nothing(container, platform, tmp_path):
    with pytest.raises(errors.UsageError, match="there is no such file"):
        opening.copy(f"libsafe://{container}/absent.ipynb", tmp_path, settings=platform.settings)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("f.ipynb", "f.ipynb"),
        ("é ü.ipynb", "é ü.ipynb"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("..", "file"),
        ("a\\b\x1b[2J:c", "a_b_[2J_c"),
        ("é" * 150 + ".ipynb", "é" * 97 + ".ipynb"),
    ],
)
def test_a_name_is_made_safe(name, safe):
    assert opening.local_name(name) == safe


def test_the_report_of_a_run_is_copied_and_shown(notebook, run, stored, platform, tmp_path, monkeypatch):
    """By a browser that is a program of ours: it writes down what it is to show."""
    done = run(notebook("1"))
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'shown')!r}, 'w').write(sys.argv[1])\n"
    )
    browser.chmod(0o755)
    (tmp_path / "to").mkdir()
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    shown = command(platform, "open", done.evidence, "--to", str(tmp_path / "to"))
    again = command(platform, "open", done.evidence.rstrip("/"), "--to", str(tmp_path / "to"), "--no-browser")

    [path] = (tmp_path / "to").iterdir()
    assert (shown.returncode, shown.stdout) == (0, f"{path}\n"), shown.stderr
    assert (tmp_path / "shown").read_text() == path.as_uri()
    assert path.read_bytes() == stored(done, "report.html")
    assert path.name == "-".join(done.evidence.strip("/").split("/")[-2:]) + ".html"
    assert again.stdout == shown.stdout


def test_the_report_in_a_local_copy_is_shown_where_it_is(notebook, run, platform, connection, tmp_path):
    done = run(notebook("1"))
    folder = tmp_path / "copied"
    folder.mkdir()
    for name in ("record.json", "report.html"):
        inside = done.evidence.removeprefix(f"libsafe://{done.container}/") + name
        connection.storage.download(done.container, inside, folder / name)

    assert opening.report(str(folder), tmp_path) == folder / "report.html"
    (folder / "report.html").unlink()
    with pytest.raises(errors.UsageError, match=r"expected a report\.html"):
        opening.report(str(folder), tmp_path)


def test_the_command(address, platform, tmp_path):
    done = command(platform, "open", address, "--to", str(tmp_path))
    local = command(platform, "open", str(tmp_path / "f.ipynb"))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/f.ipynb  version ")
    assert (local.returncode, local.stderr.count("\n")) == (2, 1)
