"""Containers. Ours, save the write of metadata, whose body is seen in client code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from libsafe_nb.compat import forms, session
from libsafe_nb.compat.item import Item, id_of
from libsafe_nb.compat.standin import file

__all__ = ["create", "create_folder", "get", "get_files", "get_metadata", "list", "set_metadata"]


def get(container_id: Any) -> Item:
    return Item(session.current().client.container(id_of(container_id)))


def list() -> Iterator[Item]:
    """The containers that the key may see, fetched a page at a time."""
    return (Item(each) for each in session.current().client.containers())


def get_files(container_id: Any) -> Iterator[Item]:
    """Files and folders of a container, fetched a page at a time: memory stays flat."""
    return file.list(container_id)


def create(name: str, description: str | None = None, fields: Mapping[str, str] | None = None) -> Item:
    """Create a container; `fields` are further ones of the form, such as `metadata_schema_id`."""
    return Item(session.current().outbox.container(name, description, dict(fields or {})))


def create_folder(container_id: Any, path: str) -> None:
    """Create a folder; one that is there already is fine."""
    session.current().outbox.folder(id_of(container_id), path)


def get_metadata(container_id: Any, flatten: bool = False) -> Any:
    """As `File.get_metadata`, of the container itself."""
    found = session.current().client.container_metadata(id_of(container_id))
    return forms.flat(found) if flatten else found


def set_metadata(container_id: Any, metadata: Any) -> None:
    """As `File.set_metadata`, of the container itself."""
    session.current().outbox.metadata("container", id_of(container_id), forms.descriptors(metadata))
