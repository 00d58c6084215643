"""Files from this machine into a container; a notebook with a key pasted in it is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from libsafe_nb import check, handlers, percent
from libsafe_nb.connection import connect
from libsafe_nb.errors import NotebookError, UsageError
from libsafe_nb.objects import Stored, refuse_evidence
from libsafe_nb.plan import DEFAULT_CONTAINER
from libsafe_nb.settings import Settings
from libsafe_nb.trees import laid_out


def upload(
    paths: Sequence[str | Path],
    *,
    container: str | None = None,
    folder: str = "",
    settings: Settings | None = None,
) -> list[Stored]:
    """
    Store local files as `/{folder}/{basename}`, and a local folder with all that lies in it.

    Equal bytes are not stored again, others become a new version.

    Parameters
    ----------
    container
        By default the local platform's default container.

    Raises
    ------
    UsageError
        A file cannot be read, a folder holds none, or two have one name. Nothing was sent.
    NotebookError
        A key is pasted in a notebook. Nothing was sent.
    """
    where = f"/{folder.strip('/')}" if folder.strip("/") else ""
    files = {f"{where}{name}": file for name, file in laid_out(map(Path, paths)).items()}
    refuse_evidence(*files)
    secrets = check.configured_secrets()
    for file in files.values():
        if file.suffix == ".ipynb" or _is_function(file):
            # A version in the container is there to stay.
            found = check.check(file, secrets=secrets, codes=check.KEYS)
            if found:
                more = f", and {len(found) - 1} more" if len(found) > 1 else ""
                raise NotebookError(
                    f"{found[0]}{more}. Nothing was uploaded; libsafe-nb check shows all", notebook=str(file)
                )
    storage = connect(settings=settings).storage
    return [storage.upload(container or DEFAULT_CONTAINER, name, file) for name, file in files.items()]


def _is_function(file: Path) -> bool:
    """Whether Python text is a notebook or a handler."""
    if not percent.is_script(file.name):
        return False
    try:
        source = file.read_bytes()
        return percent.is_notebook(source) or handlers.is_handler(source)
    except OSError as exc:
        raise UsageError(f"{file}: cannot be read ({exc.strerror or exc})") from exc
