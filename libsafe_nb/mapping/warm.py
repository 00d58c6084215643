"""
What the first unit of a map would import and set up in each worker: done once, in the process that they are forked from.

Imported by that process (`crew.py`), and by nothing else, as the import itself does it. It starts no thread, which a fork
would not have, and opens no connection.
"""

from __future__ import annotations

import contextlib

from libsafe_nb import spared

spared.spare(*spared.JSONSCHEMA, *spared.PAPERMILL)

with contextlib.suppress(Exception):
    # What is wrong here, a worker will tell.
    import nbformat
    import papermill

    from libsafe_nb import client, engine, report, runner, s3wire, storage
    from libsafe_nb.mapping import working
    from libsafe_nb.settings import S3Settings

    __all__ = ["client", "engine", "papermill", "report", "runner", "storage", "working"]
    # The format's schema is compiled, and the description of S3 read.
    nbformat.validate(nbformat.v4.new_notebook())
    s3wire.connect(S3Settings("http://127.0.0.1:1", "bucket", "nobody", "nothing")).close()
