"""`libsafe-nb lab`: a JupyterLab whose files are a container's."""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
from urllib.parse import quote

from libsafe_nb.connection import connect
from libsafe_nb.errors import AccessDenied, Forbidden, NotFound, ObjectNotFound, Unauthorized, UsageError
from libsafe_nb.plan import DEFAULT_CONTAINER
from libsafe_nb.settings import LAB_CONTAINER, LAB_FOLDER


def serve(container: str | None, *, port: int, browser: bool, file: str | None = None) -> None:
    """
    Serve until interrupted, on this machine only; Jupyter prints the address, with its token.

    The platform is that of the settings; with nothing configured the local one is started. That nobody answers, or that
    there is no such container, is told before the Lab starts; that a key is refused, in the Lab.

    Parameters
    ----------
    port
        0 takes any that is free.
    file
        Path in the container of what to open; by default the launcher is shown.

    Raises
    ------
    UsageError
        There is no such container, or no such file in it.
    """
    from jupyterlab.labapp import LabApp

    chosen = container or os.environ.get(LAB_CONTAINER) or DEFAULT_CONTAINER
    if not chosen.isdecimal():
        raise UsageError(f"container {chosen!r}: expected its number")
    connection = connect()
    try:
        # Also so that the first listing does not wait for boto3 to be read. A key that is refused is told in the Lab.
        with contextlib.suppress(AccessDenied, Forbidden, Unauthorized):
            connection.client.call("file_list", container=chosen, params={"limit": 1})
            next(connection.storage.list(chosen, page=1), None)
            if file:
                connection.storage.head(chosen, file)
    except NotFound as exc:
        raise UsageError(f"container {chosen}: there is no such container") from exc
    except ObjectNotFound as exc:
        raise UsageError(f"{file}: there is no such file in container {chosen}") from exc
    finally:
        connection.close()
    with tempfile.TemporaryDirectory(prefix="libsafe-lab-") as folder:
        os.environ[LAB_CONTAINER] = chosen
        os.environ[LAB_FOLDER] = os.path.realpath(folder)
        try:
            LabApp.launch_instance(
                [
                    "--ServerApp.contents_manager_class=libsafe_nb.jupyter.contents.ContainerContents",
                    # jupytext puts a contents manager of its own in the place of any other.
                    "--ServerApp.jpserver_extensions={'libsafe_nb.jupyter': True, 'jupyterlab_jupytext': False}",
                    f"--ServerApp.root_dir={os.environ[LAB_FOLDER]}",
                    "--ServerApp.ip=127.0.0.1",
                    # Jupyter would refuse; whoever is root here has started everything else as root as well.
                    "--ServerApp.allow_root=True",
                    f"--ServerApp.port={port}",
                    *([] if browser else ["--no-browser"]),
                    *([f"--LabApp.default_url=/lab/tree/{quote(file.strip('/'))}"] if file else []),
                ]
            )
        finally:
            end_idle_threads()


def end_idle_threads() -> None:
    """
    End the threads of AnyIO, in which Jupyter does its slow work: each ends with the request that began it, which the end of the
    server may have cut off, and Python would wait for it for ever.
    """
    with contextlib.suppress(ImportError):
        # AnyIO has no public name for them.
        from anyio._backends._asyncio import WorkerThread

        for each in threading.enumerate():
            if isinstance(each, WorkerThread):
                # Full: it was told so before.
                with contextlib.suppress(queue.Full):
                    each.stop()
