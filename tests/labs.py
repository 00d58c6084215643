"""`libsafe-nb lab` as a person starts it, and what that person does in the browser."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+")
FRONT = ".jp-NotebookPanel:not(.lm-mod-hidden)"
CLEAN = ".lm-DockPanel-tabBar .lm-TabBar-tab.lm-mod-current:not(.jp-mod-dirty)"
SEEN = 120_000
"""Milliseconds that a selector is waited for: a loaded machine is slow, and only a fault takes so long."""


def lab(container, environ, folder):
    """Run the Lab on a container while the block lasts; gives its address, token and all."""
    return served(["libsafe_nb", "lab", container, "--no-browser", "--port", "0"], environ, folder)


@contextlib.contextmanager
def served(command, environ, folder):
    """Run a Jupyter server, with settings and data of its own in the folder, and give the address that it tells."""
    settings = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    (folder / "config").mkdir()
    # The tests may be root's; whether that is wise is Jupyter's question to people.
    (folder / "config" / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **settings, **environ, "PYTHONFAULTHANDLER": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, reader = [], None
    try:
        for line in process.stdout:
            said.append(line)
            if found := ADDRESS.search(line):
                break
        else:
            raise AssertionError("".join(said))
        # What it says later must be read, or it would wait for a reader.
        reader = threading.Thread(target=said.extend, args=(process.stdout,), daemon=True)
        reader.start()
        _answers(found.group())
        yield found.group()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            # It says where each of its threads is.
            process.send_signal(signal.SIGABRT)
            process.wait(10)
            raise
        finally:
            if reader is not None:
                reader.join(10)
            process.stdout.close()
            # Shown where a test fails.
            print("".join(said))


def _answers(address):
    """Jupyter tells its address a moment before it listens there."""
    place = urlsplit(address)
    for _ in range(600):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((place.hostname, place.port)).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens at {place.netloc}")


def opened(browser, address):
    """A page of a browser of its own (cookies, and no tabs of before) in which the Lab is up."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(SEEN)
    page.goto(f"{address}&reset")
    page.locator(".jp-LauncherCard").first.wait_for()
    return page


def create(page, title, template="blank"):
    """New → LIBSAFE Go function, from the launcher."""
    page.locator(".jp-LauncherCard", has_text="LIBSAFE Go function").click()
    dialog = page.locator(".jp-Dialog")
    dialog.locator("input[name=title]").fill(title)
    dialog.locator(f"input[value={template}]").check()
    dialog.get_by_text("Create", exact=True).click()
    ready(page)


def ready(page):
    """Wait for the notebook in front to be open and its kernel idle."""
    page.locator(f"{FRONT} .jp-CodeCell").first.wait_for()
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()


def listed(page, name):
    """Where the file browser shows a file."""
    return page.locator(".jp-DirListing-item", has_text=name)


def type_cell(page, source):
    """Type a cell below the last and run it; gives where its output comes."""
    page.locator(f"{FRONT} .jp-Notebook-footer").click()
    cell = page.locator(f"{FRONT} .jp-CodeCell.jp-mod-active")
    cell.locator(".cm-content[contenteditable=true]").click()
    page.keyboard.insert_text(source)
    page.keyboard.press("Control+Enter")
    return cell.locator(".jp-OutputArea-output")


def save(page):
    page.keyboard.press("Control+s")
    page.locator(CLEAN).wait_for()
