"""`libsafe-nb lab`: a JupyterLab whose files are a container's."""

from __future__ import annotations

import os
import tempfile
from urllib.parse import quote

from libsafe_nb.connection import connect
from libsafe_nb.errors import UsageError
from libsafe_nb.jupyter.contents import CONTAINER, FOLDER
from libsafe_nb.plan import DEFAULT_CONTAINER


def serve(container: str | None, *, port: int, browser: bool, notebook: str | None = None) -> None:
    """
    Serve until interrupted, on this machine only; Jupyter prints the address, with its token.

    The platform is that of the settings; with nothing configured the local one is started. That nobody answers, or that
    there is no such container, is told before the Lab starts.

    Parameters
    ----------
    port
        0 takes any that is free.
    notebook
        Path in the container of a notebook to open.
    """
    from jupyterlab.labapp import LabApp

    chosen = container or os.environ.get(CONTAINER) or DEFAULT_CONTAINER
    if not chosen.isdecimal():
        raise UsageError(f"container {chosen!r}: expected its number")
    connect().close()
    with tempfile.TemporaryDirectory(prefix="libsafe-lab-") as folder:
        os.environ[CONTAINER] = chosen
        os.environ[FOLDER] = os.path.realpath(folder)
        LabApp.launch_instance(
            [
                "--ServerApp.contents_manager_class=libsafe_nb.jupyter.contents.ContainerContents",
                # jupytext puts a contents manager of its own in the place of any other.
                "--ServerApp.jpserver_extensions={'libsafe_nb.jupyter': True, 'jupyterlab_jupytext': False}",
                f"--ServerApp.root_dir={os.environ[FOLDER]}",
                "--ServerApp.ip=127.0.0.1",
                # Jupyter would refuse; whoever is root here has started everything else as root as well.
                "--ServerApp.allow_root=True",
                f"--ServerApp.port={port}",
                *([] if browser else ["--no-browser"]),
                *([f"--LabApp.default_url=/lab/tree/{quote(notebook.strip('/'))}"] if notebook else []),
            ]
        )
