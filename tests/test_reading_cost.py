"""What reading costs the local platform's S3 server, in processor time, which a busy machine does not change much."""

import io
import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from libsafe_nb import local
from libsafe_nb.connection import connect
from libsafe_nb.digests import digest

MIB = 1024 * 1024

pytestmark = pytest.mark.slow  # 1 GiB, four times


def test_a_slow_reader_leaves_the_server_as_quick_as_it_was(tmp_path):
    """With 300 MiB for its heap it went on to collect garbage without end: 2.7 times the processor time."""
    with (
        local.serve(tmp_path / "platform") as served,
        closing(connect(settings=served.settings)) as connection,
    ):
        container = str(connection.client.create_container("cost")["id"])
        connection.storage.upload(container, "data.bin", io.BytesIO(os.urandom(MIB) * 1024))
        (told,) = (tmp_path / "platform").rglob("s3side.json")
        server = json.loads(told.read_text())["weed"]["pid"]

        def read():
            before = processor_seconds(server)
            with connection.storage.open(container, "data.bin") as stream:
                while stream.read(8 * MIB):
                    pass
            return processor_seconds(server) - before

        read()
        quick = read()
        # One GET of the whole, taken no faster than it is hashed.
        body = connection.storage.connected.get_object(
            Bucket=connection.storage.bucket, Key=f"{container}/data.bin"
        )["Body"]
        digest(body, "md5", "sha1", "sha256")

        assert read() < 1.8 * quick


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
