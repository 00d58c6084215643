"""`import libnova`: the vendor's library always wins; otherwise every import line seen in public works."""

import importlib
import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from libsafe_nb import compat

IMPORTS = [
    "from libnova import com, Util; com.Nuclio.Request.Request; com.Api.File.get_metadata; Util.format_json_item",
    "from libnova.com import Nuclio; Nuclio.Request.Request",
    "from libnova.com.Nuclio import Request; Request.Request",
    "from libnova.com.Nuclio.Request import Request; Request(None, type('', (object,), {'body': b'x'})) if 0 else 0",
    "from libnova.com.Api import Driver, Container, File, Job, JobMessage; JobMessage.JobMessageType.INFO",
    "from libnova.com.Filesystem import S3; S3.File.get_stream; S3.Storage.Storage",
    "from libnova.com.Filesystem.S3 import File as S3File, Storage; S3File.get_stream",
    "from libnova.common.nuclio.Request import Request; Request.job_end",
    "from libnova.common.api import File; File.set_metadata_values",
    "from libnova.common.api.JobMessage import JobMessageType; JobMessageType.ERROR",
    "from libnova.common.filesystem.s3 import File as S3File, Storage; S3File.get_stream",
    "from libnova.common.filesystem import S3; S3.File.get_stream",
    "from libnova.common import Util; Util.format_json_item",
    "import libnova; libnova.com.Filesystem.S3.File.get_stream",
    "import libnova.com.Api.File as F; F.set_hash",
    "import libnova.common.api.JobMessage; libnova.common.api.JobMessage.JobMessageType.DEBUG",
]


@pytest.fixture
def offered():
    compat.install()
    yield
    compat.uninstall()


def fresh(code, *arguments, cwd=None):
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def vendor(tmp_path):
    """A library of the vendor's name and outer shape, as a directory of packages."""
    for name in ("libnova", "libnova/com", "libnova/com/Api"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "libnova/com/Api/File.py").write_text("WHOSE = 'vendor'\n")
    return tmp_path


@pytest.mark.parametrize("line", IMPORTS, ids=lambda line: line.partition(";")[0])
def test_each_import_line_works_as_the_first(offered, line):
    exec(line, {})


def test_both_layouts_are_one(offered):
    old = importlib.import_module("libnova.com.Nuclio.Request")
    new = importlib.import_module("libnova.common.nuclio.Request")

    assert old.Request is new.Request
    assert importlib.import_module("libnova.com.Api.File") is importlib.import_module(
        "libnova.common.api.File"
    )


def test_it_says_that_it_is_the_standin(offered):
    libnova = importlib.import_module("libnova")

    assert "not the vendor's library" in libnova.__doc__
    assert compat.which()["library"] == "stand-in"
    assert compat.which()["loaded"] is True
    help_page = fresh("from libsafe_nb import compat; compat.install(); import libnova; help(libnova)")
    assert any("stand-in for the vendor's `libnova`" in line for line in help_page)


def test_a_name_that_it_lacks_is_told_with_those_it_has(offered):
    with pytest.raises(
        ImportError, match=r"no 'libnova\.com\.Api\.Workflow'; libnova\.com\.Api offers Container, Driver"
    ):
        exec("from libnova.com.Api import Workflow", {})
    assert not hasattr(importlib.import_module("libnova.com.Api"), "Workflow")


def test_installing_twice_is_installing_once_and_can_be_undone():
    compat.install()
    compat.install()
    finders = [each for each in sys.meta_path if type(each).__name__ == "StandInFinder"]
    importlib.import_module("libnova.com.Api")
    compat.uninstall()

    assert len(finders) == 1
    assert compat.which()["library"] == "none"
    assert not [name for name in sys.modules if name.split(".")[0] == "libnova"]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("libnova")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_vendors_directory_wins(vendor, when):
    code = f"""
        import sys
        from libsafe_nb import compat
        {"sys.path.append(sys.argv[1])" if when == "before" else "pass"}
        compat.install()
        {"sys.path.append(sys.argv[1])" if when == "after" else "pass"}
        from libnova.com.Api import File
        print(File.WHOSE, compat.which()["library"], compat.which()["origin"])
        try:
            import libnova.common
        except ModuleNotFoundError as exc:
            print(exc)
    """
    first, second = fresh(code, vendor)

    assert first == f"vendor vendor {vendor}/libnova/__init__.py"
    assert second == "No module named 'libnova.common'"


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_vendors_editable_install_wins(vendor, when):
    """Editable installs put a finder of their own at the end of sys.meta_path, perhaps after ours."""
    code = f"""
        import importlib.util, sys
        from libsafe_nb import compat

        class Editable:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "libnova":
                    place = sys.argv[1] + "/libnova"
                    return importlib.util.spec_from_file_location(
                        name, place + "/__init__.py", submodule_search_locations=[place])

        {"sys.meta_path.append(Editable)" if when == "before" else "pass"}
        compat.install()
        {"sys.meta_path.append(Editable)" if when == "after" else "pass"}
        print(compat.which()["library"], compat.which()["loaded"])
        from libnova.com.Api import File
        print(File.WHOSE, compat.which()["library"], compat.which()["loaded"])
    """

    assert fresh(code, vendor) == ["vendor False", "vendor vendor True"]


def test_another_library_of_that_name_is_named(tmp_path):
    """PyPI's `libnova` is something else."""
    (tmp_path / "libnova.py").write_text("__version__ = '0.1.14'\n")
    code = "import sys; sys.path.append(sys.argv[1]); from libsafe_nb import compat; compat.install(); import libnova; print(compat.which())"

    (line,) = fresh(code, tmp_path)

    assert eval(line) == {
        "library": "other",
        "origin": str(tmp_path / "libnova.py"),
        "version": "0.1.14",
        "loaded": True,
    }


def test_the_version_of_an_installed_library_is_told(vendor):
    (vendor / "vendor_sdk-2.1.dist-info").mkdir()
    (vendor / "vendor_sdk-2.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: vendor-sdk\nVersion: 2.1\n"
    )
    (vendor / "vendor_sdk-2.1.dist-info/top_level.txt").write_text("libnova\n")
    code = "import sys; sys.path.append(sys.argv[1]); from libsafe_nb import compat; print(compat.which()['version'])"

    assert fresh(code, vendor) == ["2.1"]


def test_importing_it_imports_nothing_heavy(offered):
    code = """
        import sys
        from libsafe_nb import compat
        compat.install()
        from libnova.com.Nuclio.Request import Request
        print([each for each in ("requests", "boto3", "papermill", "pandas") if each in sys.modules])
    """

    assert fresh(code) == ["[]"]


def test_every_public_call_is_in_the_docs(offered):
    from libsafe_nb.compat import layout

    page = (Path(__file__).parent.parent / "docs" / "libnova.md").read_text()
    for name in layout.MODULES:
        importlib.import_module("libnova")
        assert name.removeprefix("libnova.").replace(".s3.", ".S3.") in page
        for call in sys.modules[name].__all__:
            assert f"{call}(" in page or f"`{call}" in page, f"{name}.{call}"
