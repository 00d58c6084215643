"""`libsafe-nb lab`: a JupyterLab whose files are a container's."""

from __future__ import annotations

import contextlib
import os
import tempfile
from urllib.parse import quote

from libsafe_nb.connection import connect
from libsafe_nb.errors import AccessDenied, Forbidden, NotFound, Unauthorized, UsageError
from libsafe_nb.jupyter.contents import CONTAINER, FOLDER
from libsafe_nb.plan import DEFAULT_CONTAINER


def serve(container: str | None, *, port: int, browser: bool, notebook: str | None = None) -> None:
    """
    Serve until interrupted, on this machine only; Jupyter prints the address, with its token.

    The platform is that of the settings; with nothing configured the local one is started. That nobody answers, or that
    there is no such container, is told before the Lab starts; that a key is refused, in the Lab.

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
    connection = connect()
    try:
        # Also so that the first listing does not wait for boto3 to be read. A key that is refused is told in the Lab.
        with contextlib.suppress(AccessDenied, Forbidden, Unauthorized):
            connection.client.call("file_list", container=chosen, params={"limit": 1})
            next(connection.storage.list(chosen, page=1), None)
    except NotFound as exc:
        raise UsageError(f"container {chosen}: there is no such container") from exc
    finally:
        connection.close()
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
