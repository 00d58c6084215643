"""The Lab on a container, in a real browser."""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT
from environs import variables
from labs import CLEAN, SEEN, create, lab, opened, ready, save, served, type_cell

from libsafe_nb.client import Client

pytest.importorskip("jupyterlab", reason="the extra `lab` is not installed")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def container(connection):
    """The one container of the Lab; each test makes names of its own in it."""
    return connection.client.create_container("lab")["id"]


@pytest.fixture(scope="module")
def address(browser, platform, container, tmp_path_factory):
    with lab(container, variables(platform.settings), tmp_path_factory.mktemp("lab")) as address:
        yield address


@pytest.fixture
def page(browser, address):
    page = opened(browser, address)
    yield page
    page.context.close()


@pytest.fixture
def read(connection, container):
    """What the container holds under a path, as bytes of S3."""
    return lambda path: connection.storage.get(container, path)


def test_a_function_made_from_the_launcher_is_run_and_its_bytes_are_in_s3(page, read):
    create(page, "Count the letters")
    type_cell(page, "print(6 * 7)").get_by_text("42").wait_for()
    save(page)
    stored = json.loads(read("count-the-letters.ipynb"))

    assert stored["metadata"]["libsafe"]["title"] == "Count the letters"
    parameters = next(each for each in stored["cells"] if "parameters" in each["metadata"].get("tags", []))
    assert '"key": "count-the-letters"' in "".join(parameters["source"])
    assert "".join(stored["cells"][-1]["source"]) == "print(6 * 7)"
    assert "".join(stored["cells"][-1]["outputs"][0]["text"]) == "42\n"


def test_the_menu_the_context_menu_and_the_palette_offer_it_too(page, read):
    page.locator(".lm-MenuBar-item", has_text="File").click()
    page.locator(".lm-Menu-item[data-type=submenu]", has_text=re.compile("^New$")).click()
    page.locator(".lm-Menu-item", has_text="LIBSAFE Go function").click()
    page.locator(".jp-Dialog").get_by_text("Cancel", exact=True).click()
    page.locator(".jp-DirListing-content").click(button="right", position={"x": 90, "y": 500})
    page.locator(".lm-Menu-item", has_text="New LIBSAFE Go function").click()
    page.locator(".jp-Dialog input[name=title]").fill("From the context menu")
    page.keyboard.press("Enter")
    ready(page)

    assert b"# From the context menu" in read("from-the-context-menu.ipynb")


def test_an_uploaded_notebook_is_opened(page, read):
    sample = ROOT / "notebooks" / "hash_files.ipynb"
    with page.expect_file_chooser() as chooser:
        page.locator(
            ".jp-FileBrowser-toolbar [data-command='filebrowser:upload'], [title^='Upload Files']"
        ).first.click()
    chooser.value.set_files(sample)
    page.locator(".jp-DirListing-item", has_text="hash_files.ipynb").dblclick()
    ready(page)

    assert json.loads(read("hash_files.ipynb")) == json.loads(sample.read_bytes())


def test_what_someone_else_stored_meanwhile_is_told_and_both_are_kept(page, read, connection, container):
    create(page, "Written by two")
    theirs = read("written-by-two.ipynb").replace(b"Written by two", b"Written by another")
    connection.storage.put(container, "written-by-two.ipynb", theirs)
    type_cell(page, "mine = 1")
    page.keyboard.press("Control+s")
    dialog = page.locator(
        ".jp-Dialog", has_text="has changed on disk since the last time it was opened or saved"
    )
    dialog.get_by_text("Overwrite", exact=True).click()
    page.locator(CLEAN).wait_for()
    kept = [
        connection.storage.get(container, each.path, version_id=each.version_id)
        for each in connection.storage.versions(container, "written-by-two.ipynb")
    ]

    assert b"mine = 1" in read("written-by-two.ipynb")
    assert theirs in kept


def test_a_save_that_meets_another_by_a_hair_is_refused_with_both_kept(page, read, connection, container):
    """Between the Lab's own look and its save: the page is told in a dialog, and nothing is lost."""
    create(page, "By a hair")
    theirs = read("by-a-hair.ipynb").replace(b"By a hair", b"By another hair")

    def someone_else_first(route):
        if route.request.method == "PUT":
            connection.storage.put(container, "by-a-hair.ipynb", theirs)
        route.continue_()

    page.route("**/api/contents/by-a-hair.ipynb*", someone_else_first)
    type_cell(page, "mine = 1")
    page.keyboard.press("Control+s")
    dialog = page.locator(".jp-Dialog", has_text="was changed in the container since it was opened here")
    dialog.wait_for()
    beside = re.search(r"yours as (\S+\.ipynb)", dialog.inner_text()).group(1)

    assert read("by-a-hair.ipynb") == theirs
    assert b"mine = 1" in read(beside)


def test_the_open_notebook_is_run_as_a_function(page, connection, container):
    create(page, "Runs here")
    save(page)
    output = type_cell(page, "%load_ext libsafe_nb\n%libsafe run")
    output.get_by_text("COMPLETED").first.wait_for()
    link = output.get_by_role("link", name=re.compile("report|evidence", re.I)).first
    link.wait_for()

    link.click()
    frame = page.frame_locator(".jp-HTMLViewer iframe, .jp-IFrame iframe").first
    frame.get_by_text("The function ran to its end").wait_for()

    assert [each["status"] for each in connection.client.jobs(container=container)] == ["COMPLETED"]


@pytest.mark.slow
def test_a_revoked_key_is_told_in_the_lab(browser, connection, platform, container, tmp_path):
    """The vendor's page: without an active API key it is 403 Forbidden."""
    with Client.of(platform.settings, root=True) as root:
        user = root.create_user("someone who leaves")
        root.grant(container, user["id"])
        environ = {
            **variables(platform.settings),
            "LIBSAFE_KEY_USER": user["key"],
            "LIBSAFE_S3_ACCESS_KEY": user["s3"]["access_key"],
            "LIBSAFE_S3_SECRET_KEY": user["s3"]["secret_key"],
        }
        with lab(container, environ, tmp_path) as address:
            page = opened(browser, address)
            refused = []
            page.on("response", lambda answer: answer.status == 403 and refused.append(answer.url))
            root.revoke_key(user["id"])
            dialog = page.locator(".jp-Dialog", has_text="The container cannot be read")
            dialog.get_by_text("An active API key and S3 credentials are needed").wait_for()
            dialog.get_by_text("Close", exact=True).click()
            page.locator(".jp-LauncherCard", has_text="LIBSAFE Go function").click()
            page.locator(".jp-Dialog").get_by_text("Create", exact=True).click()
            dialog = page.locator(".jp-Dialog", has_text="No LIBSAFE Go function was created")
            dialog.get_by_text("An active API key and S3 credentials are needed").wait_for()
            page.context.close()

    assert [url for url in refused if "/api/contents" in url]
    assert [url for url in refused if "/libsafe/new" in url]


def test_a_lab_that_we_did_not_start_is_left_as_it_is(browser, tmp_path):
    """The extension is in every Lab of the environment: in others it shows nothing, asks nothing and breaks nothing."""
    command = ["jupyterlab", "--no-browser", "--port", "0"]
    asked, wrong = [], []
    with served(command, {}, tmp_path) as address, browser.new_context() as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.goto(address)
        page.locator(".jp-LauncherCard").first.wait_for(timeout=SEEN)

        assert [url for url in asked if "/libsafe-nb/static/" in url]
        assert [url for url in asked if "/libsafe/" in url and "/kernelspecs/" not in url] == []
        assert page.locator(".jp-LauncherCard", has_text="LIBSAFE Go function").count() == 0
        assert wrong == []


def test_what_is_installed_is_what_is_here():
    """An editable installation holds a copy of the extension: after a change, install again."""
    source = ROOT / "libsafe_nb" / "data" / "labextension"
    installed = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "libsafe-nb"
    names = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())

    assert [(installed / name).read_bytes() for name in names] == [
        (source / name).read_bytes() for name in names
    ]
    assert json.loads((source / "package.json").read_text())["version"] == version("libsafe-nb")


def test_open_shows_a_notebook_where_it_lies(browser, platform, container, connection, tmp_path):
    text = (ROOT / "templates" / "per_file.ipynb").read_bytes()
    connection.storage.put(container, "functions/mine.ipynb", text)
    command = ["libsafe_nb", "open", f"libsafe://{container}/functions/mine.ipynb", "--lab", "--no-browser"]
    with served(command, variables(platform.settings), tmp_path) as address:
        page = browser.new_context().new_page()
        page.goto(address)
        ready(page)

        assert page.locator(".lm-TabBar-tabLabel", has_text="mine.ipynb").is_visible()
        page.context.close()
