"""The worked functions over files that are not as they should be: what is wrong is told of each, and the others are done."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import zipfile
from collections import Counter

import pytest
from PIL import ExifTags, Image
from worked import JPEG, LETTER, MIB, PDF, SAMPLES, Case, run, served

from libsafe_nb import errors, testing

ODD = "/ünï ✓ 日本 {brace} $x %41 'q' 1911.txt"
FILES = {
    "/gone.txt": LETTER,
    "/empty.txt": b"",
    "/truncated.jpg": JPEG[:700],
    "/truncated.pdf": PDF[: len(PDF) // 2],
    "/letter.jpg": LETTER,
    "/picture.csv": JPEG,
    ODD: LETTER,
    # More than one block of all that read in blocks. A GiB: `test_functions_large.py`.
    "/large": bytes(9 * MIB),
    "/last good.txt": LETTER,
}
GONE = {"/gone.txt": "deleted or missing"}
HERE = {path: data for path, data in FILES.items() if path not in GONE}


def md5(data):
    return hashlib.md5(data).hexdigest()


def line(data, name):
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n"


def image(kind, *colours, size=(20, 20), mode="RGB", **more):
    frames = [Image.new(mode, size, colour) for colour in colours]
    target = io.BytesIO()
    if frames[1:]:
        more |= {"save_all": True, "append_images": frames[1:]}
    frames[0].save(target, kind, **more)
    return target.getvalue()


def word(document):
    """The parts of a Word document by which a reader knows it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", document)
    return target.getvalue()


BOMB = word(bytes(100 * MIB))
"""A Word document of 100 kB whose text unpacks to 100 MiB."""
EXIF = Image.Exif()
EXIF[ExifTags.Base.Orientation], EXIF[ExifTags.Base.Make] = 6, "Ex\0\x07"
ROTATED = image("JPEG", "red", size=(40, 20), exif=EXIF)
LARGE = image("PNG", 0, size=(20_000, 20_000), mode="1")


def bag(name, change=(), without=()):
    harbour = SAMPLES / "bags" / "harbour"
    files = {
        f"/{name}/{path.relative_to(harbour)}": path.read_bytes()
        for path in harbour.rglob("*")
        if path.is_file()
    }
    return {path: data for path, data in {**files, **dict(change)}.items() if path not in without}


BAGS = {
    **bag("changed {1}", {"/changed {1}/data/letter.txt": LETTER.replace(b"dry", b"wet")}),
    **bag("incomplete", without=["/incomplete/data/letter.txt"]),
    **bag("more", {"/more/data/unlisted ✓.txt": b"x"}),
    **bag("evil", {"/evil/manifest-md5.txt": f"{md5(b'x')}  ../../etc/passwd\n".encode()}),
    **bag("empty", {"/empty/bagit.txt": b""}),
    **bag("binary", {"/binary/manifest-md5.txt": JPEG}),
    **bag("twice", {"/twice/manifest-md5.txt": f"{md5(b'x')}  data/a\n{md5(b'y')}  data/a\n".encode()}),
    # Since BagIt 1.0 each manifest lists each file.
    **bag(
        "half",
        {"/half/manifest-md5.txt": f"{md5(LETTER)}  data/letter.txt\n".encode()},
        without=["/half/tagmanifest-sha256.txt"],
    ),
    **bag("deep/last good"),
    # RFC 8493 writes a percent sign so; and an accent in either way.
    "/percent/bagit.txt": b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
    "/percent/manifest-md5.txt": f"{md5(LETTER)}  data/100%25.txt\n{md5(LETTER)}  data/e\u0301.txt\n".encode(),
    "/percent/data/100%.txt": LETTER,
    "/percent/data/é.txt": LETTER,
}
SUMS = "".join(
    (
        line(LETTER, ODD[1:]),
        line(b"", "empty.txt"),
        line(LETTER, "changed.txt"),
        line(LETTER, "gone.txt"),
        line(LETTER, "../outside.txt"),
        "\\" + line(LETTER, "new\\nline.txt"),
        "this is no line of a manifest\n",
        line(LETTER, "folder"),
        f"MD5 (last good.txt) = {md5(LETTER).upper()}\r\n",
        f"BLAKE2b (last good.txt) = {hashlib.blake2b(LETTER).hexdigest()}\n",
        line(LETTER, "last")[:40],
    )
)
DATES = (
    "/1911-02-30.txt", "/1911-03-03 or 1911-03-04.txt", "/1911-13.txt", "/gone 1911.txt", "/191103.txt", "/0000.txt",
    "/{1911} ✓.txt", "/IMG_20240229_120000.jpg", "/1911-03-03/none.txt", "/1911-03-03 1200.txt",
)  # fmt: skip

CASES = {
    "hash_files": Case(
        files=FILES,
        gone=("/gone.txt",),
        failed=GONE,
        told={path: f"md5: {md5(data)}" for path, data in HERE.items()},
        scraps={"hashed": len(HERE)},
    ),
    "create_md5_manifest": Case(
        files=FILES,
        gone=("/gone.txt",),
        params={"file_name": "/{all} ✓.txt"},
        failed=GONE,
        stored={
            "/{all} ✓.txt": "".join(f"{md5(data)}  {path[1:]}\n" for path, data in HERE.items()).encode()
        },
    ),
    "verify_manifest": Case(
        files={
            "/empty.txt": b"",
            "/picture.sha256": JPEG * 30,
            "/SHA256SUMS": SUMS.encode(),
            "/last.md5": f"{md5(LETTER)} *last good.txt\n".encode(),
        },
        beside={ODD: LETTER, "/changed.txt": b"x", "/folder/a.txt": LETTER, "/last good.txt": LETTER},
        failed={
            "/empty.txt": "lists no file",
            "/picture.sha256": "it is no manifest",
            "/changed.txt": "changed: sha256 is",
            "/SHA256SUMS": [
                "'gone.txt' is missing",
                "leads out of the folder",
                "'new\\nline.txt' is missing",
                "line 7:",
                "'folder' is missing",
                "line 10:",
                "line 11:",
            ],
        },
        told={
            ODD: "sha256 is as in /SHA256SUMS",
            "/empty.txt": "sha256 is as in /SHA256SUMS",
            "/last good.txt": ["md5 is as in /SHA256SUMS", "md5 is as in /last.md5"],
        },
        scraps={"verified": 4},
    ),
    "validate_bags": Case(
        beside=BAGS,
        failed={
            "/changed {1}/data/letter.txt": "changed: md5 is",
            "/incomplete/bagit.txt": "'data/letter.txt' is in a manifest, and not in the bag",
            "/more/data/unlisted ✓.txt": "is in no manifest",
            "/more/bagit.txt": "Payload-Oxum",
            "/evil/bagit.txt": "unsafe",
            "/empty/bagit.txt": "",
            "/binary/bagit.txt": "",
            "/twice/bagit.txt": "multiple times",
            "/half/data/inventory.csv": "is in no md5 manifest",
        },
        told={"/deep/last good/bagit.txt": "is valid", "/percent/bagit.txt": "is valid"},
        scraps={"bags": 10, "valid": 2},
    ),
    "validate_bags of chosen files": Case(
        files={"/no bag/letter.txt": LETTER, "/good/data/letter.txt": LETTER},
        beside={**bag("good"), **bag("empty", {"/empty/bagit.txt": b""})},
        failed={"/no bag/letter.txt": "lies in no bag"},
        scraps={"bags": 1, "valid": 1},
    ),
    "identify_formats": Case(
        files={
            **FILES,
            "/bomb.docx": BOMB,
            "/half.zip": BOMB[:2000],
            "/zeros": bytes(300_000),
            # What is in a damaged zip, or in one that unpacks to too much, is not looked for.
            "/damaged.zip": BOMB.replace(b"PK\1\2", b"PK\1X"),
        },
        gone=("/gone.txt",),
        failed={**GONE, "/empty.txt": "is empty"},
        warned={
            "/picture.csv": "the extension is 'csv'",
            "/zeros": "not known",
            "/large": "not known",
            "/truncated.jpg": "may be any of these",
            "/truncated.pdf": "",
            "/letter.jpg": "",
            ODD: "x-fmt/111",
            "/last good.txt": "x-fmt/111",
            "/bomb.docx": "the extension is 'docx'",
            "/half.zip": "",
        },
        params={"report": "reports/formats.csv"},
        metadata={
            "/picture.csv": {"format_mime": "image/jpeg"},
            "/truncated.jpg": {},
            "/damaged.zip": {"format_puid": "x-fmt/263"},
            "/bomb.docx": {"format_puid": "x-fmt/263"},
        },
    ),
    "technical_metadata": Case(
        files={
            **FILES,
            "/large.png": LARGE,
            "/end.pdf": b"%PDF-1.7\n%%EOF",
            "/last good.jpg": JPEG,
            "/rotated.jpg": ROTATED,
        },
        gone=("/gone.txt",),
        failed={
            **GONE,
            "/empty.txt": "is empty",
            "/truncated.jpg": "truncated",
            "/truncated.pdf": "truncated",
            "/letter.jpg": "is no jpg",
            "/large.png": "",
            "/end.pdf": "",
        },
        warned=dict.fromkeys((ODD, "/large", "/last good.txt"), "passed over"),
        metadata={
            "/picture.csv": {"format": "JPEG"},
            "/last good.jpg": {"image_height": 100},
            "/rotated.jpg": {"image_camera": "Ex"},
        },
    ),
    "date_from_name": Case(
        files=dict.fromkeys(DATES, LETTER),
        gone=("/gone 1911.txt",),
        failed={
            "/1911-02-30.txt": "1911-02-30 is no date",
            "/1911-03-03 or 1911-03-04.txt": "different dates",
            "/1911-13.txt": "is no date",
            "/gone 1911.txt": "deleted or missing",
        },
        warned={
            **dict.fromkeys(("/191103.txt", "/1911-03-03/none.txt", "/0000.txt"), "no date"),
            "/{1911} ✓.txt": "only a year",
        },
        metadata={
            "/{1911} ✓.txt": {"date": "1911"},
            "/IMG_20240229_120000.jpg": {"date": "2024-02-29"},
            "/1911-03-03 1200.txt": {"date": "1911-03-03"},
        },
    ),
    "date_from_name with a pattern": Case(
        files={"/kept 12.txt": LETTER, "/year 12.txt": LETTER},
        params={"pattern": r"kept (?P<year>12)|(?P<day>year)", "descriptor": "created"},
        failed={"/year 12.txt": "is no date"},
        metadata={"/kept 12.txt": {"created": "0012"}},
    ),
    "find_personal_data": Case(
        files={
            **FILES,
            "/bomb.docx": BOMB,
            "/half.docx": BOMB[:2000],
            "/seam.txt": b"x" * (MIB - 5) + b"\nDNI 12345678Z\n",
            "/utf16 {1}.txt": "año: ana@example.org".encode("utf-16"),
            "/latin1 ✓.txt": "año\nDNI 12345678Z".encode("cp1252"),
            "/word.docx": word("<w:p><w:t>DNI 1234</w:t></w:r><w:r><w:t>5678Z</w:t></w:p><w:p>4111</w:p>"),
            "/many.csv": b"ana@example.org\n" * 2000,
            "/long.txt": b"4" * MIB + b"." * MIB,
            "/short.txt": b"x@y.es",
            "/scan ana@example.org.pdf": PDF,
            "/quoted.pdf": b"%PDF-1.4\nana@example.org obj\nstartxref\nana@example.org\n%%EOF",
        },
        gone=("/gone.txt",),
        failed={
            **GONE,
            "/empty.txt": "is empty",
            "/truncated.pdf": "",
            "/bomb.docx": "more than are looked through",
            "/half.docx": "",
            "/quoted.pdf": "",
        },
        warned={
            "/truncated.jpg": "nobody looked into the file",
            "/picture.csv": "nobody looked into the file",
            "/large": "nobody looked into the file",
            "/many.csv": "more than 1000: the rest was not searched",
            "/scan ana@example.org.pdf": "found: 1 e-mail; no text, so nobody looked into page 1, page 2",
            **dict.fromkeys(("/seam.txt", "/latin1 ✓.txt", "/word.docx"), "found: 1 DNI"),
            **dict.fromkeys(("/utf16 {1}.txt", "/short.txt"), "found: 1 e-mail"),
        },
        told=dict.fromkeys((ODD, "/last good.txt", "/long.txt"), "found: nothing"),
    ),
    "normalise": Case(
        files={
            **FILES,
            "/large.png": LARGE,
            "/rotated.jpg": ROTATED,
            # Pillow would start Ghostscript for it.
            "/program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
            "/moving {3}.gif": image("GIF", "red", "green", "blue"),
            "/ragged.csv": b"a,b\n1,2,3\n",
            "/quoted.csv": b'a,b\n1,"2\n',
            "/zeros.csv": bytes(1000),
            "/one ✓.tsv": "a\tb\n1,5\tü\n".encode("utf-16"),
            "/same.csv": b"a,b\r\n1,2\r\n",
            "/last good.csv": b"a;b\n1;2\n",
        },
        gone=("/gone.txt",),
        failed={
            **GONE,
            "/ragged.csv": "line 2 has 3 fields, the first one 2",
            **dict.fromkeys(
                ("/empty.txt", "/truncated.jpg", "/letter.jpg", "/picture.csv", "/large.png"), ""
            ),
            **dict.fromkeys(("/quoted.csv", "/zeros.csv"), ""),
        },
        warned=dict.fromkeys(
            (ODD, "/large", "/last good.txt", "/truncated.pdf", "/program.eps"), "passed over"
        ),
        told={"/same.csv": "already", "/preservation/moving {3}.gif.tif": "made from"},
        stored={
            "/preservation/one ✓.tsv.csv": 'a,b\r\n"1,5",ü\r\n'.encode(),
            "/preservation/last good.csv": b"a,b\r\n1,2\r\n",
        },
        absent=("/preservation/ragged.csv",),
    ),
    "container_report": Case(
        beside={**FILES, "/$a$.$b$": b"", "/a \"b\", 'c'.txt": b"xx"}, scraps={"files": 12}
    ),
    "container_report of chosen files": Case(
        files={"/a.txt": b"a", "/gone.txt": b"g"},
        beside=FILES,
        gone=("/gone.txt",),
        failed={"/gone.txt": "deleted"},
        scraps={"files": 1},
    ),
    "container_report of a folder without files": Case(params={"folder": "none"}, scraps={"files": 0}),
}


@pytest.fixture
def place(container, connection):
    return testing.Container(container, connection)


@pytest.mark.parametrize("name", CASES)
def test_a_function_tells_what_is_wrong_with_a_file_and_does_the_others(name, place):
    left = run(place, name.split()[0], CASES[name])

    left.check(CASES[name])
    FURTHER.get(name, lambda left: None)(left)


def places(left):
    rows = left.rows("/reports/personal-data.csv")
    found = Counter((row["file"], row["kind"], row["place"]) for row in rows)
    assert [found.pop(("/many.csv", "e-mail", f"line {number}")) for number in range(1, 1001)] == [1] * 1000
    assert dict(found) == {
        ("/seam.txt", "DNI", "line 2"): 1,
        ("/utf16 {1}.txt", "e-mail", "line 1"): 1,
        ("/latin1 ✓.txt", "DNI", "line 2"): 1,
        ("/word.docx", "DNI", "word/document.xml"): 1,
        ("/short.txt", "e-mail", "line 1"): 1,
        ("/scan ana@example.org.pdf", "e-mail", "its name"): 1,
    }
    assert "ana@" not in left.messages["ERROR"]["/quoted.pdf"][0]
    assert [row["found"] for row in rows if row["file"] == "/short.txt"] == ["*@*.**"]


def frames(left):
    upright = Image.open(io.BytesIO(left.place.read("/preservation/rotated.jpg.tif")))
    assert (upright.size, upright.getexif()[ExifTags.Base.Make]) == ((20, 40), "Ex\0\x07"), (
        "Exif is kept as it is"
    )
    assert Image.open(io.BytesIO(left.place.read("/preservation/moving {3}.gif.tif"))).n_frames == 3


def links(left):
    rows = {row["path"]: row for row in left.rows("/reports/objects.csv")}
    assert set(FILES) <= set(rows)
    assert re.fullmatch(r"[!-~]+", rows[ODD]["link"]), "a link is ASCII without spaces"


def formats(left):
    rows = {row["file"]: row for row in left.rows("/reports/formats.csv")}
    assert set(rows) == set(CASES["identify_formats"].files) - set(CASES["identify_formats"].failed)
    for path in ("/picture.csv", "/truncated.jpg", "/zeros"):
        found = left.metadata(path)
        assert rows[path] == {
            "file": path,
            "id": left.place.file(path).id,
            **{field: found.get(f"format_{field}", "") for field in ("puid", "name", "version", "mime")},
            "warning": rows[path]["warning"],
        }
    assert rows["/zeros"]["warning"] == "its format is not known"


FURTHER = {
    "find_personal_data": places,
    "normalise": frames,
    "container_report": links,
    "identify_formats": formats,
}


# What a fetch.txt may ask for -----------------------------------------------------------------------------------


def answer(request):
    """A server that is not well behaved."""
    aims = {"/to-file": "file:///etc/passwd", "/round": "/round"}
    if request.path in aims:
        request.send_response(302)
        request.send_header("Location", aims[request.path])
        request.end_headers()
    elif request.path == "/endless":
        request.send_response(200)
        request.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(64):
                request.wfile.write(bytes(MIB))
    elif request.path == "/half":
        request.send_response(200)
        request.send_header("Content-Length", str(len(LETTER)))
        request.end_headers()
        request.wfile.write(LETTER[:10])
    else:
        return False
    return True


SIZE = len(LETTER)
OUT = "no path in the bag's data folder"
LINES = [
    (f"HERE/letter.txt {SIZE} data/good%25 {{1}} ✓.txt", None),
    (f"HERE/letter.txt {SIZE} ../outside.txt", OUT),
    (f"HERE/letter.txt {SIZE} data/../../outside.txt", OUT),
    (f"HERE/letter.txt {SIZE} /data/outside.txt", OUT),
    (f"HERE/letter.txt {SIZE} data/new%0Aline.txt", OUT),
    (f"HERE/letter.txt {SIZE}", "expected an address, a size and a path"),
    (f"file:///etc/passwd {SIZE} data/1.txt", "only http and https"),
    (f"http://ana:word@127.0.0.1/letter.txt {SIZE} data/1.txt", "without a user's name"),
    (f"http://[::1 {SIZE} data/1.txt", ""),
    (f"HERE/to-file {SIZE} data/1.txt", "only http and https"),
    (f"HERE/round {SIZE} data/1.txt", "redirects"),
    (f"HERE/endless {SIZE} data/1.txt", f"longer than the {SIZE} bytes"),
    ("HERE/endless - data/1.txt", "longer than the 1048576 bytes"),
    (f"HERE/half {SIZE} data/1.txt", ""),
    *[(f"HERE/missing.txt {SIZE} data/1.txt", "404")] * 25,
    ("HERE/inventory.csv - data/1.txt", "in the manifest it is"),
    ("HERE/letter.txt 9999999999 data/1.txt", "more than the"),
    (f"HERE/letter.txt {SIZE} data/unlisted.txt", "not in each of the bag's manifests"),
    (f"HERE/letter.txt {SIZE} data/changed.txt", "in the manifest it is"),
    ("HERE/letter.txt - data/last good.txt", None),
]


def listing(port, lines):
    return "".join(f"{each}\n" for each in lines).replace("HERE", f"http://127.0.0.1:{port}").encode()


def test_a_fetch_txt_gets_what_it_may_have_and_nothing_else(place):
    names = ("good%25 {1} ✓.txt", "1.txt", "changed.txt", "last good.txt")
    beside = {
        "/bag/manifest-sha256.txt": "".join(line(LETTER, f"data/{name}") for name in names).encode(),
        "/bag/data/changed.txt": b"x",
    }
    with served(SAMPLES, answer) as port:
        files = {"/empty/fetch.txt": b"", "/bag/fetch.txt": listing(port, [each for each, _ in LINES])}
        case = Case(
            files=files,
            beside=beside,
            params={"allow_private_hosts": True, "max_file": MIB},
            failed={"/empty/fetch.txt": "no manifest lies beside it", "/bag/fetch.txt": ""},
            stored={
                "/bag/data/good% {1} ✓.txt": LETTER,
                "/bag/data/last good.txt": LETTER,
                "/bag/data/changed.txt": b"x",
            },
            absent=("/bag/data/1.txt",),
            scraps={"files": 2, "bytes": 2 * SIZE},
        )
        left = run(place, "fetch_files", case)

    left.check(case)
    told = {}
    for message in left.messages["ERROR"]["/bag/fetch.txt"]:
        told[int(re.search(r"fetch.txt: line (\d+):", message)[1])] = message
    for number, (_, part) in enumerate(LINES, 1):
        assert (number in told) == (part is not None), (number, told)
        assert part is None or part in told[number], told[number]


def test_a_fetch_txt_does_not_reach_into_the_local_network(place):
    with served(SAMPLES) as port:
        case = Case(
            files={"/bag/fetch.txt": listing(port, [f"HERE/letter.txt {SIZE} data/1.txt"])},
            beside={"/bag/manifest-sha256.txt": line(LETTER, "data/1.txt").encode()},
            failed={"/bag/fetch.txt": "127.0.0.1 is in the local network"},
            absent=("/bag/data/1.txt",),
        )
        run(place, "fetch_files", case).check(case)


@pytest.mark.parametrize("path", ["", "/", "/new\nline.txt", "/folder//file.txt", "/../a.txt"])
def test_names_that_cannot_be_are_refused_by_the_platform(path, place):
    with pytest.raises((errors.StorageError, errors.UsageError)):
        place.connection.storage.put(place.id, path, b"x")
