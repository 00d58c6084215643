"""Several digests in one reading."""

import hashlib
import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb import errors
from libsafe_nb.digests import BLOCK, digest

NAMES = ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256")


@given(st.binary(max_size=1000), st.lists(st.sampled_from(NAMES)))
def test_each_digest_is_hashlibs(data, names):
    assert digest(io.BytesIO(data), *names) == {name: hashlib.new(name, data).hexdigest() for name in names}


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 11 * BLOCK])
def test_blocks_are_hashed_in_order(size):
    data = bytes(range(256)) * (size // 256 + 1)
    stream = io.BytesIO(data[:size])

    assert digest(stream, "md5", "sha256") == {
        "md5": hashlib.md5(data[:size]).hexdigest(),
        "sha256": hashlib.sha256(data[:size]).hexdigest(),
    }
    assert stream.tell() == size


def test_it_begins_where_the_stream_stands():
    stream = io.BytesIO(b"headbody")
    stream.seek(4)

    assert digest(stream, "sha1")["sha1"] == hashlib.sha1(b"body").hexdigest()


@pytest.mark.parametrize("name", ["md6", "", "shake_128"])
def test_an_unknown_algorithm_is_refused_before_anything_is_read(name):
    stream = io.BytesIO(b"x")

    with pytest.raises(errors.UsageError, match="expected"):
        digest(stream, "md5", name)
    assert stream.tell() == 0


def test_a_reading_that_fails_leaves_no_thread():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= 3 * BLOCK:
                raise OSError("gone")
            return super().read(size)

    with pytest.raises(OSError, match="gone"):
        digest(Failing(bytes(5 * BLOCK)), *NAMES)

    assert not [each for each in threading.enumerate() if each.name.startswith("digest-")]


def test_the_package_offers_the_function_whatever_was_imported_before():
    """A module of the same name would take its place once anything imported it."""
    import libsafe_nb
    import libsafe_nb.storage

    assert libsafe_nb.digest is digest
