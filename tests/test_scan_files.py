"""Files that a function writes are looked through as they pass, whatever their size and pieces."""

from __future__ import annotations

import gzip
import pickle
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redact_samples import (
    ALNUM,
    AWS_LIKE,
    CYRILLIC,
    PLAIN,
    SHORT,
    STRONG,
    STRONG_ONLY,
    b64,
    png,
    secret_set,
    zipped,
)

from libsafe_nb.redact import SecretSet, StreamScanner
from libsafe_nb.secrets import Secret

THREE = SecretSet([Secret("key_user", ALNUM), Secret("key_root", AWS_LIKE), Secret("pin", SHORT["plain"])])


def scanned(secrets, data, *, piece=65536, keep=None):
    scanner = StreamScanner(secrets) if keep is None else StreamScanner(secrets, keep=keep)
    for start in range(0, len(data), piece):
        scanner.feed(data[start : start + piece])
    return scanner.finish()


@pytest.mark.parametrize("way", {**PLAIN, **STRONG_ONLY})
@pytest.mark.parametrize("key", STRONG.values(), ids=STRONG)
def test_a_text_file_with_a_form_of_a_secret_is_found(key, way):
    leak, rows = {**PLAIN, **STRONG_ONLY}[way](key), "1,2\n" * 99

    scan = scanned(secret_set(key), f"né,b\n{rows}{leak}\n3,4\n".encode(), piece=37)

    assert {name for name, _ in scan.hits} == {"key_user"}
    assert not scan.clean


IN_BINARY = [way for way in PLAIN if way not in {"html-twice", "url-lower"}]


@pytest.mark.parametrize("way", IN_BINARY)
@pytest.mark.parametrize("key", [*STRONG.values(), *SHORT.values()], ids=[*STRONG, *SHORT])
def test_other_files_are_searched_for_what_is_verbatim_escaped_in_base64_or_hex(key, way):
    leak = PLAIN[way](key).encode()

    scan = scanned(secret_set(key), b"\x00\x01binary" * 99 + leak + b"\xff\xfe" * 99, piece=37)

    assert {name for name, _ in scan.hits} == {"key_user"}


@given(
    place=st.integers(0, 700_000),
    piece=st.integers(1, 300_000),
    way=st.sampled_from(["verbatim", "base64-1", "hex-colons", "url", "spaced"]),
)
@settings(max_examples=60, deadline=None)
def test_no_boundary_of_pieces_or_blocks_hides_a_form(place, piece, way):
    """Also where nothing is kept, so that what is found was found in passing."""
    leak = {**PLAIN, **STRONG_ONLY}[way](AWS_LIKE).encode()
    data = b"." * place + leak + b"." * (700_000 - place)

    scan = scanned(secret_set(AWS_LIKE), data, piece=max(piece, 500), keep=1000)

    assert {name for name, _ in scan.hits} == {"key_user"}
    assert scan.size == len(data)


WRAPPINGS = {
    "gzip": gzip.compress(b"x" * 99 + ALNUM.encode()),
    "zip": zipped(ALNUM.encode()),
    "zlib": zlib.compress(ALNUM.encode()),
    "pickle": pickle.dumps({"a": gzip.compress(ALNUM.encode())}),
    "tar-of-zip": bytes(512) + zipped(ALNUM.encode()) + bytes(1024),
    "png": png(b"zTXt", b"C\0\0" + zlib.compress(ALNUM.encode())),
    "csv": b"id,blob\n1," + b64(gzip.compress(ALNUM.encode())).encode() + b"\n",
    "html": "".join(f"<b>{char}</b>" for char in ALNUM).encode(),
}


@pytest.mark.parametrize("kind", WRAPPINGS)
def test_wrappings_are_looked_into_at_the_end(kind):
    scan = scanned(secret_set(ALNUM), WRAPPINGS[kind])

    assert {name for name, _ in scan.hits} == {"key_user"}
    assert scan.not_checked == ()


def test_of_a_large_file_wrappings_are_not_checked_and_that_is_said():
    data = gzip.compress(ALNUM.encode()) + bytes(5000)

    scan = scanned(secret_set(ALNUM), data, keep=4000)

    assert scan.clean
    assert scan.not_checked == ("wrappings such as gzip, for the file is larger than 4000 bytes",)


def test_what_cannot_be_opened_is_said():
    scan = scanned(secret_set(ALNUM), gzip.compress(random.Random(1).randbytes(500))[:-40])

    assert scan.clean
    assert scan.undecidable == ("it is gzip cut short",)


def test_a_hit_is_known_before_the_end():
    scanner = StreamScanner(secret_set(ALNUM))

    scanner.feed(ALNUM.encode() + bytes(600_000))

    assert scanner.hits == (("key_user", "verbatim"),)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("key", [ALNUM, CYRILLIC], ids=["alnum", "cyrillic"])
def test_wide_text_files_are_read(key, encoding):
    assert not scanned(secret_set(key), f"a,b\n{key},1\n".encode(encoding)).clean


@pytest.mark.parametrize("seed", range(6))
def test_innocent_files_are_clean(seed):
    chance = random.Random(seed)
    noise = chance.randbytes(300_000)
    for data in (
        noise,
        gzip.compress(noise),
        noise.hex().encode(),
        b64(noise).encode(),
        zipped(noise),
        png(b"tEXt", b"a\0b", pixels=noise),
        pickle.dumps([noise]),
        b"",
    ):
        scan = scanned(THREE, data, piece=100_000)

        assert (scan.hits, scan.undecidable, scan.not_checked, scan.size) == ((), (), (), len(data))
