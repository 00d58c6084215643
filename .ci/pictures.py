"""
Makes the pictures of the documentation: `python .ci/pictures.py` (needs chromium, and the extra `test`).

Runs the hash function over the samples on a local platform of its own, and opens what it left in a browser.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "notebooks" / "samples"
TARGET = ROOT / "docs" / "img"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        os.environ["LIBSAFE_NB_HOME"] = name
        copy = evidence(folder)
        subprocess.run(
            [sys.executable, "-m", "libsafe_nb", "history", copy, "--html", folder / "history.html"],
            check=True,
        )
        shoot(next(copy.rglob("report.html")), TARGET / "report.png", height=1000)
        shoot(folder / "history.html", TARGET / "history.png", height=560)


def evidence(folder: Path) -> Path:
    """A local copy of what three runs left in a container."""
    import libsafe_nb
    from libsafe_nb import local
    from libsafe_nb.connection import connect

    with local.serve(folder / "platform") as served:
        for name in ("hash_files", "create_md5_manifest", "hash_files"):
            libsafe_nb.run(
                None,
                ROOT / "notebooks" / f"{name}.ipynb",
                uploads=[SAMPLES / "letter.txt", SAMPLES / "gradient.png"],
                settings=served.settings,
            ).raise_for_failure()
        storage = connect(settings=served.settings).storage
        for each in storage.list("1", "provenance/"):
            path = folder / "copy" / each.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(storage.get("1", each.path))
    return folder / "copy"


def shoot(page: Path, target: Path, *, height: int) -> None:
    from playwright.sync_api import sync_playwright

    target.parent.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        view = browser.new_page(viewport={"width": 1000, "height": height})
        view.goto(page.as_uri())
        view.screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    main()
