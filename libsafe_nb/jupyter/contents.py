"""
The container as the files of a Jupyter server: `ContainerContents`.

    c.ServerApp.contents_manager_class = "libsafe_nb.jupyter.contents.ContainerContents"

Each file is an object, each save a version of it. What is done to them is in `tree.py`, which version a save replaces in
`openings.py`. Where another one is stored meanwhile the answer is 409 and both are kept. A client that speaks HTTP may
say which one it replaces, with `If-Match` or with the `hash` of the model that it got.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import nbformat
from jupyter_server.base.call_context import CallContext
from jupyter_server.services.contents.manager import AsyncContentsManager, copy_pat
from tornado import web
from traitlets import Instance, Unicode

from libsafe_nb.connection import Connection
from libsafe_nb.jupyter import keys, models
from libsafe_nb.jupyter.admission import Admission
from libsafe_nb.jupyter.arrivals import Arrival, Arrivals
from libsafe_nb.jupyter.download import ContainerFiles
from libsafe_nb.jupyter.openings import Client, Openings, client_of
from libsafe_nb.jupyter.tree import Entry, NotSaved, Tree, is_evidence, refuse_evidence
from libsafe_nb.jupyter.versions import Versions
from libsafe_nb.objects import ObjectInfo, ObjectVersion
from libsafe_nb.objectstream import ObjectStream
from libsafe_nb.plan import DEFAULT_CONTAINER
from libsafe_nb.redact import SecretSet

T = TypeVar("T")

CONTAINER = "LIBSAFE_NB_CONTAINER"
"""Of the environment: the container of a Lab, also told to its kernels."""
FOLDER = "LIBSAFE_NB_LAB_FOLDER"
"""Of the environment: the local folder in which a Lab's kernels work; a notebook's place there is its place in the container."""
LARGEST_OPENED = 100 * 1024 * 1024
"""Bytes of the largest file that is sent as one JSON text; a larger one is downloaded."""


class ContainerContents(AsyncContentsManager):
    """One container, by the platform of the settings; with nothing configured the local one, which is started."""

    container = Unicode(config=True, help="Id of the container. Default: LIBSAFE_NB_CONTAINER, else 1.")
    admission = Instance(Admission, ())
    arrivals = Instance(Arrivals, ())
    openings = Instance(Openings, ())

    checkpoints_class = Versions
    files_handler_class = ContainerFiles

    _keys: tuple[Connection, SecretSet] | None = None

    def _container_default(self) -> str:
        return os.environ.get(CONTAINER) or DEFAULT_CONTAINER

    async def _ask(self, call: Callable[[Tree], T]) -> T:
        """A call of ours, in a thread; what it raises of our errors becomes an answer of the server."""

        def asked() -> T:
            with self.admission.connection() as connection:
                return call(Tree(connection, self.container))

        return await asyncio.to_thread(asked)

    # What is there

    async def is_hidden(self, path: str) -> bool:
        return any(each.startswith(".") for each in path.strip("/").split("/"))

    async def file_exists(self, path: str = "") -> bool:
        return await self._ask(lambda tree: tree.file(path.strip("/"))) is not None

    async def dir_exists(self, path: str) -> bool:
        return await self._ask(lambda tree: tree.is_folder(path.strip("/")))

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

        `hash` is that of the stored version.
        """
        path = path.strip("/")
        entry = await self._look(path, type)
        self.emit(data={"action": "get", "path": path})
        if entry.info is None:
            model = models.of_entry(entry)
            return await self._with_entries(path, model) if content else model
        if not content:
            told = self.openings.looked(_client(), path, entry.info.etag)
            return {**models.of_object(entry.info, writable=not is_evidence(path), kind=type), "hash": told}
        info, data = await self._ask(lambda tree: tree.read(path, most=LARGEST_OPENED))
        model = models.of_object(info, writable=not is_evidence(path), kind=type)
        if model["type"] == "notebook":
            # Not in a thread: the signatures of trusted notebooks lie in a database of this one.
            model |= self._notebook(data, path)
        else:
            model |= models.content(data, path, format)
        self.openings.opened(_client(), path, info.etag)
        return model

    async def _look(self, path: str, kind: str | None) -> Entry:
        try:
            if kind == "directory" and path:
                folder = await self._ask(lambda tree: tree.is_folder(path))
                entry = Entry(path, None) if folder else await self._ask(lambda tree: tree.look(path))
            else:
                entry = await self._ask(lambda tree: tree.look(path))
        except web.HTTPError as exc:
            if exc.status_code == 404:
                self.openings.forget(path, _client())
            raise
        if (entry.info is None) != (kind == "directory") and kind is not None:
            what = "folder" if entry.info is None else "file"
            raise web.HTTPError(400, f"{path} is a {what}, not a {kind}", reason="bad type")
        return entry

    async def _with_entries(self, path: str, model: dict[str, Any]) -> dict[str, Any]:
        def listed(tree: Tree) -> list[dict[str, Any]]:
            return [
                models.of_entry(each)
                for each in tree.entries(path)
                if self.should_list(each.name) and (self.allow_hidden or not each.name.startswith("."))
            ]

        return {**model, "content": await self._ask(listed), "format": "json"}

    def _notebook(self, data: bytes, path: str) -> dict[str, Any]:
        wrong: dict[str, Any] = {}
        try:
            node = nbformat.reads(data.decode("utf-8"), as_version=4, capture_validation_error=wrong)
        except Exception as exc:  # nbformat raises what its parsers do
            raise web.HTTPError(400, f"{path}: is no notebook that can be read ({exc})") from exc
        self.mark_trusted_cells(node, path)
        model = {"content": node, "format": "json"}
        self.validate_notebook_model(model, wrong)
        return model

    async def opened(self, path: str) -> ObjectStream:
        """The version of a file that is stored now, to be read piece by piece; the caller's to close."""
        return await self._ask(lambda tree: tree.open(path.strip("/")))

    # Saving

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """
        Store a file or notebook as a new version, or make a folder; answers its model without content.

        Raises
        ------
        tornado.web.HTTPError
            409 where another version is stored than this client was told of: both are kept. 400 for a model that is
            none, and for a file in which a key stands. 403 under `provenance/`.
        """
        path = path.strip("/")
        if not model.get("type"):
            raise web.HTTPError(400, f"{path}: the model has no type")
        if model["type"] == "directory":
            await self._ask(lambda tree: tree.make_folder(path))
            return models.of_folder(path, writable=True)
        if "content" not in model:
            raise web.HTTPError(400, f"{path}: the model has no content")
        if model.get("chunk") in (None, 1):
            self.run_pre_save_hooks(model=model, path=path)
        client = _client()
        said = _said(model)
        replaces = said or self.openings.replaces(client, path)
        if model.get("chunk") is not None:
            return await self._take_chunk(client, path, model, said)
        wrong: dict[str, Any] = {}
        data = (
            self._notebook_bytes(model, path, wrong)
            if model["type"] == "notebook"
            else models.decoded(model, path)
        )
        info = await self._store(client, path, data, replaces)
        saved = models.of_object(info, writable=True)
        if model["type"] == "notebook":
            checked = self.validate_notebook_model({"content": model["content"]}, wrong)
            saved |= {"message": checked["message"]} if "message" in checked else {}
        self.emit(data={"action": "save", "path": path})
        return saved

    def _notebook_bytes(self, model: dict[str, Any], path: str, wrong: dict[str, Any]) -> bytes:
        try:
            node = nbformat.from_dict(model["content"])
            self.check_and_sign(node, path)
            text: str = nbformat.writes(node, version=nbformat.NO_CONVERT, capture_validation_error=wrong)
            return (text if text.endswith("\n") else text + "\n").encode("utf-8")
        except Exception as exc:  # nbformat raises what its parsers do
            raise web.HTTPError(400, f"{path}: is no notebook that can be stored ({exc})") from exc

    async def _store(
        self, client: Client, path: str, source: bytes | Arrival, replaces: str | None
    ) -> ObjectInfo:
        beside = self.openings.beside(client, path)

        def store(tree: Tree) -> ObjectInfo:
            if isinstance(source, bytes):
                keys.refuse(path, source, self._secrets(tree.connection))
                return tree.save(path, source, replaces=replaces, beside=beside)
            if models.is_notebook(path):
                keys.refuse(path, _whole(path, source), self._secrets(tree.connection))
            return tree.save(path, source.file, replaces=replaces, beside=beside)

        def stored(tree: Tree) -> ObjectInfo | NotSaved:
            # Returned: who it happened to is written down on the server's own thread.
            try:
                return store(tree)
            except NotSaved as exc:
                return exc

        found = await self._ask(stored)
        if isinstance(found, NotSaved):
            self.openings.refused(client, path, found.held, found.beside)
            raise web.HTTPError(409, str(found))
        self.openings.saved(client, path, found.etag)
        return found

    def _secrets(self, connection: Connection) -> SecretSet:
        if self._keys is None or self._keys[0] is not connection:
            self._keys = connection, keys.known(connection)
        return self._keys[1]

    async def _take_chunk(
        self, client: Client, path: str, model: dict[str, Any], said: str | None
    ) -> dict[str, Any]:
        """A file that comes in chunks replaces what was there at the first: whoever sends it was asked then."""
        number = model["chunk"]
        if model["type"] != "file" or not isinstance(number, int):
            raise web.HTTPError(400, f"{path}: expected a file and the number of a chunk")

        def take(tree: Tree) -> Arrival | None:
            refuse_evidence(path)
            before = tree.file(path) if number == 1 and said is None else None
            replaces = said or (before.etag if before is not None else "")
            data = models.decoded(model, path)
            return self.arrivals.take((client.keys[-1], path), number, data, replaces=replaces)

        whole = await self._ask(take)
        if whole is None:
            return models.of_arrival(path, datetime.now(UTC))
        with whole.file:
            info = await self._store(client, path, whole, whole.replaces)
        self.emit(data={"action": "save", "path": path})
        return models.of_object(info, writable=True)

    # Moving, copying, deleting

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """
        Move a file or folder: each object is copied by the storage, then deleted at its old place.

        Descriptors and tags are the platform's and stay with the old place, as does each object's history.
        """
        old, new = old_path.strip("/"), new_path.strip("/")
        if old != new:
            await self._ask(lambda tree: tree.move(old, new))
            self.openings.moved(old, new)

    async def copy(self, from_path: str, to_path: str | None = None) -> dict[str, Any]:
        """Copy a file or folder; into `to_path` if that is a folder, with a number where the name is taken."""
        source = from_path.strip("/")
        folder, _, name = source.rpartition("/")
        target = folder if to_path is None else to_path.strip("/")
        if await self.dir_exists(target):
            # A copy of a copy is counted on, as Jupyter's own file system does.
            name = await self.increment_filename(copy_pat.sub(".", name), target, insert="-Copy")
            target = f"{target}/{name}".strip("/")
        await self._ask(lambda tree: tree.copy(source, target))
        self.emit(data={"action": "copy", "path": target, "source_path": source})
        return models.of_entry(await self._ask(lambda tree: tree.look(target)))

    async def delete_file(self, path: str) -> None:
        """Delete a file, or a folder with all in it, as the platform does: softly, with each version kept."""
        plain = path.strip("/")
        await self._ask(lambda tree: tree.remove(plain))
        self.openings.forget(plain)

    # Versions

    async def versions(self, path: str) -> list[ObjectVersion]:
        """The latest versions of a file, the oldest of them first."""
        return await self._ask(lambda tree: tree.versions(path.strip("/")))

    async def restore(self, path: str, version: str) -> None:
        """Make an old version's bytes the newest version; whoever restores it has it before them then."""
        plain = path.strip("/")
        etag = await self._ask(lambda tree: tree.restore(plain, version))
        self.openings.opened(_client(), plain, etag)

    # Kernels

    def get_kernel_path(self, path: str, model: dict[str, Any] | None = None) -> str:
        """
        Kernels work in a local folder, which has the container's folders and none of its files.

        So the place of a kernel's notebook in the container is that of its name in this folder (`JPY_SESSION_NAME`). In a
        server that `libsafe-nb lab` did not start they work in that server's own folder.
        """
        root = os.environ.get(FOLDER)
        if not root:
            return ""
        place = Path(root, path.strip("/").rpartition("/")[0]).resolve()
        if place.is_relative_to(root):
            place.mkdir(parents=True, exist_ok=True)
        return path

    def info_string(self) -> str:
        return f"Serving container {self.container} of a LIBSAFE Go"


def _client() -> Client:
    return client_of(CallContext.get(CallContext.JUPYTER_HANDLER))


def _said(model: dict[str, Any]) -> str | None:
    """Which version a save replaces, where the client itself says so."""
    handler = CallContext.get(CallContext.JUPYTER_HANDLER)
    header: str = "" if handler is None else handler.request.headers.get("If-Match", "")
    if header and header != "*":
        return header.strip('"')
    told = model.get("hash") if model.get("hash_algorithm") == models.HASH else None
    return told if isinstance(told, str) else None


def _whole(path: str, arrival: Arrival) -> bytes:
    """A notebook that came in chunks: none that is too large to be looked through gets in."""
    arrival.file.seek(0)
    data = arrival.file.read(LARGEST_OPENED + 1)
    if len(data) > LARGEST_OPENED:
        raise web.HTTPError(
            413, f"{path}: expected a notebook of at most {LARGEST_OPENED} bytes, found a larger one"
        )
    return data
