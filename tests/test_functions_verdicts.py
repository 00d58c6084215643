"""What the worked functions must not say: a date that is a number, a file that is another one, a bag that is not valid."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from worked import LETTER, ROOT, SAMPLES, Case, run, served

from libsafe_nb import testing

SIZE = len(LETTER)
MD5 = hashlib.md5(LETTER).hexdigest()
BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


@pytest.fixture
def place(container, connection):
    return testing.Container(container, connection)


def test_a_number_is_no_date_and_a_year_alone_is_told(place):
    numbers = (
        "/DSC_1234.jpg", "/IMG_2034.JPG", "/IMG_1911.JPG", "/DSC-1911.jpg", "/box 1007 item 3.tif", "/banner_1600.jpg",
        "/1920x1080.png", "/harbour 9999.jpg",
    )  # fmt: skip
    years = {"/harbour 1911.txt": "1911", "/1911.txt": "1911", "/box 1007 (1911).txt": "1911"}
    days = {
        "/03-03-1911.txt": "1911-03-03",
        "/letter_13.03.1911_02.txt": "1911-03-13",
        "/01-02-1911-03-04.txt": "1911-03-04",
        "/IMG_19110304.jpg": "1911-03-04",
    }
    case = Case(
        files=dict.fromkeys((*numbers, *years, *days, "/03-04-1911.txt"), LETTER),
        warned={
            **dict.fromkeys(numbers, "no date"),
            **dict.fromkeys(years, "only a year"),
            "/03-04-1911.txt": "the day may be the month",
        },
        metadata={
            **{path: {} for path in (*numbers, "/03-04-1911.txt")},
            **{path: {"date": date} for path, date in {**years, **days}.items()},
        },
        scraps={"written": 7},
    )
    run(place, "date_from_name", case).check(case)


def test_a_pattern_that_is_none_is_refused_in_words(place):
    place.put("/1911.txt", LETTER)
    done = testing.run(
        place, ROOT / "notebooks" / "date_from_name.ipynb", files=["/1911.txt"], params={"pattern": "("}
    )
    assert "pattern: '(' is no regular expression" in str(done.error)
    assert not place.file("/1911.txt").metadata


def test_a_manifest_in_a_folder_is_checked_there_and_never_against_a_file_elsewhere(place, tmp_path):
    case = Case(
        files=dict.fromkeys(("/letter.txt", "/a/letter.txt", "/a/b/c.txt"), LETTER),
        params={"file_name": "a/m.txt"},
        failed={"/letter.txt": "lies outside of /a/"},
        stored={"/a/m.txt": f"{MD5}  ./letter.txt\n{MD5}  ./b/c.txt\n".encode()},
    )
    run(place, "create_md5_manifest", case).check(case)

    (tmp_path / "b").mkdir()
    for name in ("m.txt", "letter.txt", "b/c.txt"):
        (tmp_path / name).write_bytes(place.read(f"/a/{name}"))
    subprocess.run(["md5sum", "-c", "--strict", "m.txt"], cwd=tmp_path, check=True, capture_output=True)

    case = Case(
        files={
            "/a/m.txt": place.read("/a/m.txt"),
            "/a/old.txt": f"{MD5}  letter.txt\n{MD5}  ./top.txt\n".encode(),
        },
        beside={"/letter.txt": LETTER.replace(b"dry", b"wet"), "/top.txt": LETTER},
        failed={
            "/a/old.txt": ["'letter.txt' may mean /a/letter.txt and /letter.txt", "'./top.txt' is missing"]
        },
        told=dict.fromkeys(("/a/letter.txt", "/a/b/c.txt"), "md5 is as in /a/m.txt"),
        scraps={"verified": 2},
    )
    run(place, "verify_manifest", case).check(case)


def bag(name, **changed):
    files = {
        "bagit.txt": BAGIT,
        "manifest-md5.txt": f"{MD5}  data/letter.txt\n".encode(),
        "data/letter.txt": LETTER,
    }
    return {f"/{name}/{path}": data for path, data in {**files, **changed}.items()}


def test_a_bag_is_not_valid_by_what_bagit_does_not_look_for(place):
    def fetching(line):
        return {"fetch.txt": line.encode()}

    case = Case(
        beside={
            **bag("unlisted", **fetching(f"https://example.org/x {SIZE} data/x.txt\n")),
            **bag("listed", **fetching(f"https://example.org/letter.txt {SIZE} data/letter.txt\n")),
            **bag("short", **fetching("https://example.org/x\n")),
            **bag("three", **{"bagit.txt": BAGIT + b"Contact: nobody\n"}),
            **bag("oxum", **{"bag-info.txt": b"Payload-Oxum: many\n"}),
            **bag("count", **{"bag-info.txt": b"Payload-Oxum: 1.1\n"}),
        },
        failed={
            "/unlisted/fetch.txt": "'data/x.txt' is in no payload manifest",
            "/short/bagit.txt": "fetch.txt: expected an address",
            "/three/bagit.txt": "exactly two lines",
            "/oxum/bagit.txt": "Payload-Oxum: expected bytes and files",
            "/count/bagit.txt": "Payload-Oxum validation failed",
        },
        told={"/listed/bagit.txt": "is valid"},
        scraps={"bags": 6, "valid": 1},
    )
    run(place, "validate_bags", case).check(case)


def test_no_reference_begins_as_a_spreadsheet_s_formula_does(place):
    values = ["\t=1+1", "\r=1+1", "=1+1", "plain"]
    place.put("/a.txt", LETTER)
    client = place.connection.client
    client.set_metadata(
        client.file_by_path(place.id, "/a.txt")["id"], [{"iecode": "relation", "value": values}]
    )
    left = run(place, "container_report", Case())
    assert [row["to"] for row in left.rows("/reports/links.csv")] == ["'\t=1+1", "'\r=1+1", "'=1+1", "plain"]


PRIVATE = (
    "[64:ff9b::7f00:1]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fec0::1]", "[::7f00:1]",
    "[::ffff:127.0.0.1]", "[::1]", "127.0.0.1", "10.0.0.1", "224.0.0.1", "[ff0e::1]",
)  # fmt: skip


def test_no_form_of_a_private_address_is_fetched(place):
    lines = [f"http://{each}/ {SIZE} data/1.txt" for each in PRIVATE]
    lines.append(f"http://:word@example.org/ {SIZE} data/1.txt")
    sums = f"{hashlib.sha256(LETTER).hexdigest()}  data/1.txt\n".encode()
    case = Case(
        files={"/bag/fetch.txt": "\n".join(lines).encode()},
        beside={"/bag/manifest-sha256.txt": sums, "/bag/manifest-sha384.txt": b""},
        warned={"/bag/manifest-sha384.txt": "nothing is held against"},
        failed={
            "/bag/fetch.txt": [
                *(f"{each.strip('[]')} is in the local network" for each in PRIVATE),
                "without a user's name",
            ]
        },
        absent=("/bag/data/1.txt",),
        scraps={"failures": len(lines)},
    )
    run(place, "fetch_files", case).check(case)


def test_what_was_fetched_in_vain_counts_too_and_a_server_by_name_is_found(place):
    hosts = []

    def answer(request):
        hosts.append(request.headers["Host"])
        return False

    sums = "".join(f"{hashlib.sha256(LETTER).hexdigest()}  data/{each}\n" for each in (1, 2, 3)).encode()
    with served(SAMPLES, answer) as port:
        lines = [
            f"http://localhost:{port}/{each}" for each in ("letter.txt - data/1", "inventory.csv - data/2")
        ]
        lines.append(f"http://localhost:{port}/letter.txt - data/3")
        total = SIZE + (SAMPLES / "inventory.csv").stat().st_size
        case = Case(
            files={"/bag/fetch.txt": "\n".join(lines).encode()},
            beside={"/bag/manifest-sha256.txt": sums},
            params={"allow_private_hosts": True, "max_total": total},
            failed={"/bag/fetch.txt": ["line 2: sha256 is", "line 3: is longer than the 0 bytes"]},
            stored={"/bag/data/1": LETTER},
            absent=("/bag/data/2", "/bag/data/3"),
            scraps={"files": 1, "bytes": SIZE},
        )
        run(place, "fetch_files", case).check(case)
    assert set(hosts) == {f"localhost:{port}"}
