"""
Makes the sample files of the worked functions: `python tests/make_samples.py`.

They are our own, made up, and in the public domain (CC0). No person in them exists; the numbers are those that the issuers
or python-stdnum's documentation show as examples, or are right by chance. Three files were there before and are not made
here: `letter.txt`, `inventory.csv`, `gradient.png`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw
from pypdf import PdfWriter

SAMPLES = Path(__file__).parent.parent / "notebooks" / "samples"

PEOPLE = """Members of the harbour club

Ana Example, ana@example.org, DNI 12345678Z
Bob Example, NINO AB 12 34 56 C, IBAN GB82 WEST 1234 5698 7654 32
Carl Example, SSN 899-12-3456, paid with 4111 1111 1111 1111
Dora Exemple, NIR 2 95 10 99 126 111 93, NIE X1234567L
Ezio Esempio, RSSMRA85T10A562S

Not theirs: the DNI 12345678A and the card 4111 1111 1111 1112 have wrong check digits, and plate 1911-03-0303 is none.
"""


def main() -> None:
    picture("pictures/1911-03-03_harbour.jpg", (160, 100), "JPEG")
    picture("pictures/1910-11 tram.gif", (80, 60), "GIF")
    pdf("papers/harbour report 1911.pdf")
    write("people/members.txt", PEOPLE.encode())
    write(
        "tables/inventory-latin.csv",
        'número;título;nota\r\n1;"Puerto; al alba";"dice ""sí"""\r\n2;Ñandú;\r\n'.encode("cp1252"),
    )
    old = [SAMPLES / name for name in ("gradient.png", "inventory.csv", "letter.txt")]
    listed = "".join(f"{hashlib.md5(each.read_bytes()).hexdigest()}  {each.name}\n" for each in old)
    write("manifests/manifest-md5.txt", listed.encode())
    bag(
        "bags/harbour",
        {"data/letter.txt": old[2].read_bytes(), "data/inventory.csv": old[1].read_bytes()},
    )
    # Its payload is fetched from `python -m http.server --bind 127.0.0.1 8000 --directory notebooks/samples`.
    bag(
        "bags/to-fetch",
        {"data/letter.txt": old[2].read_bytes(), "data/pictures/gradient.png": old[0].read_bytes()},
        fetch={"data/letter.txt": "letter.txt", "data/pictures/gradient.png": "gradient.png"},
    )


def write(name: str, data: bytes) -> None:
    target = SAMPLES / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def picture(name: str, size: tuple[int, int], kind: str) -> None:
    image = Image.new("RGB", size, "lightsteelblue")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size[1] * 2 // 3, size[0], size[1]), fill="steelblue")
    draw.polygon([(20, 60), (70, 60), (60, 75), (30, 75)], fill="saddlebrown")
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Example", "Plate 9x12"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "1911:03:03 06:12:00"
    target = SAMPLES / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "JPEG":
        image.save(target, kind, quality=85, dpi=(300, 300), exif=exif)
    else:
        image.quantize(16).save(target, kind)


def pdf(name: str) -> None:
    writer = PdfWriter()
    for _ in range(2):
        writer.add_blank_page(595, 842)
    writer.add_metadata(
        {
            "/Title": "Harbour report",
            "/Author": "J. Example",
            "/Producer": "make_samples.py",
            "/CreationDate": "D:19110303120000Z",
        }
    )
    target = SAMPLES / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        writer.write(out)


def bag(name: str, payload: dict[str, bytes], fetch: dict[str, str] | None = None) -> None:
    """A bag by hand, to have it told by nobody but RFC 8493; with `fetch` its payload lies elsewhere."""
    size, count = sum(map(len, payload.values())), len(payload)
    tags = {
        "bagit.txt": "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
        "bag-info.txt": f"Source-Organization: Example archive\nPayload-Oxum: {size}.{count}\n",
    }
    for algorithm in ("md5", "sha256"):
        tags[f"manifest-{algorithm}.txt"] = "".join(
            f"{hashlib.new(algorithm, data).hexdigest()}  {path}\n" for path, data in payload.items()
        )
    if fetch:
        tags["fetch.txt"] = "".join(
            f"http://127.0.0.1:8000/{source} {len(payload[path])} {path}\n" for path, source in fetch.items()
        )
    tags["tagmanifest-sha256.txt"] = "".join(
        f"{hashlib.sha256(text.encode()).hexdigest()}  {path}\n" for path, text in tags.items()
    )
    for path, text in tags.items():
        write(f"{name}/{path}", text.encode())
    for path, data in payload.items() if not fetch else ():
        write(f"{name}/{path}", data)


if __name__ == "__main__":
    main()
