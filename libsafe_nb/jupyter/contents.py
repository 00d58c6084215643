"""
The container as the files of a Jupyter server: `ContainerContents`.

    c.ServerApp.contents_manager_class = "libsafe_nb.jupyter.contents.ContainerContents"

Each file is an object, each save a version of it. What is under `provenance/` can be read and never changed.

A save replaces the version that its client was told of, and no other (`If-Match`). A model has no place for that, so it is
remembered by whom (`_client`): the version that was opened or saved last, or that was told with its hash, as JupyterLab
asks for before it saves. Where another one is stored meanwhile the answer is 409 and both are kept, the client's as
`NAME.conflict-….ipynb` beside it. A client that speaks HTTP may say `If-Match` itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import nbformat
from jupyter_server.base.call_context import CallContext
from jupyter_server.services.contents.manager import AsyncContentsManager, copy_pat
from tornado import web
from traitlets import Instance, Unicode

from libsafe_nb import check
from libsafe_nb.checking.examined import Examined
from libsafe_nb.connection import Connection
from libsafe_nb.errors import ObjectNotFound, PreconditionFailed
from libsafe_nb.jupyter import models
from libsafe_nb.jupyter.admission import Admission
from libsafe_nb.jupyter.arrivals import Arrivals
from libsafe_nb.jupyter.download import ContainerFiles
from libsafe_nb.jupyter.versions import Versions
from libsafe_nb.objects import ObjectInfo, ObjectVersion
from libsafe_nb.objectstream import ObjectStream
from libsafe_nb.plan import DEFAULT_CONTAINER

T = TypeVar("T")

CONTAINER = "LIBSAFE_NB_CONTAINER"
"""Of the environment: the container of a Lab, also told to its kernels."""
EVIDENCE = "provenance"
LARGEST_OPENED = 100 * 1024 * 1024
"""Bytes of the largest file that is sent as one JSON text; a larger one is downloaded."""
REMEMBERED = 10_000
"""Versions told to clients that are remembered; of a forgotten one a save replaces what is stored when it comes."""
AT_ONCE = 8


class ContainerContents(AsyncContentsManager):
    """One container, by the platform of the settings; with nothing configured the local one, which is started."""

    container = Unicode(config=True, help="Id of the container. Default: LIBSAFE_NB_CONTAINER, else 1.")
    admission = Instance(Admission, ())
    arrivals = Instance(Arrivals, ())

    checkpoints_class = Versions
    files_handler_class = ContainerFiles

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._told: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._telling = threading.Lock()
        # Read here: a check of each save would read the settings anew.
        self._secrets = check.configured_secrets()

    def _container_default(self) -> str:
        return os.environ.get(CONTAINER) or DEFAULT_CONTAINER

    async def _ask(self, call: Callable[..., T], *arguments: Any) -> T:
        """A call of ours, in a thread, with the connection first."""

        def asked() -> T:
            with self.admission.connection() as connection:
                return call(connection, *arguments)

        return await asyncio.to_thread(asked)

    # What is there

    async def is_hidden(self, path: str) -> bool:
        return any(each.startswith(".") for each in path.strip("/").split("/"))

    async def file_exists(self, path: str = "") -> bool:
        return await self._ask(self._head, path.strip("/")) is not None

    async def dir_exists(self, path: str) -> bool:
        return await self._ask(self._is_folder, path.strip("/"))

    async def exists(self, path: str) -> bool:
        return await self.file_exists(path) or await self.dir_exists(path)

    def _head(self, connection: Connection, path: str) -> ObjectInfo | None:
        if not path:
            return None
        try:
            return connection.storage.head(self.container, path)
        except ObjectNotFound:
            return None

    def _is_folder(self, connection: Connection, path: str) -> bool:
        if not path:
            return True
        return next(connection.storage.list(self.container, f"{path}/", page=1), None) is not None

    # Reading

    async def get(
        self,
        path: str,
        content: bool = True,
        type: str | None = None,
        format: str | None = None,
        require_hash: bool = False,
    ) -> dict[str, Any]:
        """
        A file, notebook or folder as Jupyter's contents API tells it; of a folder with what lies directly in it.

        `hash` is that of the stored version; a client that asks for it is one that was told of that version.
        """
        model = await self._ask(self._get, path.strip("/"), content, type, format, require_hash)
        if isinstance(model["content"], bytes):
            # Here and not in the thread: the signatures of trusted notebooks lie in a database of this thread.
            return {**model, "content": self._notebook(model["content"], path), "format": "json"}
        return model

    def _get(
        self,
        connection: Connection,
        path: str,
        content: bool,
        kind: str | None,
        form: str | None,
        require_hash: bool,
    ) -> dict[str, Any]:
        info = None if kind == "directory" else self._head(connection, path)
        if info is None:
            if kind in ("file", "notebook") or not self._is_folder(connection, path):
                self._forget(path)
                what = {"directory": "folder", None: "file or folder"}.get(kind, kind)
                raise web.HTTPError(404, f"{path}: there is no such {what} in container {self.container}")
            return self._folder(connection, path, content)
        model = models.of_object(info, writable=_is_writable(path), kind=kind)
        if not content:
            if require_hash:
                self._remember(path, info.etag)
            return model
        if info.size > LARGEST_OPENED:
            raise web.HTTPError(
                413,
                f"{path}: expected a file of at most {LARGEST_OPENED} bytes to open, found {info.size}; download it",
            )
        with connection.storage.open(self.container, path, version_id=info.version_id) as stream:
            data = stream.read()
        self._remember(path, info.etag)
        if model["type"] == "notebook":
            return {**model, "content": data}
        return {**model, **models.content(data, path, form)}

    def _notebook(self, data: bytes, path: str) -> Any:
        try:
            node = nbformat.reads(data.decode("utf-8"), as_version=4)
        except Exception as exc:  # nbformat raises what its parsers do
            raise web.HTTPError(400, f"{path}: is no notebook that can be read ({exc})") from exc
        self.mark_trusted_cells(node, path)
        return node

    def _folder(self, connection: Connection, path: str, content: bool) -> dict[str, Any]:
        model = models.of_folder(path, writable=_is_writable(path))
        if not content:
            return model
        found = []
        for each in connection.storage.folder(self.container, path):
            name = (each if isinstance(each, str) else each.path).rpartition("/")[2]
            if not self.should_list(name) or (name.startswith(".") and not self.allow_hidden):
                continue
            place = f"{path}/{name}".strip("/")
            if isinstance(each, str):
                found.append(models.of_folder(place, writable=_is_writable(place)))
            else:
                found.append(models.of_object(each, writable=_is_writable(place)))
        return {**model, "content": found, "format": "json", "mimetype": None}

    async def opened(self, path: str) -> ObjectStream:
        """The version of a file that is stored now, to be read piece by piece; the caller's to close."""

        def opened(connection: Connection) -> ObjectStream:
            info = connection.storage.head(self.container, path.strip("/"))
            return connection.storage.open(self.container, info.path, version_id=info.version_id)

        return await self._ask(opened)

    # Saving

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """
        Store a file or notebook as a new version, or make a folder; answers its model without content.

        Raises
        ------
        tornado.web.HTTPError
            409 where another version is stored than this client was told of: both are kept. 400 for a model that is
            none, and for a notebook in which a key stands. 403 under `provenance/`.
        """
        path = path.strip("/")
        _changes(path)
        if not model.get("type"):
            raise web.HTTPError(400, f"{path}: the model has no type")
        if model["type"] == "directory":
            return await self._ask(self._make_folder, path)
        if "content" not in model:
            raise web.HTTPError(400, f"{path}: the model has no content")
        self.run_pre_save_hooks(model=model, path=path)
        data = (
            self._notebook_bytes(model, path) if model["type"] == "notebook" else models.decoded(model, path)
        )
        saved = await self._ask(self._save, path, data, int(model.get("chunk") or 0))
        self.emit(data={"action": "save", "path": path})
        return saved

    def _make_folder(self, connection: Connection, path: str) -> dict[str, Any]:
        if self._head(connection, path) is not None:
            raise web.HTTPError(400, f"{path}: is a file, not a folder")
        if not self._is_folder(connection, path):
            connection.storage.mark_folder(self.container, path)
        return models.of_folder(path, writable=True)

    def _notebook_bytes(self, model: dict[str, Any], path: str) -> bytes:
        try:
            node = nbformat.from_dict(model["content"])
            self.check_and_sign(node, path)
            text: str = nbformat.writes(node, version=nbformat.NO_CONVERT)
            return text.encode("utf-8")
        except Exception as exc:  # nbformat raises what its parsers do
            raise web.HTTPError(400, f"{path}: is no notebook that can be stored ({exc})") from exc

    def _save(self, connection: Connection, path: str, data: bytes, chunk: int) -> dict[str, Any]:
        if chunk:
            whole = self.arrivals.take((_client(), path), chunk, data)
            if whole is None:
                return models.of_arrival(path, datetime.now(UTC))
            with whole:
                return self._store_large(connection, path, whole)
        if models.is_notebook(path):
            self._refuse_keys(path, data)
        return self._store(connection, path, data)

    def _refuse_keys(self, path: str, data: bytes) -> None:
        """A version in the container is there to stay, so a notebook with a key in it does not become one."""
        try:
            book = json.loads(data)
            found = check.examine(Examined(path, book, self._secrets), codes=check.KEYS)
        except (ValueError, KeyError, TypeError, AttributeError):
            # No notebook: whoever opens it is told so.
            return
        if found:
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            raise web.HTTPError(400, f"{found[0]}{more}. Nothing was saved: take it out, and save again")

    def _store(self, connection: Connection, path: str, data: bytes) -> dict[str, Any]:
        expected = self._expected(connection, path)
        storage = connection.storage
        try:
            if expected is None:
                storage.put(self.container, path, data, if_none_match=True)
            else:
                storage.put(self.container, path, data, if_match=expected)
        except (PreconditionFailed, ObjectNotFound) as exc:
            kept = self._beside(path, expected)
            storage.put(self.container, kept, data)
            raise self._conflict(path, kept) from exc
        return self._saved(connection, path)

    def _store_large(self, connection: Connection, path: str, file: IO[bytes]) -> dict[str, Any]:
        """A file that came in chunks. It is sent in parts, and what is stored is looked at before and not while it is."""
        if models.is_notebook(path):
            self._refuse_keys(path, file.read(LARGEST_OPENED))
            file.seek(0)
        expected = self._expected(connection, path)
        found = self._head(connection, path)
        if (found.etag if found else None) != expected:
            kept = self._beside(path, expected)
            connection.storage.upload(self.container, kept, file)  # type: ignore[arg-type] # a file, seekable
            raise self._conflict(path, kept)
        connection.storage.upload(self.container, path, file)  # type: ignore[arg-type] # a file, seekable
        return self._saved(connection, path)

    def _saved(self, connection: Connection, path: str) -> dict[str, Any]:
        info = connection.storage.head(self.container, path)
        self._remember(path, info.etag)
        return models.of_object(info, writable=True)

    def _expected(self, connection: Connection, path: str) -> str | None:
        """The etag of the version that a save of this client may replace; None where there must be none."""
        said = _header("If-Match")
        if said and said != "*":
            return said.strip('"')
        with self._telling:
            told = self._told.get((_client(), path))
        if told is not None:
            return told
        found = self._head(connection, path)
        return None if found is None else found.etag

    def _remember(self, path: str, etag: str) -> None:
        with self._telling:
            self._told[_client(), path] = etag
            self._told.move_to_end((_client(), path))
            if len(self._told) > REMEMBERED:
                self._told.popitem(last=False)

    def _forget(self, path: str) -> None:
        with self._telling:
            self._told.pop((_client(), path), None)

    def _beside(self, path: str, expected: str | None) -> str:
        """Where a save goes whose place is taken; the same for each try of one client to save over one version."""
        place = PurePosixPath(path)
        mark = hashlib.sha256(f"{_client()} {expected}".encode()).hexdigest()[:8]
        return str(place.with_name(f"{place.stem}.conflict-{mark}{place.suffix}"))

    def _conflict(self, path: str, kept: str) -> web.HTTPError:
        return web.HTTPError(
            409,
            f"{path} was changed in the container since it was opened here. Both are kept: theirs as {path}, yours as {kept}."
            " Open it anew to go on with theirs",
        )

    # Moving, copying, deleting

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """
        Move a file or folder: each object is copied by the storage, then deleted at its old place.

        Descriptors and tags are the platform's and stay with the old place, as does each object's history.
        """
        old, new = old_path.strip("/"), new_path.strip("/")
        _changes(old)
        _changes(new)
        if old != new:
            await self._ask(self._move, old, new)

    def _move(self, connection: Connection, old: str, new: str) -> None:
        if not old or not new or f"{new}/".startswith(f"{old}/"):
            raise web.HTTPError(400, f"{old or '/'}: cannot be moved to {new or '/'}")
        moved = self._transferred(connection, old, new)
        for each in moved:
            now = self._head(connection, each.path)
            if now is not None and now.etag != each.etag:
                raise web.HTTPError(
                    409, f"{each.path} was changed in the container while it was moved; both are kept"
                )
        self._remove(connection, old, moved)

    async def copy(self, from_path: str, to_path: str | None = None) -> dict[str, Any]:
        """Copy a file or folder; into `to_path` if that is a folder, with a number where the name is taken."""
        source = from_path.strip("/")
        folder, _, name = source.rpartition("/")
        target = folder if to_path is None else to_path.strip("/")
        if await self.dir_exists(target):
            # A copy of a copy is counted on, as Jupyter's own file system does.
            name = await self.increment_filename(copy_pat.sub(".", name), target, insert="-Copy")
            target = f"{target}/{name}".strip("/")
        _changes(target)
        if f"{target}/".startswith(f"{source}/"):
            raise web.HTTPError(400, f"{source}: cannot be copied into itself")
        await self._ask(self._transferred, source, target)
        return await self.get(target, content=False)

    def _transferred(self, connection: Connection, source: str, target: str) -> list[ObjectInfo]:
        """Copy an object, or all in a folder, to a place where nothing is; tells what was copied."""
        info = self._head(connection, source)
        if self._head(connection, target) is not None or self._is_folder(connection, target):
            raise web.HTTPError(409, f"{target}: there is a file or folder of that name already")
        if info is not None:
            connection.storage.copy(self.container, source, target, version_id=info.version_id)
            return [info]
        if not self._is_folder(connection, source):
            raise web.HTTPError(
                404, f"{source}: there is no such file or folder in container {self.container}"
            )
        connection.storage.mark_folder(self.container, target)

        def one(each: ObjectInfo) -> ObjectInfo:
            connection.storage.copy(self.container, each.path, target + each.path.removeprefix(source))
            return each

        inside = connection.storage.list(self.container, f"{source}/")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, (each for each in inside if not each.path.endswith("/"))))

    async def delete_file(self, path: str) -> None:
        """Delete a file, or a folder with all in it, as the platform does: softly, with each version kept."""
        path = path.strip("/")
        _changes(path)
        if not path:
            raise web.HTTPError(400, "the container itself cannot be deleted here")
        await self._ask(self._delete, path)

    def _delete(self, connection: Connection, path: str) -> None:
        info = self._head(connection, path)
        if info is not None:
            connection.storage.delete(self.container, path)
        elif self._is_folder(connection, path):
            inside = connection.storage.list(self.container, f"{path}/")
            self._remove(connection, path, [each for each in inside if not each.path.endswith("/")])
        else:
            raise web.HTTPError(404, f"{path}: there is no such file or folder in container {self.container}")
        self._forget(path)

    def _remove(self, connection: Connection, path: str, objects: list[ObjectInfo]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda each: connection.storage.delete(self.container, each.path), objects))
        marks = [
            each.path
            for each in connection.storage.list(self.container, f"{path}/")
            if each.path.endswith("/")
        ]
        for mark in marks:
            connection.storage.mark_folder(self.container, mark.rstrip("/"), there=False)

    # Versions

    async def versions(self, path: str, most: int) -> list[ObjectVersion]:
        """The latest versions of a file, the oldest of them first."""

        def versions(connection: Connection) -> list[ObjectVersion]:
            plain = path.strip("/")
            found = []
            for each in connection.storage.versions(self.container, plain):
                if each.path != plain:
                    break
                if not each.deleted:
                    found.append(each)
            if not found:
                raise ObjectNotFound(f"{plain}: there is no such file in container {self.container}")
            return found[:most][::-1]

        return await self._ask(versions)

    async def restore(self, path: str, version: str) -> None:
        """Make an old version's bytes the newest version."""
        plain = path.strip("/")
        _changes(plain)

        def restore(connection: Connection) -> None:
            connection.storage.copy(self.container, plain, plain, version_id=version)
            self._remember(plain, connection.storage.head(self.container, plain).etag)

        await self._ask(restore)

    # Kernels

    def get_kernel_path(self, path: str, model: dict[str, Any] | None = None) -> str:
        """
        Kernels work in a local folder, which has the container's folders and none of its files.

        So the place of a kernel's notebook in the container is that of its name in this folder (`JPY_SESSION_NAME`).
        """
        folder = path.strip("/").rpartition("/")[0]
        root = Path(self.root_dir).resolve()
        place = (root / folder).resolve()
        if place.is_relative_to(root):
            place.mkdir(parents=True, exist_ok=True)
        return path

    def info_string(self) -> str:
        return f"Serving container {self.container} of a LIBSAFE Go"


def _is_writable(path: str) -> bool:
    return path.split("/")[0] != EVIDENCE


def _changes(path: str) -> None:
    if not _is_writable(path):
        raise web.HTTPError(
            403,
            f"{path}: what runs left under {EVIDENCE}/ can be read and is never changed, moved or deleted",
        )


def _header(name: str) -> str | None:
    """Of the request that is being answered; None where there is none, as in a call from Python."""
    handler = CallContext.get(CallContext.JUPYTER_HANDLER)
    return None if handler is None else handler.request.headers.get(name)


def _client() -> str:
    """Who asks, not by a secret: a browser by a cookie that stays, a program by what it says of itself."""
    handler = CallContext.get(CallContext.JUPYTER_HANDLER)
    browser = None if handler is None else handler.get_cookie("_xsrf")
    told = [browser] if browser else [_header(name) or "" for name in ("Authorization", "User-Agent")]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
