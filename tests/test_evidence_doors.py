"""What a run left is not written over through any door of ours by which a person or a function writes."""

import concurrent.futures

import pytest

from libsafe_nb import errors
from libsafe_nb.connection import connect
from libsafe_nb.errands import Errands
from libsafe_nb.new import new
from libsafe_nb.papermill_io import LibsafeHandler
from libsafe_nb.redact import SecretSet
from libsafe_nb.upload import upload

LINK = "provenance/chain/00000001.json"


@pytest.fixture
def errands(platform, connection, container):
    made = Errands(
        connect(settings=platform.settings),
        run="run",
        job=connection.client.create_job(container)["id"],
        payload={"function_data": {"container": {"id": container}}},
        files=[],
        secrets=SecretSet(),
        replay=None,
        answer=lambda do, fields: None,
    )
    yield made
    made.close()


@pytest.fixture
def link(connection, container):
    connection.storage.put(container, LINK, b"link")
    yield
    assert connection.storage.get(container, LINK) == b"link"


@pytest.mark.usefixtures("link")
def test_upload_new_and_papermill_refuse(tmp_path, platform, container, monkeypatch):
    (tmp_path / "00000001.json").write_text("forged")
    with pytest.raises(errors.AccessDenied, match="never changed"):
        upload(
            [tmp_path / "00000001.json"],
            container=container,
            folder="/provenance/chain",
            settings=platform.settings,
        )
    with pytest.raises(errors.AccessDenied, match="never changed"):
        new(f"libsafe://{container}/provenance/chain/f.ipynb", settings=platform.settings)
    with pytest.raises(errors.AccessDenied, match="never changed"):
        LibsafeHandler().write("forged", f"libsafe://{container}/{LINK}")


@pytest.mark.usefixtures("link")
@pytest.mark.parametrize("path", [LINK, f"/{LINK}", f"//{LINK}"])
def test_a_function_of_any_language_is_refused(errands, tmp_path, path):
    (tmp_path / "f").write_text("forged")

    with pytest.raises(errors.AccessDenied, match="never changed"):
        errands.known["put"](source=str(tmp_path / "f"), path=path)


def test_files_got_at_the_same_time_are_each_whole(errands, connection, container, tmp_path):
    """Names that share their first hundred characters once shared a temporary file."""
    ids = {}
    for letter in "AB":
        connection.storage.put(container, f"{letter}.bin", letter.encode() * (20 * 2**20))
        ids[letter] = connection.client.file_by_path(container, f"{letter}.bin")["id"]
    targets = {letter: tmp_path / ("x" * 120 + letter) for letter in "AB"}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(errands.known["get"], file_id=ids[each], target=str(targets[each])) for each in "AB"
        ]
    for each in waiting:
        each.result()

    for letter, target in targets.items():
        assert target.read_bytes() == letter.encode() * (20 * 2**20)
    assert sorted(tmp_path.iterdir()) == sorted(targets.values())


def test_a_long_name_can_be_got(errands, connection, container, tmp_path):
    connection.storage.put(container, "a.txt", b"a")
    file = connection.client.file_by_path(container, "a.txt")["id"]
    target = tmp_path / ("字" * 84)

    errands.known["get"](file_id=file, target=str(target))

    assert target.read_bytes() == b"a"
