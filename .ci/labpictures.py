"""The pictures of the Lab: launcher, a function with its container, `%libsafe run`, and a key that is refused."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "notebooks" / "samples"
sys.path.insert(0, str(ROOT / "tests"))

import labs  # noqa: E402 - from the tests
from environs import variables  # noqa: E402 - from the tests


def shoot(browser, folder: Path, target: Path) -> None:
    from libsafe_nb import local
    from libsafe_nb.client import Client
    from libsafe_nb.connection import connect

    with local.serve(folder / "lab-platform") as served:
        connection = connect(settings=served.settings)
        container = connection.client.create_container("Letters of 1911")["id"]
        for path in sorted(each for each in SAMPLES.iterdir() if each.is_file()):
            connection.storage.upload(container, f"scans/{path.name}", path)
        with labs.lab(container, variables(served.settings), folder) as address:
            page = labs.opened(browser, address)
            page.locator(".jp-DirListing-item", has_text="scans").wait_for()
            page.screenshot(path=target / "lab-launcher.png")
            page.locator(".jp-LauncherCard", has_text="LIBSAFE Go function").click()
            page.locator(".jp-Dialog input[name=title]").fill("Sizes of the scans")
            page.screenshot(path=target / "lab-new.png")
            page.locator(".jp-Dialog").get_by_text("Create", exact=True).click()
            labs.ready(page)
            page.screenshot(path=target / "lab-function.png")
            labs.save(page)
            output = labs.type_cell(page, "%load_ext libsafe_nb\n%libsafe run --file /scans/letter.txt")
            output.get_by_text("COMPLETED").first.wait_for()
            labs.save(page)
            output.last.scroll_into_view_if_needed()
            page.screenshot(path=target / "lab-run.png")
            with Client.of(served.settings, root=True) as root:
                root.revoke_key(connection.client.me()["id"])
            page.locator(".jp-Dialog").wait_for()
            page.screenshot(path=target / "lab-refused.png")
