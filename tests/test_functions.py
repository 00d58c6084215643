"""The worked functions in `notebooks/`, each over its samples and by the commands that it shows; and what they say of themselves."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import shutil
import sys
import tomllib
import typing

import pytest
from PIL import Image
from worked import LETTER, ROOT, SAMPLES, Case, gallery, run_samples, served

from libsafe_nb import notebook, testing

HARBOUR = "/1911-03-03_harbour.jpg"
REPORT = "/harbour report 1911.pdf"
TABLE = "/inventory-latin.csv"


def digests(name):
    return {each: hashlib.new(each, name).hexdigest() for each in ("md5", "sha1", "sha256")}


WANTED = {
    "hash_files": Case(scraps={"hashed": 2}, told={"/letter.txt": f"md5: {digests(LETTER)['md5']}"}),
    "create_md5_manifest": Case(
        stored={
            "/manifest-md5.txt": "".join(
                f"{digests((SAMPLES / name).read_bytes())['md5']}  {name}\n"
                for name in ("letter.txt", "inventory.csv")
            ).encode()
        }
    ),
    "verify_manifest": Case(
        scraps={"verified": 3},
        told=dict.fromkeys(
            ("/letter.txt", "/inventory.csv", "/gradient.png"), "md5 is as in /manifest-md5.txt"
        ),
    ),
    "validate_bags": Case(
        scraps={"bags": 1, "valid": 1},
        told={
            "/bags/harbour/bagit.txt": "is valid",
            "/bags/harbour/data/letter.txt": "md5, sha256: as in the bag's manifest",
        },
    ),
    "identify_formats": Case(
        warned={"/inventory.csv": "only by its extension", "/letter.txt": "may be any of these"},
        metadata={
            "/gradient.png": {"format_puid": "fmt/11"},
            HARBOUR: {"format_mime": "image/jpeg"},
            REPORT: {"format_version": "1.3", "format_mime": "application/pdf"},
        },
    ),
    "technical_metadata": Case(
        scraps={"described": 3, "passed_over": 0},
        metadata={
            HARBOUR: {
                "image_width": 160,
                "image_resolution": "300 x 300 dpi",
                "image_camera": "Example Plate 9x12",
                "image_taken": "1911:03:03 06:12:00",
            },
            REPORT: {"pdf_pages": 2, "pdf_title": "Harbour report", "pdf_created": "1911-03-03"},
        },
    ),
    "date_from_name": Case(
        metadata={
            HARBOUR: {"date": "1911-03-03"},
            "/1910-11 tram.gif": {"date": "1910-11"},
            REPORT: {"date": "1911"},
        },
        warned={REPORT: "only a year"},
    ),
    "find_personal_data": Case(
        warned={
            "/members.txt": "found: 1 DNI, 1 IBAN, 1 NIE, 1 NINO, 1 NIR, 1 SSN, 1 card, 1 codice fiscale, 1 e-mail"
        },
        told={"/letter.txt": "found: nothing"},
    ),
    "normalise": Case(
        scraps={"made": 3},
        stored={
            f"/preservation{TABLE}": 'número,título,nota\r\n1,Puerto; al alba,"dice ""sí"""\r\n2,Ñandú,\r\n'.encode()
        },
    ),
    "container_report": Case(scraps={"files": 8, "links": 0}),
    "fetch_files": Case(
        scraps={"files": 2},
        stored={"/bags/to-fetch/data/letter.txt": LETTER},
        told={"/bags/to-fetch/data/pictures/gradient.png": "fetched from 127.0.0.1"},
    ),
}


def hashes(left):
    assert left.place.file("/letter.txt").hashes == digests(LETTER)


def masks(left):
    rows = left.rows("/reports/personal-data.csv")
    assert {(row["kind"], row["place"], row["found"]) for row in rows} == {
        ("e-mail", "line 3", "a**@*******.*rg"),
        ("DNI", "line 3", "1******8Z"),
        ("NINO", "line 4", "A* ** ** ** C"),
        ("IBAN", "line 4", "G*** **** **** **** **** 32"),
        ("SSN", "line 5", "8**-**-**56"),
        ("card", "line 5", "4*** **** **** **11"),
        ("NIR", "line 6", "2 ** ** ** *** *** 93"),
        ("NIE", "line 6", "X******7L"),
        ("codice fiscale", "line 7", "R*************2S"),
    }
    storage = left.place.connection.storage
    for each in storage.list(left.place.id):
        if each.path.strip("/") != "members.txt":
            data = storage.get(left.place.id, each.path)
            assert not re.search(rb"12345678Z|ana@example|4111 1111|X1234567L", data), each.path


def copies(left):
    for path in (HARBOUR, "/gradient.png"):
        before, after = (
            Image.open(io.BytesIO(left.place.read(each))) for each in (path, f"/preservation{path}.tif")
        )
        assert (after.format, after.convert("RGBA").tobytes()) == ("TIFF", before.convert("RGBA").tobytes())
        assert after.info.get("dpi") == before.info.get("dpi", (1, 1))
        original, copy = left.place.file(path), left.place.file(f"/preservation{path}.tif")
        assert (original.metadata, copy.metadata) == ({"hasformat": copy.id}, {"isformatof": original.id})


def report(left):
    rows = {row["path"]: row for row in left.rows("/reports/objects.csv")}
    assert int(rows["/letter.txt"]["size"]) == len(LETTER)
    assert rows["/letter.txt"]["id"] == left.place.file("/letter.txt").id
    assert rows["/letter.txt"]["link"].endswith(f"/api/container/{left.place.id}/file/path/letter.txt")
    assert Image.open(io.BytesIO(left.place.read("/reports/report.png"))).format == "PNG"


FURTHER = {"hash_files": hashes, "find_personal_data": masks, "normalise": copies, "container_report": report}


def test_every_function_is_run():
    # That which calls the others has tests of its own: test_ingest_workflow.py.
    assert {*WANTED, "ingest_workflow"} == {path.stem for path in gallery.NOTEBOOKS}


@pytest.mark.parametrize("name", WANTED)
def test_a_function_does_its_job_by_the_commands_that_it_shows(name, connection, container, tmp_path):
    samples = shutil.copytree(SAMPLES, tmp_path / "samples")
    with served(SAMPLES) as port:
        listing = samples / "bags" / "to-fetch" / "fetch.txt"
        listing.write_bytes(listing.read_bytes().replace(b":8000", b":%d" % port))
        left = run_samples(testing.Container(container, connection), name, samples)

    left.check(WANTED[name])
    assert left.status == "COMPLETED"
    FURTHER.get(name, lambda left: None)(left)


# What they say of themselves ------------------------------------------------------------------------------------

EACH = pytest.mark.parametrize("path", gallery.NOTEBOOKS, ids=lambda path: path.stem)


def requirements(path):
    return json.loads(path.read_text())["metadata"]["libsafe"]["requirements"]


def test_the_gallery_is_made_from_the_notebooks():
    assert gallery.PAGE.read_text() == gallery.page(), "make it anew: python .ci/gallery.py"


@EACH
def test_the_gallery_shows_what_comes_out(path):
    picture = gallery.PAGE.parent / "img" / "functions" / f"{path.stem}.png"
    assert 1_000 < picture.stat().st_size < 150_000


@EACH
def test_what_a_function_needs_is_in_the_extra(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(requirements(path)) <= {
        *project["dependencies"],
        *project["optional-dependencies"]["functions"],
    }


@EACH
def test_a_function_that_misses_its_library_says_what_to_install(path, monkeypatch):
    guards = [
        node
        for source in gallery.cells(path, "code")
        for node in ast.parse(source).body
        if isinstance(node, ast.Try) and isinstance(node.handlers[0].type, ast.Name)
        if node.handlers[0].type.id == "ImportError"
    ]
    for name in ("bagit", "fido", "matplotlib.figure", "PIL", "pypdf", "stdnum", "stdnum.iban"):
        monkeypatch.setitem(sys.modules, name, None)

    # pandas comes with scrapbook, `requests` with libsafe-nb itself.
    assert len(guards) == bool({each.split(">")[0] for each in requirements(path)} - {"pandas", "requests"})
    for guard in guards:
        with pytest.raises(ImportError, match=re.escape("pip install 'libsafe-nb[functions]'")):
            exec(compile(ast.Module([guard], []), "cell", "exec"), {})


@EACH
def test_each_parameter_is_typed_and_told_of(path):
    function = notebook.parse(path.read_bytes(), name=path.name)
    told = {name: help for name, help, _, _ in gallery.parameters(path)}

    assert set(told) == set(function.parameters)
    for name, parameter in function.parameters.items():
        assert parameter.type is not typing.Any, name
        assert told[name], name
    assert "**The job is COMPLETED**" in gallery.title_and_text(path)[1]


@EACH
def test_no_output_is_committed(path):
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
