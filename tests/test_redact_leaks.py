"""Every way in which a secret leaks (evidence.md 4): replaced, and nothing else with it."""

from __future__ import annotations

import json

import pytest
from redact_samples import (
    ALNUM,
    DERIVED,
    LONG,
    PLAIN,
    SHORT,
    STRONG,
    STRONG_ONLY,
    WRAPPED,
    b64,
    secret_set,
)

from libsafe_nb.redact import KNOWN_IMPOSSIBLE, SecretSet, scan_document
from libsafe_nb.redact.scan import redact_document
from libsafe_nb.secrets import Secret

MARK = "[redacted:key_user]"


def assert_gone(text: str, *, key: str) -> None:
    """Only the mark is left between `before` and `after`, with the brackets and neighbours of the way it leaked."""
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert MARK in text
    left = text[len("before ") : -len(" after")].replace(MARK, "")
    assert len(left) <= 24, left
    assert not any(key[at : at + 4] in left for at in range(len(key) - 3))


@pytest.mark.parametrize("way", {**PLAIN, **STRONG_ONLY})
@pytest.mark.parametrize("key", STRONG.values(), ids=STRONG)
def test_a_strong_secret_is_found_in_every_form(key, way):
    leak = {**PLAIN, **STRONG_ONLY}[way](key)

    clean, spans = secret_set(key).redact(f"before {leak} after")

    assert_gone(clean, key=key)
    assert {span.secret for span in spans} == {"key_user"}
    assert secret_set(key).find(clean) == []


@pytest.mark.parametrize("way", PLAIN)
@pytest.mark.parametrize("key", SHORT.values(), ids=SHORT)
def test_a_short_secret_is_found_verbatim_escaped_in_base64_and_in_hex(key, way):
    clean, _ = secret_set(key).redact(f"before {PLAIN[way](key)} after")

    assert_gone(clean, key=key)


NOT_WHEN_SHORT = {"base64-four", "base64-spaced", "base64-escaped", "jpeg-exif"}


@pytest.mark.parametrize(
    ("key", "way"),
    [
        pytest.param(key, way, id=f"{name}-{way}")
        for name, key in {**STRONG, "eight": SHORT["eight"]}.items()
        for way in WRAPPED
        if name != "eight" or way not in NOT_WHEN_SHORT
    ],
)
def test_the_final_scan_looks_into_wrappings(key, way):
    document = f"before {WRAPPED[way](key)} after"

    clean, hits, dropped = redact_document(secret_set(key), document, name="log.txt")

    assert clean.startswith("before ")
    assert clean.endswith(" after")
    assert MARK in clean
    assert len(clean) < 120
    assert {hit.name for hit in hits} == {"key_user"}
    assert dropped == ()
    assert scan_document(secret_set(key), clean, name="log.txt").clean


@pytest.mark.parametrize("way", DERIVED)
def test_derived_tokens_are_taken_out_whatever_their_value(way):
    text, token = DERIVED[way]

    clean, spans = SecretSet().redact(text)

    assert token in text
    assert token not in clean
    assert "[redacted:signature]" in clean
    assert {span.form for span in spans} == {"derived"}
    assert len(clean) - clean.count("[redacted:signature]") * len("[redacted:signature]") >= 12


@pytest.mark.parametrize(
    "text",
    [
        'headers = {"Authorization": f"Bearer {token}"}',
        "Authorization: Bearer YOUR",
        "Signature: none",
        "the signature is invalid, see authorization",
        "def sign(signature=None, authorization=''):",
    ],
)
def test_talk_of_tokens_is_left_alone(text):
    assert SecretSet().redact(text) == (text, [])


def test_the_mark_names_the_secret():
    secrets = SecretSet([Secret("key_user", ALNUM), Secret("key_root", LONG)])

    clean, spans = secrets.redact(f"{ALNUM} {LONG} {ALNUM[::-1]}{b64(LONG)}")

    assert (
        clean.replace("=", "")
        == "[redacted:key_user] [redacted:key_root] [redacted:key_user][redacted:key_root]"
    )
    assert [span.form for span in spans] == ["verbatim", "verbatim", "reversed", "base64"]


def test_a_set_of_secrets_does_not_show_them():
    secrets = secret_set(ALNUM)

    assert repr(secrets) == "SecretSet(key_user)"
    assert ALNUM.lower() not in repr(vars(secrets)["_probes"]).lower()


def test_spans_tell_place_and_form():
    spans = secret_set(ALNUM).find(f"x {ALNUM} y {ALNUM.encode().hex()} z " + "\n".join(ALNUM))

    assert [(span.start, span.end, span.form) for span in spans] == [
        (2, 38, "verbatim"),
        (41, 113, "hex"),
        (116, 187, "spaced"),
    ]


def test_forms_spread_over_more_than_a_window_are_found():
    spread = (" " * 5000).join(ALNUM)

    clean, _ = secret_set(ALNUM).redact("before " + "x " * 20000 + spread + " y" * 20000 + " after")

    assert clean == "before " + "x " * 20000 + MARK + " y" * 20000 + " after"


def test_a_text_full_of_secrets_is_cleaned():
    lines = [f"{index}: {ALNUM} {b64(ALNUM)}" for index in range(3000)]

    clean, spans = secret_set(ALNUM).redact("\n".join(lines))

    assert clean == "\n".join(f"{index}: {MARK} {MARK}" for index in range(3000))
    assert len(spans) == 6000


IMPOSSIBLE = {
    "cipher": "".join(chr(ord(char) ^ 1) for char in ALNUM),
    "part": ALNUM[:8],
    "digest": "d2a84f4b8b650937ec8f73cd8be2c74add5a911ba64df27458ed8229da804a26",
    "padding": "q".join(ALNUM),
    "encoding": "".join(f"{ord(char):07b}" for char in ALNUM),
}


@pytest.mark.parametrize("way", IMPOSSIBLE)
def test_what_is_said_to_be_impossible_is(way):
    """If one of these is found one day, the documentation is to be changed."""
    assert way in KNOWN_IMPOSSIBLE
    assert scan_document(secret_set(ALNUM), IMPOSSIBLE[way], name="log.txt").clean


def test_json_may_hold_it_as_a_key():
    document = json.dumps({"a": {ALNUM: 1, ALNUM[::-1]: 2}, "b": [ALNUM[:20], ALNUM[20:]]})

    clean, hits, _ = redact_document(secret_set(ALNUM), document, name="record.json")

    assert json.loads(clean) == {"a": {MARK: 1, MARK + "'": 2}, "b": [MARK, ""]}
    assert sum(hit.count for hit in hits) == 3
