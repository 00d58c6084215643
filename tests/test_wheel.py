"""What a user installs: a built wheel, in a fresh environment, outside the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def test_notebooks_and_templates_travel_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    for folder in ("notebooks", "templates"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and ".ipynb_checkpoints" not in path.parts:
                assert f"libsafe_nb/{folder}/{path.relative_to(ROOT / folder)}" in names


def test_no_top_level_libnova_and_no_pth_file(wheel):
    """Either would shadow the vendor's own library."""
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0].split("-")[0] for name in names} == {"libsafe_nb"}
    assert not [name for name in names if name.endswith(".pth")]


# A kernel as Jupyter finds and starts it, and what its cell prints.
ASK = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name=sys.argv[1])
print(manager.kernel_spec.display_name)
try:
    client.execute_interactive("import libnova\\n%libsafe", timeout=60)
finally:
    client.stop_channels()
    manager.shutdown_kernel()
"""


def of_our_kernel(notebook, target):
    """A copy of a notebook that names the kernel which the wheel brings."""
    found = json.loads(Path(notebook).read_text())
    found["metadata"]["kernelspec"] = {
        "name": "libsafe",
        "display_name": "LIBSAFE Go (Python)",
        "language": "python",
    }
    target.write_text(json.dumps(found))
    return str(target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "alone",
    [
        pytest.param(False, id="what it needs is that of this environment"),
        pytest.param(True, id="with what it asks for"),
    ],
)
def test_the_installed_wheel_runs_a_notebook_of_its_own(alone, wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=alone)
    python = tmp_path / "venv" / "bin" / "python"
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LIBSAFE_NB_HOME": str(tmp_path / "state")}
    install = ["-m", "pip", "install", "--quiet"]
    if alone:
        subprocess.run([python, *install, f"{wheel}[local]"], check=True, capture_output=True)
    else:
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, *install[2:], "--no-deps", str(wheel)],
            check=True,
            capture_output=True,
        )
        (packages,) = tmp_path.glob("venv/lib/*/site-packages")
        (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
        environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")
    sample = tmp_path / "a file.txt"
    sample.write_text("hello")
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    find = "import libsafe_nb, pathlib; print(pathlib.Path(libsafe_nb.__file__).parent / 'notebooks' / 'hash_files.ipynb')"
    options = {"env": environ | kept, "cwd": tmp_path, "capture_output": True, "text": True}
    notebook = subprocess.run([python, "-c", find], check=True, **options).stdout.strip()
    assert notebook.startswith(str(tmp_path))
    assert (tmp_path / "venv" / "share" / "jupyter" / "kernels" / "libsafe" / "logo-svg.svg").exists()
    for kernel, title in (("libsafe", "LIBSAFE Go (Python)"), ("python3", "Python 3 (ipykernel)")):
        asked = subprocess.run([python, "-c", ASK, kernel], check=True, **options).stdout
        assert asked.startswith(f"{title}\n")
        assert "Usage: %libsafe" in asked
    ours = of_our_kernel(notebook, tmp_path / "ours.ipynb")

    program = str(tmp_path / "venv" / "bin" / "libsafe-nb")
    subprocess.run([program, "new", "mine", "--template", "per_file"], check=True, **options)
    assert "# Mine" in (tmp_path / "mine.ipynb").read_text()
    try:
        done = subprocess.run(
            [program, "run", notebook, "--upload", str(sample), "--json"], check=False, **options
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["outcome"] == "COMPLETED"
        again = subprocess.run(
            [program, "run", ours, "--upload", str(sample), "--json"], check=False, **options
        )
        assert json.loads(again.stdout)["outcome"] == "COMPLETED", again.stderr
        assert json.loads(again.stdout)["container"] == json.loads(done.stdout)["container"], (
            "joined, not started anew"
        )
    finally:
        stopped = subprocess.run([program, "local", "stop"], check=False, **options)
    assert stopped.returncode == 0, stopped.stderr
    assert not (tmp_path / "state" / "platform" / "platform.json").exists()
