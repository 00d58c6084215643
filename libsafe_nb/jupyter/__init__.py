"""
What a Jupyter server gets from us: a container as its files (`contents.py`), and calls for the Lab (`creation.py`).

Importing this costs nothing: every Jupyter server of the environment may ask for its extension points.
"""

from __future__ import annotations

from typing import Any

NOT_HERE = (
    # Asks the user whether it may fetch news from the internet.
    "@jupyterlab/apputils-extension:announcements",
    # Its server's side is a contents manager, and here that is the container's.
    "jupyterlab-jupytext",
)
"""Extensions of JupyterLab that `libsafe-nb lab` does without."""


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "libsafe_nb.jupyter"}]


def _load_jupyter_server_extension(server: Any) -> None:
    from libsafe_nb.jupyter import creation

    server.web_app.add_handlers(".*$", creation.routes(server.web_app.settings["base_url"]))
    # The extension of the Lab (`data/labextension`) does something only where this is told.
    server.web_app.settings.setdefault("page_config_data", {})["libsafe"] = "true"
    server.web_app.settings["page_config_hook"] = _without


def _without(_: Any, page_config: dict[str, Any]) -> dict[str, Any]:
    """The Lab's page, less the parts of it that want what is not there."""
    return {**page_config, "disabledExtensions": [*page_config.get("disabledExtensions", []), *NOT_HERE]}
