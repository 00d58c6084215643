"""
New functions over HTTP: `GET /libsafe/templates` tells what there is to begin from, `POST /libsafe/new` begins one.

Both ask for what the contents of the server ask for: its token, and leave to read or write.
"""

from __future__ import annotations

import json
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from libsafe_nb import template
from libsafe_nb.errors import UsageError
from libsafe_nb.evidence import slug

LONGEST_TITLE = 200


class Templates(APIHandler):
    """A list of `{"name", "description"}`, the blank one first."""

    auth_resource = "contents"

    @web.authenticated
    @authorized
    async def get(self) -> None:
        known = [{"name": name, "description": template.describe(name)} for name in template.names()]
        self.finish(json.dumps(known))


class NewFunction(APIHandler):
    """
    Makes a notebook of `{"template", "folder", "title"}` and answers with its model, without content, as 201.

    `title` may be left out or empty: the template's own is taken then. The file is called after the title, with a
    number where there is one of that name. The functions that it calls by path are begun beside it, if there are none.
    """

    auth_resource = "contents"

    @web.authenticated
    @authorized
    async def post(self) -> None:
        asked = self.get_json_body() or {}
        folder = _text(asked, "folder").strip("/")
        title = " ".join(_text(asked, "title").split())
        if len(title) > LONGEST_TITLE:
            raise web.HTTPError(
                400, f"title: expected at most {LONGEST_TITLE} characters, found {len(title)}"
            )
        chosen = _text(asked, "template") or template.BLANK
        try:
            notebook = template.notebook(chosen, title=title or None)
        except UsageError as exc:
            raise web.HTTPError(400, str(exc)) from exc
        contents: Any = self.contents_manager
        wanted = slug(notebook.metadata["libsafe"]["title"]).lower() + ".ipynb"
        if not contents.allow_hidden and await ensure_async(contents.is_hidden(folder)):
            raise web.HTTPError(400, f"{folder}: hidden folders are not written to here")
        made = {"type": "notebook", "content": notebook}
        for each in template.BESIDE.get(chosen, ()):
            if not await ensure_async(contents.file_exists(f"{folder}/{each}.ipynb".strip("/"))):
                part = {"type": "notebook", "content": template.notebook(each, key=each)}
                await contents.create(part, folder, f"{each}.ipynb", insert="-")
        model = await contents.create(made, folder, wanted, insert="-")
        self.set_status(201)
        self.finish(json.dumps({**model, "content": None}, default=str))


def routes(base_url: str) -> list[tuple[str, type[APIHandler]]]:
    """The two calls, for the server's `web_app.add_handlers`."""
    return [
        (url_path_join(base_url, "libsafe", "templates"), Templates),
        (url_path_join(base_url, "libsafe", "new"), NewFunction),
    ]


def _text(asked: Any, name: str) -> str:
    found = asked.get(name, "") if isinstance(asked, dict) else None
    if not isinstance(found, str):
        raise web.HTTPError(400, f"{name}: expected text, in a JSON object")
    return found
