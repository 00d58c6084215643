"""
Makes the pictures of the documentation: `python .ci/pictures.py` (needs chromium, and the extra `test`).

Runs the worked functions over the samples on a local platform of its own, and opens what they left in a browser. Then the
Lab (`labpictures.py`). Look at each of them afterwards.
"""

import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import labpictures

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
        functions(folder)
        with chromium() as browser:
            labpictures.shoot(browser, folder, TARGET)


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


def functions(folder: Path) -> None:
    """For the gallery: what each worked function shows at its end, run by the commands that its notebook gives."""
    import gallery

    from libsafe_nb import local
    from libsafe_nb.connection import connect

    with local.serve(folder / "functions") as served, served_samples():
        connection = connect(settings=served.settings)
        for notebook in gallery.NOTEBOOKS:
            container = connection.client.create_container(notebook.stem)["id"]
            told = ""
            for line in gallery.commands(notebook):
                program, verb, rest = line.split(" ", 2)
                if program == "libsafe-nb":
                    more = "--json" if verb == "run" else ""
                    told = shell(f"{program} {verb} --container {container} {rest} {more}", served.settings)
            page = folder / f"{notebook.stem}.html"
            evidence = json.loads(told)["evidence"].split("/", 3)[3]
            page.write_bytes(connection.storage.get(container, f"{evidence}report.html"))
            part = "p.picture" if notebook.stem == "container_report" else "div.rich >> nth=-1"
            shoot(page, TARGET / "functions" / f"{notebook.stem}.png", height=1000, part=part)


@contextlib.contextmanager
def served_samples() -> Iterator[None]:
    """The server whose address stands in the sample's fetch.txt."""
    aim = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(SAMPLES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 8000), aim) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def shell(command: str, settings: Any) -> str:
    """What a command prints, run in the project's folder against a platform."""
    s3 = settings.s3
    platform = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LIBSAFE_URL": settings.url,
        "LIBSAFE_KEY_USER": settings.key_user,
        "LIBSAFE_S3_ENDPOINT": s3.endpoint,
        "LIBSAFE_S3_BUCKET": s3.bucket,
        "LIBSAFE_S3_ACCESS_KEY": s3.access_key,
        "LIBSAFE_S3_SECRET_KEY": s3.secret_key,
    }
    environment = {**os.environ, **platform}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


def shoot(page: Path, target: Path, *, height: int, part: str | None = None) -> None:
    """A picture of a page's top, or of one part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        view = browser.new_page(viewport={"width": 1000, "height": height})
        view.goto(page.as_uri())
        (view.locator(part) if part else view).screenshot(path=target)


if __name__ == "__main__":
    main()
