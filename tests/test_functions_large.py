"""The worked functions over a file of 1 GiB: `pytest -m slow tests/test_functions_large.py -s` prints memory and time of each."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from pathlib import Path

import psutil
import pytest
from worked import JPEG, MIB, Case, run, served

from libsafe_nb import testing

GIB = 2**30
END = b"startxref\n9\n%%EOF"
"""It leads to nothing; with no line end before it, a reader that goes back by lines would take all of the file for one."""
LINES = GIB // 10_000 * 1000


class Peak:
    """The largest memory of any kernel that this process started, in bytes, while it is watched."""

    def __init__(self):
        self.bytes, self._end = 0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()

    def _watch(self):
        while not self._end.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(OSError, psutil.Error, StopIteration):
                    # Not the S3 server, which keeps what it likes.
                    if "ipykernel" in " ".join(process.cmdline()):
                        text = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                        found = next(line for line in text if line.startswith("VmHWM"))
                        self.bytes = max(self.bytes, int(found.split()[1]) * 1024)


@pytest.fixture(scope="module")
def zeros(tmp_path_factory):
    """Holes of a GiB, which take no room on the disk, with a head and a tail; and a file of one block over and over."""
    folder = tmp_path_factory.mktemp("large")

    def make(name, head=b"", tail=b"", block=b""):
        path = folder / name
        with path.open("wb") as target:
            for _ in range(GIB // len(block) if block else 0):
                target.write(block)
            target.write(head)
            target.truncate(max(GIB, target.tell()) if not block else None)
            target.seek(-len(tail), 2)
            target.write(tail)
        return path

    yield make
    for path in folder.iterdir():
        path.unlink()


def whole_pdf(zeros):
    """A page, and an object of a GiB that is not part of it."""
    head = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    page = (
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n4 0 obj<</Length 1073741000>>stream\n"
    )
    starts = [(head + page).index(b"%d 0 obj" % number) for number in (1, 2, 3)]
    table = b"\nxref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % each for each in starts)
    tail = table + b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n"
    at = GIB - len(tail) - len(b"1073741824\n%%EOF") + 1
    return zeros("4", head=head + page, tail=tail + b"%d\n%%%%EOF" % at)


def digest(algorithm):
    found = hashlib.new(algorithm)
    for _ in range(GIB // MIB):
        found.update(bytes(MIB))
    return found.hexdigest()


def cases(zeros, port):
    pdf = {"head": b"%PDF-1.4\n", "tail": END}
    sha256 = f"{digest('sha256')}  data/big\n".encode()
    return {
        "hash_files": lambda: Case(files={"/big": zeros("0")}, told={"/big": f"md5: {digest('md5')}"}),
        "create_md5_manifest": lambda: Case(
            files={"/big": zeros("0")}, stored={"/manifest-md5.txt": f"{digest('md5')}  big\n".encode()}
        ),
        "verify_manifest": lambda: Case(
            files={"/a.md5": f"{digest('md5')}  big\n".encode(), "/big": zeros("0")},
            told={"/big": "md5 is as in /a.md5"},
            failed={"/big": "it is no manifest"},
        ),
        "validate_bags": lambda: Case(
            beside={
                "/bag/bagit.txt": b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
                "/bag/manifest-sha256.txt": sha256,
                "/bag/data/big": zeros("0"),
                "/odd/bagit.txt": b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
                "/odd/manifest-md5.txt": zeros("0"),
            },
            told={"/bag/bagit.txt": "is valid"},
            failed={"/odd/bagit.txt": "too large for a tag file"},
        ),
        "identify_formats": lambda: Case(
            files={
                "/big": zeros("0"),
                "/big.pdf": zeros("1", head=b"%PDF-1.4\n", tail=b"%%EOF"),
                "/big.zip": zeros("2", head=b"PK\3\4", tail=b"PK\1" + bytes(50) + b"PK\5\6" + bytes(18)),
            },
            warned={"/big": "its format is not known"},
            metadata={"/big.pdf": {"format_puid": "fmt/18"}, "/big.zip": {"format_puid": "x-fmt/263"}},
        ),
        "technical_metadata": lambda: Case(
            files={
                "/big.tif": zeros("0"),
                "/big.pdf": zeros("1", **pdf),
                "/truncated.pdf": zeros("2", head=b"%PDF-1.4\n"),
                "/whole.pdf": whole_pdf(zeros),
                "/last good.jpg": JPEG,
            },
            failed=dict.fromkeys(("/big.tif", "/big.pdf", "/truncated.pdf"), ""),
            metadata={"/last good.jpg": {"image_width": 160}, "/whole.pdf": {"pdf_pages": 1}},
        ),
        "date_from_name": lambda: Case(files={"/1911": zeros("0")}, metadata={"/1911": {"date": "1911"}}),
        "find_personal_data": lambda: Case(
            files={
                "/zeros.txt": zeros("0"),
                # Two letters that could begin an address, and digits that could begin a number.
                "/big.txt": zeros("1", block=b"a.b4111 " * 1000 + b"\n"),
                "/one line.txt": zeros("2", block=b"abcdefgh" * 1024),
                "/big.pdf": zeros("3", **pdf),
                "/last good.txt": b"ana@example.org",
            },
            warned={"/zeros.txt": "nobody looked into it", "/last good.txt": "1 e-mail"},
            told=dict.fromkeys(("/big.txt", "/one line.txt"), "found: nothing"),
            failed={"/big.pdf": ""},
        ),
        "normalise": lambda: Case(
            files={
                "/big.csv": zeros("0", block=b"1;2;a b c\n" * 1000),
                "/zeros.csv": zeros("1"),
                "/one line.csv": zeros("2", block=b"abcdefgh" * 1024),
                "/big.tif": zeros("1"),
                "/last good.csv": b"a;b\n1;2\n",
            },
            failed=dict.fromkeys(("/zeros.csv", "/one line.csv", "/big.tif"), ""),
            stored={"/preservation/last good.csv": b"a,b\r\n1,2\r\n"},
            scraps={"made": 2},
        ),
        "container_report": lambda: Case(beside={"/big": zeros("0")}, scraps={"files": 2}),
        "fetch_files": lambda: Case(
            files={
                "/bag/fetch.txt": f"http://127.0.0.1:{port}/0 {GIB} data/big\n".encode(),
                "/odd/fetch.txt": zeros("0"),
            },
            beside={"/bag/manifest-sha256.txt": sha256, "/odd/manifest-sha256.txt": sha256},
            params={"allow_private_hosts": True},
            told={"/bag/data/big": f"fetched from 127.0.0.1: {GIB} bytes"},
            failed={"/odd/fetch.txt": "it is no fetch.txt"},
        ),
    }


NAMES = (
    "hash_files", "create_md5_manifest", "verify_manifest", "validate_bags", "identify_formats", "technical_metadata",
    "date_from_name", "find_personal_data", "normalise", "container_report", "fetch_files",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_gibibyte_needs_no_more_memory_than_a_small_one(name, container, connection, zeros):
    with served(zeros("0").parent) as port, Peak() as peak:
        case = cases(zeros, port)[name]()
        begun = time.monotonic()
        left = run(testing.Container(container, connection), name, case)
        print(
            f"\n{name}: {peak.bytes // MIB} MiB, {left.run.seconds:.0f} s of {time.monotonic() - begun:.0f} s with the upload"
        )

    left.check(case)
    for path in left.place.files:  # the disk is not filled with what the next one does not need
        left.place.connection.storage.delete(left.place.id, path)
    assert 50 * MIB < peak.bytes < 512 * MIB
