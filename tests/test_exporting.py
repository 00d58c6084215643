"""What `export nuclio` writes is a Nuclio function, holds no key, and works where only it was installed."""

import json
import os
import re
import subprocess
import sys
import venv

import pytest
import yaml
from conftest import write_function
from environs import variables
from handler_samples import NEWER
from nbformat.v4 import new_code_cell
from test_run import REAL, ROOT, command

from libsafe_nb import errors
from libsafe_nb.exporting import export, imports

TEXT, NUMBER, OBJECT, LIST = str, int, dict, list
# Nuclio publishes no schema of its function configuration. These are the parts that we write, as its documentation has
# them: docs.nuclio.io, "Function-Configuration Reference" (metadata, spec) and "HTTP trigger" (triggers).
REFERENCE = {
    ".apiVersion": TEXT,
    ".kind": TEXT,
    ".metadata": OBJECT,
    ".metadata.name": TEXT,
    ".metadata.annotations": OBJECT,
    ".spec": OBJECT,
    ".spec.description": TEXT,
    ".spec.handler": TEXT,
    ".spec.runtime": TEXT,
    ".spec.env": LIST,
    ".spec.env[].name": TEXT,
    ".spec.env[].value": TEXT,
    ".spec.env[].valueFrom": OBJECT,
    ".spec.env[].valueFrom.secretKeyRef": OBJECT,
    ".spec.env[].valueFrom.secretKeyRef.name": TEXT,
    ".spec.env[].valueFrom.secretKeyRef.key": TEXT,
    ".spec.minReplicas": NUMBER,
    ".spec.maxReplicas": NUMBER,
    ".spec.triggers": OBJECT,
    ".spec.triggers.http": OBJECT,
    ".spec.triggers.http.kind": TEXT,
    ".spec.triggers.http.numWorkers": NUMBER,
    ".spec.build": OBJECT,
    ".spec.build.commands": LIST,
}


def places(value, place=""):
    """Each place in a configuration with its value; the names within `annotations` are anybody's."""
    if place:
        yield place, value
    if isinstance(value, dict) and place != ".metadata.annotations":
        for name, each in value.items():
            yield from places(each, f"{place}.{name}")
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, dict):
                for name, inner in each.items():
                    yield from places(inner, f"{place}[].{name}")
            else:
                assert isinstance(each, str), place


@pytest.fixture
def function(tmp_path):
    described = {"libsafe": {"title": "Hashes", "description": "Adds it: é", "version": "1"}}
    return write_function(
        tmp_path / "Hash files_2.ipynb",
        "import yaml, os.path\nfrom nbformat import v4\n%matplotlib inline\nimport nowhere_at_all",
        parameters='json_sample = {}\ntoken: "Secret" = ""',
        metadata=described,
    )


def test_the_folder_is_a_nuclio_function(function, tmp_path):
    written = export(function, tmp_path / "out")

    assert sorted(path.name for path in written) == [
        "Dockerfile",
        "Hash files_2.ipynb",
        "function.yaml",
        "requirements.txt",
    ]
    config = yaml.safe_load((tmp_path / "out" / "function.yaml").read_text())
    for place, value in places(config):
        assert place in REFERENCE, place
        assert type(value) is REFERENCE[place], place
    assert (config["apiVersion"], config["kind"]) == ("nuclio.io/v1", "NuclioFunction")
    assert config["metadata"]["name"] == "hash-files-2"
    spec = config["spec"]
    assert spec["description"] == "Adds it: é"
    assert spec["runtime"] in ("python:3.11", "python:3.12")
    module, _, name = spec["handler"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    values = {each["name"]: each.get("value") for each in spec["env"]}
    assert values["LIBSAFE_NB_FUNCTION"] == "/opt/nuclio/Hash files_2.ipynb"
    assert values["LIBSAFE_SECRET_TOKEN"] is None
    assert (tmp_path / "out" / function.name).read_bytes() == function.read_bytes()


def test_requirements_are_what_it_imports_in_the_versions_that_are_here(function, tmp_path):
    export(function, tmp_path / "out")
    lines = (tmp_path / "out" / "requirements.txt").read_text().splitlines()

    assert lines[0].startswith("libsafe-nb==")
    pinned = [line.partition("==")[0] for line in lines if not line.startswith("#")]
    assert pinned == ["libsafe-nb", "nbformat", "pyyaml"]
    assert "nowhere_at_all" in lines[-1]


def test_each_line_of_the_dockerfile_copies_what_is_there(function, tmp_path):
    export(function, tmp_path / "out")
    text = (tmp_path / "out" / "Dockerfile").read_text()

    for line in text.splitlines():
        if line.startswith("COPY ["):
            *sources, _ = json.loads(line.removeprefix("COPY "))
            assert all((tmp_path / "out" / each).exists() for each in sources), line
    assert "{" not in text.replace("${", "")


def test_no_registry_is_named(function, tmp_path):
    """Where images come from is whoever builds one to say; a name without a host is the builder's own default."""
    for path in export(function, tmp_path / "out"):
        images = re.findall(r"^(?:ARG \w*IMAGE\w*=|FROM )(\S+)", path.read_text(), re.MULTILINE)
        assert not [each for each in images if "." in each.partition("/")[0] and "/" in each], path
    text = (tmp_path / "out" / "Dockerfile").read_text()
    assert "\nARG NUCLIO_ONBUILD_IMAGE\n" in text
    assert "--build-arg NUCLIO_ONBUILD_IMAGE=" in text


@pytest.mark.parametrize("name", ["json.py", "requests.py", "libnova.py", "_nuclio_wrapper.py"])
def test_a_file_that_would_hide_a_module_from_nuclio_is_refused(name, tmp_path):
    (tmp_path / name).write_text(NEWER)
    with pytest.raises(errors.UsageError, match=f"{name}: expected a name that no module has"):
        export(tmp_path / name, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_no_key_is_written(function, tmp_path, platform):
    done = command(platform, "export", "nuclio", str(function), "--to", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (tmp_path / "out" / "Dockerfile").write_text("mine")
    (tmp_path / "out" / "function.yaml").unlink()
    again = command(platform, "export", "nuclio", str(function), "--to", str(tmp_path / "out"))

    assert (again.returncode, "--force" in again.stderr) == (2, True)
    assert (tmp_path / "out" / "Dockerfile").read_text() == "mine"
    assert not (tmp_path / "out" / "function.yaml").exists()
    assert (
        command(
            platform, "export", "nuclio", str(function), "--to", str(tmp_path / "out"), "--force"
        ).returncode
        == 0
    )
    keys = [platform.settings.key_user, platform.settings.s3.secret_key, platform.settings.s3.access_key]
    for path in (tmp_path / "out").iterdir():
        assert not [key for key in keys if key in path.read_text()], path


def test_a_function_with_a_key_in_it_or_of_another_language_is_refused(tmp_path):
    pasted = write_function(tmp_path / "pasted.ipynb", new_code_cell(f"api_key = '{REAL}'"))
    spec = {"name": "bash", "display_name": "Bash", "language": "bash"}
    other = write_function(tmp_path / "other.ipynb", "ls", metadata={"kernelspec": spec})
    for path, said in ((pasted, "LSN001"), (other, "bash"), (tmp_path / "absent.py", "cannot be read")):
        with pytest.raises(errors.NotebookError, match=said):
            export(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_imports_are_found_by_syntax():
    assert imports(
        [
            "import a.b as c, d\nfrom e.f import g\nfrom . import h\n!pip install i\ndef f():\n    import j",
            "%%bash\nimport k",
        ]
    ) == {"a", "d", "e", "j"}


HARNESS = """
import json, os, sys
import nuclio_sdk, nuclio_sdk.json_encoder, nuclio_sdk.logger

# As Nuclio's wrapper does: the entry point is loaded by its name, its module begun, and each event answered.
module_name, _, name = sys.argv[1].partition(":")
module = __import__(module_name)
for part in module_name.split(".")[1:]:
    module = getattr(module, part)
entry = getattr(module, name)
logger = nuclio_sdk.Logger("DEBUG")
logger.set_handler("default", sys.stderr, nuclio_sdk.logger.JSONFormatter())
context = nuclio_sdk.Context(logger, worker_id=0, trigger=nuclio_sdk.TriggerInfo("http", "http"))
sys.modules[entry.__module__].init_context(context)
encoder = nuclio_sdk.json_encoder.Encoder()
for line in sys.stdin:
    returned = entry(context, nuclio_sdk.Event(body=line.encode()))
    print(encoder.encode(nuclio_sdk.Response.from_entrypoint_output(encoder.encode, returned)), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_exported_folder_works_in_an_environment_of_its_requirements_alone(
    tmp_path, platform, connection, container
):
    (tmp_path / "relate.py").write_text(NEWER)
    out = tmp_path / "out"
    export(tmp_path / "relate.py", out)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "wheels"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    # What Nuclio's image brings beside the function's own.
    install = [python, "-m", "pip", "install", "--quiet", "--find-links", str(tmp_path / "wheels")]
    subprocess.run(
        [*install, "nuclio-sdk", "-r", str(out / "requirements.txt")], check=True, capture_output=True
    )

    connection.storage.put(container, "/a.txt", b"a")
    file = connection.client.file_by_path(container, "a.txt")["id"]
    payload = {
        "api": {"url": platform.url, "key_user": platform.settings.key_user},
        "function_data": {"container": {"id": container}, "files": {"ids": [file], "paths": []}},
        "function_params": {"record": "9"},
    }
    config = yaml.safe_load((out / "function.yaml").read_text())
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LIBSAFE_NB_HOME": str(tmp_path / "state")}
    environ["LIBSAFE_NB_FUNCTION"] = str(out / "relate.py")
    given = {
        name: value for name, value in variables(platform.settings).items() if name.startswith("LIBSAFE_S3")
    }
    done = subprocess.run(
        [python, "-c", HARNESS, config["spec"]["handler"]],
        input=json.dumps(payload) + "\n{\n",
        env=environ | given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["status_code"], json.loads(first["body"])["status"]) == (200, "completed"), first
    assert second["status_code"] == 400
    assert connection.client.metadata(file)[0]["value"] == ["aspace:/repositories/2/archival_objects/9"]
