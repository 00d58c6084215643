"""Files from this machine into a container; a notebook with a key pasted in it is refused before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from libsafe_nb import check, handlers, percent
from libsafe_nb.connection import connect
from libsafe_nb.errors import NotebookError, UsageError
from libsafe_nb.objects import Stored, refuse_evidence
from libsafe_nb.plan import DEFAULT_CONTAINER, check_uploads
from libsafe_nb.settings import Settings


def upload(
    paths: Sequence[str | Path],
    *,
    container: str | None = None,
    folder: str = "",
    settings: Settings | None = None,
) -> list[Stored]:
    """
    Store local files as `/{folder}/{basename}`; equal bytes are not stored again, others become a new version.

    Parameters
    ----------
    container
        By default the local platform's default container.

    Raises
    ------
    UsageError
        A file cannot be read, or two have one name. Nothing was sent.
    NotebookError
        A key is pasted in a notebook. Nothing was sent.
    """
    files = [Path(path) for path in paths]
    check_uploads(files)
    refuse_evidence(*[f"{folder.strip('/')}/{file.name}" for file in files])
    secrets = check.configured_secrets()
    for file in files:
        if file.suffix == ".ipynb" or _is_function(file):
            # A version in the container is there to stay.
            found = check.check(file, secrets=secrets, codes=check.KEYS)
            if found:
                more = f", and {len(found) - 1} more" if len(found) > 1 else ""
                raise NotebookError(
                    f"{found[0]}{more}. Nothing was uploaded; libsafe-nb check shows all", notebook=str(file)
                )
    storage = connect(settings=settings).storage
    where = f"/{folder.strip('/')}" if folder.strip("/") else ""
    return [storage.upload(container or DEFAULT_CONTAINER, f"{where}/{file.name}", file) for file in files]


def _is_function(file: Path) -> bool:
    """Whether Python text is a notebook or a handler."""
    if not percent.is_script(file.name):
        return False
    try:
        source = file.read_bytes()
        return percent.is_notebook(source) or handlers.is_handler(source)
    except OSError as exc:
        raise UsageError(f"{file}: cannot be read ({exc.strerror or exc})") from exc
