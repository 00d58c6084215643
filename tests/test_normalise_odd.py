"""Files over which a copy or a property would be wrong without a word: `normalise` and `technical_metadata` tell it of each."""

from __future__ import annotations

import io
import struct
import zlib

import pypdf
import pytest
from PIL import ExifTags, Image
from test_functions_odd import image
from worked import JPEG, ROOT, Case, run

from libsafe_nb import testing

BASE = ExifTags.Base


def png(colour, samples, bits=16):
    """Pillow writes none with 16 bits a colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x12\x34"[: bits // 8] * (4 * samples)) * 4
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, colour, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def ico(picture):
    return (
        struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 4, 4, 0, 0, 1, 32, len(picture), 22) + picture
    )


def tiff(tags, data):
    """A little-endian TIFF, its strip first; `tags` are (tag, type, count, value or the bytes that it points to)."""
    entries, more, at = b"", b"", 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, kind, count, value in sorted(tags):
        if isinstance(value, bytes):
            value, more = at + len(more), more + value
        entries += struct.pack("<HHII", tag, kind, count, value)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
        + more
    )


def rgb(*tags, bits=8):
    data = b"\x12\x34\x56\x78\x9a\xbc"[: 3 * bits // 8]
    shorts = [(256, 1), (257, 1), (259, 1), (262, 2), (273, 8), (277, 3), (278, 1), (279, len(data))]
    depth = (258, 3, 3, struct.pack("<HHH", bits, bits, bits))
    return tiff([*((tag, 3, 1, value) for tag, value in shorts), depth, *tags], data)


def jp2(bits):
    """A JPEG 2000 whose first component is told to have so many bits."""
    data = image("JPEG2000", "red")
    at = data.index(b"\xff\x4f\xff\x51") + 42
    return data[:at] + bytes([bits - 1]) + data[at + 1 :]


def exif(**tags):
    kept = Image.Exif()
    for name, value in tags.items():
        owner = kept.get_ifd(ExifTags.IFD.Exif) if name.startswith("DateTimeO") else kept
        owner[BASE[name]] = value
    return kept


ABOUT = exif(Make="Example", DateTimeOriginal="1911:03:03 06:12:00", ImageDescription="Harbour")
LZW = image("TIFF", "red", "green", compression="tiff_lzw", dpi=(300, 300))


def packed():
    """A TIFF that is compressed, by PackBits, and holds Exif: Pillow writes none that is both."""
    data = image("TIFF", 7, mode="L", dpi=(300, 300), exif=ABOUT.tobytes())
    data = data.replace(struct.pack("<HHI", 259, 3, 1) + b"\1\0", struct.pack("<HHIH", 259, 3, 1, 32773))
    return data.replace(b"\7" * 400, (b"\xed\7" * 20).ljust(400, b"\x80"))


LONG = "bits a sample, of which Pillow reads 8"
SEVERAL = "say which in csv_delimiter"
COPIES = {
    # More bits than Pillow keeps.
    **{f"/long/{name}": data for name, data in {
        "rgb.png": png(2, 3), "rgba.png": png(6, 4), "la.png": png(4, 2), "icon.ico": ico(png(6, 4)),
        "binary.ppm": b"P6 # 255\n2 2 65535\n" + b"\x12\x34" * 12, "text.ppm": b"P3 1 1 1023 1 2 1000\n",
        "sgi.sgi": struct.pack(">hBBHHHH", 474, 0, 2, 2, 2, 2, 1).ljust(512, b"\0") + b"\x12\x34" * 4,
        "colour.jp2": jp2(16),
    }.items()},
    "/grey.png": png(0, 1),
    "/short.png": png(2, 3, 8),
    "/icon.ico": ico(png(6, 4, 8)),
    "/grey.pgm": b"P5 2 2 65535\n" + b"\x12\x34" * 4,
    "/float.pfm": b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.1),
    "/bits.pbm": b"P1 2 2 1 0 0 1\n",
    "/colour.jp2": image("JPEG2000", "red"),
    "/grey.jp2": image("JPEG2000", 4660, mode="I;16"),
    # A TIFF with 16 bits a colour stays as it is.
    "/long.tif": rgb(bits=16),
    # Names that lead to one copy.
    "/photo": JPEG,
    "/photo.tif": image("JPEG", "blue"),
    "/x.tsv": b"a\tb\n",
    "/x.tsv.csv": b"c;d\n",
    "/held.jpg": JPEG,
    # A TIFF, uncompressed and not.
    "/raw.tif": rgb(),
    "/lzw.tif": LZW,
    "/packed.tif": packed(),
    "/jpeg.tif": image("TIFF", "red", compression="jpeg"),
    "/fax.tif": image("TIFF", 1, mode="1", compression="group4"),
    # Delimiters.
    "/decimal.csv": b"Muller;1,50\nMeier;2,75\n",
    "/headed.csv": b"name;price\nMuller;1,50\nMeier;2,75\n",
    "/quoted.csv": b'a,"b;c"\n"d;e","f\ng"\n',
    "/cut.csv": b'a;"x, y\nz"\n' * 8000,
    "/blank.csv": b"\none\n\ntwo\n\n",
    "/rows.csv": b"a;b\n\n1;2\n\n",
}  # fmt: skip


def names(place, path, descriptor):
    found = place.file(path).metadata[descriptor]
    return {str(each) for each in (found if isinstance(found, list) else [found])}


@pytest.fixture
def place(container, connection):
    return testing.Container(container, connection)


def test_no_copy_is_less_than_its_original_and_none_takes_anothers_place(place):
    case = Case(
        files=COPIES,
        beside={"/preservation/held.jpg.tif": b"somebody's"},
        failed={
            **{path: LONG for path in COPIES if path.startswith("/long/")},
            "/decimal.csv": SEVERAL,
        },
        told={
            "/raw.tif": "already",
            "/long.tif": "already",
            "/lzw.tif": "normalised to /preservation/lzw.tif",
        },
        stored={
            "/preservation/held.jpg.tif": b"somebody's",
            "/preservation/headed.csv": b'name,price\r\nMuller,"1,50"\r\nMeier,"2,75"\r\n',
            "/preservation/quoted.csv": b'a,b;c\r\nd;e,"f\ng"\r\n',
            "/preservation/cut.csv": b'a,"x, y\nz"\r\n' * 8000,
            "/preservation/blank.csv": b'""\r\none\r\n""\r\ntwo\r\n""\r\n',
            "/preservation/rows.csv": b"a,b\r\n1,2\r\n",
            "/preservation/x.tsv.csv": b"a,b\r\n",
            "/preservation/x.tsv.csv.csv": b"c,d\r\n",
        },
    )

    left = run(place, "normalise", case)

    left.check(case)
    assert not [path for path in place.files if path.startswith("/preservation/long/")]
    for original, copy in {
        "/photo": "/preservation/photo.tif",
        "/photo.tif": "/preservation/photo.tif.tif",
        "/x.tsv": "/preservation/x.tsv.csv",
        "/x.tsv.csv": "/preservation/x.tsv.csv.csv",
        "/held.jpg": "/preservation/held.jpg.tif.tif",
    }.items():
        assert names(place, original, "hasformat") == {str(place.file(copy).id)}
        assert names(place, copy, "isformatof") == {str(place.file(original).id)}
    for name in ("lzw", "packed", "jpeg", "fax"):
        with Image.open(io.BytesIO(place.read(f"/preservation/{name}.tif"))) as copy:
            pages = [(copy.seek(page), copy.tag_v2[BASE.Compression])[1] for page in range(copy.n_frames)]
            assert pages == ([1, 1] if name == "lzw" else [1])
            if name == "packed":
                assert (copy.info["dpi"], set(copy.tobytes())) == ((300, 300), {7})
                kept = copy.getexif()
                assert (kept[BASE.Make], kept[BASE.ImageDescription]) == ("Example", "Harbour")
                assert kept.get_ifd(ExifTags.IFD.Exif)[BASE.DateTimeOriginal] == "1911:03:03 06:12:00"

    again = run(
        place, "normalise", Case(files={"/photo.tif": COPIES["/photo.tif"], "/x.tsv": COPIES["/x.tsv"]})
    )
    again.says("INFO", "/photo.tif", "normalised to /preservation/photo.tif.tif:")
    again.says("INFO", "/x.tsv", "normalised to /preservation/x.tsv.csv:")


def test_copies_need_a_folder(place):
    place.put("/photo.jpg", JPEG)

    done = testing.run(
        place, ROOT / "notebooks" / "normalise.ipynb", files=["/photo.jpg"], params={"folder": "/ /"}
    )

    assert "folder: expected a folder of the container" in str(done.error)
    assert place.connection.client.job(done.job)["status"] == "FAILED"


def pdf(created=None, version=None, **password):
    writer = pypdf.PdfWriter()
    writer.add_blank_page(10, 10)
    writer.pdf_header = "%PDF-1.4"
    writer.add_metadata({"/Title": "Harbour", **({"/CreationDate": created} if created else {})})
    if version:
        writer.root_object[pypdf.generic.NameObject("/Version")] = pypdf.generic.NameObject(version)
    if password:
        writer.encrypt(algorithm="RC4-128", **password)
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


NONE = struct.pack("<II", 0, 0)
TOLD = {
    "/guessed.jpg": image("JPEG", "red", exif=exif(Make="Ex")),
    "/plain.jpg": image("JPEG", "red"),
    "/own.jpg": image("JPEG", "red", exif=exif(ResolutionUnit=2, XResolution=300.0, YResolution=150.0)),
    "/jfif.jpg": image("JPEG", "red", dpi=(200, 200)),
    "/nothing.tif": rgb((282, 5, 1, NONE), (283, 5, 1, NONE), (296, 3, 1, 2)),
    "/untold.tif": rgb(),
    "/told.tif": rgb((282, 5, 1, struct.pack("<II", 100, 1)), (283, 5, 1, struct.pack("<II", 100, 1)), (296, 3, 1, 3)),
    "/zeros.jpg": image("JPEG", "red", exif=exif(DateTimeOriginal="0000:00:00 00:00:00")),
    "/unknown.jpg": image("JPEG", "red", exif=exif(DateTimeOriginal="    :  :     :  :  ")),
    "/impossible.jpg": image("JPEG", "red", exif=exif(DateTimeOriginal="2023:02:30 12:00:00")),
    **{f"/{text}.pdf": pdf(f"D:{text}") for text in ("20231301", "20230230", "191000101", "00000000", "1911", "20240229120000Z")},
    "/later.pdf": pdf(version="/1.7"),
    "/earlier.pdf": pdf(version="/1.2"),
    "/printed.pdf": pdf(user_password="", owner_password="x"),
    "/locked.pdf": pdf(user_password="y", owner_password="x"),
}  # fmt: skip


def test_what_a_file_does_not_say_is_not_said_of_it(place):
    taken, created = "taken: '{}' is no date", "created: 'D:{}' is no date"
    case = Case(
        files=TOLD,
        warned={
            "/zeros.jpg": taken.format("0000:00:00 00:00:00"),
            "/impossible.jpg": taken.format("2023:02:30 12:00:00"),
            **{
                f"/{each}.pdf": created.format(each)
                for each in ("20231301", "20230230", "191000101", "00000000")
            },
            "/locked.pdf": "opens only with a password",
        },
        metadata={
            **{
                path: {"image_width": 20, "image_resolution": None} for path in ("/guessed.jpg", "/plain.jpg")
            },
            **{
                path: {"image_width": 1, "image_resolution": None} for path in ("/nothing.tif", "/untold.tif")
            },
            "/own.jpg": {"image_resolution": "300 x 150 dpi"},
            "/jfif.jpg": {"image_resolution": "200 x 200 dpi"},
            "/told.tif": {"image_resolution": "254 x 254 dpi"},
            **{
                f"/{name}.jpg": {"format": "JPEG", "image_taken": None}
                for name in ("zeros", "unknown", "impossible")
            },
            **{
                f"/{each}.pdf": {"pdf_pages": 1, "pdf_created": None}
                for each in ("20231301", "20230230", "191000101", "00000000")
            },
            "/1911.pdf": {"pdf_created": "1911"},
            "/20240229120000Z.pdf": {"pdf_created": "2024-02-29"},
            "/later.pdf": {"format": "PDF 1.7", "pdf_encrypted": "no"},
            "/earlier.pdf": {"format": "PDF 1.4"},
            "/printed.pdf": {"pdf_encrypted": "yes", "pdf_title": "Harbour", "pdf_pages": 1},
            "/locked.pdf": {"pdf_encrypted": "yes", "pdf_pages": None},
        },
    )

    run(place, "technical_metadata", case).check(case)
