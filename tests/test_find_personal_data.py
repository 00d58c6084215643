"""What find_personal_data finds, in what it is written, and in what it is kept: all by one run of it."""

from __future__ import annotations

import base64
import io
import zipfile
from collections import defaultdict

import pypdf
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject
from worked import PDF, Case, run

from libsafe_nb import testing

CARD, DNI, IBAN, EMAIL = "4*************11", "1******8Z", "E*** **** **** **** **** **32", "j***@*******.*rg"
SPACED = "4*** **** **** **11"
# A line of text, and what is found in it.
LINES = {
    "4111 1111 1111 1111 12/25": [SPACED],
    "4111111111111111 123": [CARD],
    "3 4111111111111111": [CARD],
    "12 4111 1111 1111 1111 4111 1111 1111 1111 7": [SPACED],
    "5555 5555 5555 4444, 3782 822463 10005 (12/25)": ["5*** **** **** **44", "3*** ****** ***05"],
    "card 4111-1111-1111-1111.": ["4***-****-****-**11"],
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1": ["4 * * * * * * * * * * * * * * 1"],
    "7 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1": [],
    "41 111 111 111 111 11": [],
    "2019 4111 1111 1111 1111 2020": [SPACED],
    "41111111 11111111": ["4******* ******11"],
    "4111 1111 1111 1112": [],
    "41111111111111110": [],
    "x4111111111111111": [],
    "1.4111111111111111": [],
    "4111111111111111.5": [],
    "GB82 WEST 1234 5698 7654 32 BIC ABCDGB2L": ["G*** **** **** **** **** 32"],
    "ES91 2100 0418 4502 0005 1332 CAIXESBB": [IBAN],
    "ES91-2100-0418-4502-0005-1332": [IBAN.replace(" ", "-")],
    "ES91 2100 0418 4502 0005 1333 CAIXESBB": [],
    "-john@example.org": [EMAIL],
    "..john@example.org": [EMAIL],
    "_john@example.org": [EMAIL],
    "john@example.org_x": [EMAIL],
    "<john@example.org>; john@example.org.": [EMAIL],
    "john@example.org1": [],
    "12.345.678-Z": ["1*.***.***-Z"],
    "12345678-Z, X-1.234.567-L": ["1*******-Z", "X-*.***.***-L"],
    "12345678A 12.345.678-A": [],
    "DNI 12345678Z.": [DNI],
}
MAIL = b"From: =?utf-8?B?%b?=\nSubject: =?no-such?Q?x?=\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=xx\n\n"


def part(kind, encoding, body):
    return b"--xx\nContent-Type: %b\nContent-Transfer-Encoding: %b\n\n%b\n" % (kind, encoding, body)


def encoded(text):
    return base64.b64encode(text)


LETTER = MAIL % encoded(b"mary@example.org") + b"".join(
    [
        part(b"text/plain; charset=no-such", b"base64", encoded(b"DNI 12345678Z")),
        part(b"text/html", b"quoted-printable", b"<p>john=40exa=\nmple.org</p>"),
        part(b"application/pdf", b"base64", encoded(b"%PDF")),
        b"--xx--\n",
    ]
)


def office(**parts):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        for name, text in parts.items():
            archive.writestr(name, text)
    return target.getvalue()


def pdf(value=None, **locked):
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(PDF))
    if value:
        field = DictionaryObject()
        for key, each in (("/FT", NameObject("/Tx")), ("/T", TextStringObject("id")), ("/V", value)):
            field[NameObject(key)] = each
        form = DictionaryObject({NameObject("/Fields"): ArrayObject([writer._add_object(field)])})
        writer.root_object[NameObject("/AcroForm")] = form
    if locked:
        writer.encrypt(algorithm="RC4-128", **locked)
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


TABBED = "<w:p><w:t>Garcia</w:t>{0}<w:t>12345678Z</w:t>{0}<w:t>Madrid</w:t></w:p>"
LINK = '<Relationship Target="mailto:{}"/>'
# A file, and what is found in it: place and mask.
FILES = {
    "/tab.docx": (office(**{"a.xml": TABBED.format("<w:tab/>")}), {("a.xml", DNI)}),
    "/br.docx": (office(**{"a.xml": TABBED.format('<w:br w:type="page"/>')}), {("a.xml", DNI)}),
    "/end.docx": (office(**{"a.xml": TABBED.format('</w:p><w:p w:id="1">')}), {("a.xml", DNI)}),
    "/tab.odt": (office(**{"a.xml": TABBED.format("<text:tab/>")}), {("a.xml", DNI)}),
    "/s.odt": (office(**{"a.xml": TABBED.format('<text:s text:c="2"/>')}), {("a.xml", DNI)}),
    "/break.odt": (office(**{"a.xml": TABBED.format("<text:line-break/>")}), {("a.xml", DNI)}),
    "/struck.docx": (office(**{"a.xml": "<t>1234</t><w:s>5678</w:s><t>Z</t>"}), {("a.xml", DNI)}),
    "/utf16.docx": (office(**{"a.xml": "<t>12345678Z</t>".encode("utf-16")}), {("a.xml", DNI)}),
    "/link.docx": (office(**{"a.rels": LINK.format("john%40example.org")}), {("a.rels", EMAIL)}),
    "/entity.docx": (office(**{"a.rels": LINK.format("john&#64;example.org")}), {("a.rels", EMAIL)}),
    "/measures.docx": (office(**{"a.xml": '<v path="4111111111111111"/>'}), set()),
    "/named.docx": (
        office(**{"mary.poppins@example.org.xml": "<t>12345678Z</t>"}),
        {("m***.*******@*******.***.*ml", DNI)},
    ),
    "/formula.docx": (
        office(**{'=HYPERLINK("x").xml': "<t>12345678Z</t>", "\t-.xml": "<t>12345678Z</t>"}),
        {('\'=HYPERLINK("x").xml', DNI), ("'\t-.xml", DNI)},
    ),
    "/within.docx": (office(**{"a.xml": "<t/>", "word/embeddings/b.xlsx": "PK"}), set()),
    "/sheet.xlsb": (office(**{"xl/worksheets/sheet1.bin": b"\0"}), set()),
    "/page.html": (
        b"<html>\n<p>john&#64;example.org<br\n>1234<b>5678</b>Z</p>\n<td>12345678Z</td><td>Madrid 4<i>111111111111111",
        {("line 2", EMAIL), ("line 3", DNI), ("line 4", DNI), ("line 4", CARD)},
    ),
    "/seam.html": (
        b"<p>" + b"." * (2**20 - 8) + b"1234<b>5678</b>Z\n<a href='mailto:john@example.org'>",
        {("line 1", DNI), ("line 2", EMAIL)},
    ),
    "/seam.txt": (
        b"." * (2**20 - 518) + b" j.j.j.j.john@example.org\n" + b" " * 2000,
        {("line 1", "j.*.*.*.****@*******.*rg")},
    ),
    "/letter.eml": (
        LETTER,
        {("a mail's header", "m***@*******.*rg"), ("a mail's text", DNI), ("a mail's text", EMAIL)},
    ),
    "/letters.mbox": (
        b"From a\n" + LETTER + b"\nFrom b\n" + MAIL % encoded(b"john@example.org"),
        {
            ("a mail's header", "m***@*******.*rg"),
            ("a mail's header", EMAIL),
            ("a mail's text", DNI),
            ("a mail's text", EMAIL),
        },
    ),
    "/utf32.txt": ("año\njohn@example.org".encode("utf-32"), {("line 2", EMAIL)}),
    "/form.pdf": (pdf(TextStringObject("12345678Z")), {("a form", DNI)}),
    "/open.pdf": (
        pdf(TextStringObject("12345678Z"), user_password="", owner_password="x"),
        {("a form", DNI)},
    ),
    "/locked.pdf": (pdf(user_password="x"), set()),
}
NOT_LOOKED_INTO = {
    "/within.docx": "files within it",
    "/sheet.xlsb": "files within it",
    "/letter.eml": "an attachment",
    "/letters.mbox": "an attachment",
    "/form.pdf": "page 1, page 2",
    "/open.pdf": "page 1, page 2",
}


def test_what_is_found_and_where(container, connection):
    files = {**{path: data for path, (data, _) in FILES.items()}, "/lines.txt": "\n".join(LINES).encode()}
    found_in = [path for path, (_, wanted) in FILES.items() if wanted]
    case = Case(
        files=files,
        failed={"/locked.pdf": "is encrypted"},
        warned={
            **dict.fromkeys([*found_in, "/lines.txt"], "found: "),
            **{path: f"nobody looked into {what}" for path, what in NOT_LOOKED_INTO.items()},
        },
    )
    left = run(testing.Container(container, connection), "find_personal_data", case)
    left.check(case)

    found = defaultdict(list)
    for row in left.rows("/reports/personal-data.csv"):
        found[row["file"]].append((row["place"], row["found"]))
    numbers = {f"line {number}": text for number, text in enumerate(LINES, 1)}
    by_line = {text: [] for text in LINES}
    for place, mask in found.pop("/lines.txt"):
        by_line[numbers[place]].append(mask)
    assert {text: sorted(masks) for text, masks in by_line.items()} == {
        text: sorted(masks) for text, masks in LINES.items()
    }
    assert {path: sorted(found[path]) for path in FILES} == {
        path: sorted(wanted) for path, (_, wanted) in FILES.items()
    }
