"""Keys pasted into a notebook are found by how they look; the vendor's sample is none, and nothing shows the key."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import pytest
from redact_samples import b64

from libsafe_nb.redact import SAMPLE_VALUES, find_pasted_keys
from libsafe_nb.redact.patterns import PastedKey

SAMPLE = "1234567890abcdefghijklmnopqrstuvwxyz"
KEY = "f7Gh39sLqP0zXvB2"
ROOT = Path(__file__).parent.parent

FOUND = {
    f'key_user = "{KEY}"': ("platform-key", "key_user"),
    f"{{'key_root': '{KEY}'}}": ("platform-key", "key_root"),
    'json_sample["api"]["key_user"] = "correct-horse-battery"': ("platform-key", "key_user"),
    f'"{{\\"key_user\\": \\"{KEY}\\"}}"': ("platform-key", "key_user"),
    f'"key_user": "{SAMPLE}0"': ("platform-key", "key_user"),
    f'api_key = "{KEY}"': ("literal", "api_key"),
    f'TOKEN: str = r"{KEY}"': ("literal", "TOKEN"),
    f'os.environ["CLIENT_SECRET"] = "{KEY}"': ("literal", "CLIENT_SECRET"),
    'password = "hunter2hunter2"': ("literal", "password"),
    f"accessToken: '{KEY}'": ("literal", "accessToken"),
    'client = boto3.client("s3", "AKIAIOSFODNN7EXAMPLE")': ("aws-key", ""),
    f'headers = {{"Authorization": "Bearer {KEY}{KEY}"}}': ("bearer", ""),
    "-----BEGIN OPENSSH PRIVATE KEY-----": ("private-key", ""),
    f"https://s3.example/a?X-Amz-Signature={'0f' * 32}": ("signature", ""),
    "https://s3.example/a?AWSAccessKeyId=AK1&Expires=17&Signature=f7Gh39sLqP0zXvB2%3D": ("signature", ""),
    f"ghp_{KEY}{KEY}{KEY}": ("token", ""),
    f"eyJhbGciOiJIUzI1NiJ9.eyJ{KEY}.{KEY}": ("token", ""),
}


@pytest.mark.parametrize("text", FOUND)
def test_a_pasted_key_is_found(text):
    found = find_pasted_keys(f"import x\n  {text}\n")

    assert [(each.kind, each.name) for each in found] == [FOUND[text]]
    assert found[0].line == 2
    assert KEY not in repr(found)
    assert KEY not in found[0].message
    assert found[0].message.endswith("instead")


@pytest.mark.parametrize(
    "text",
    [
        f'key_user = "{SAMPLE}"',
        'key_user = json_sample["api"]["key_user"]',
        'key_user = "<your key>"',
        'key_user = "${KEY_USER}"',
        'key_user = {"$secret": "key_user"}',
        'key_user = "[redacted:key_user]"',
        'key_user = ""',
        'api_key = "your_api_key_here"',
        'key = "filename_of_the_thing"',
        'sorted(rows, key="created_at_date")',
        't.warn("bad argument to arrayDefaultKey: "+t),t.substr(0,t.length-1)+"defaults"',
        'monkey = "f7Gh39sLqP0zXvB2"',
        'secret = input("What is the secret word? ")',
        'headers = {"Authorization": f"Bearer {token}"}',
        'print("Basic authentication_is_used_here")',
        'checksum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"',
    ],
)
def test_what_is_no_key_passes(text):
    assert find_pasted_keys(text) == []


def test_place_and_order():
    found = find_pasted_keys(f'a = 1\nkey_user = "{KEY}"; key_root = "{KEY}"\n')

    assert found == [
        PastedKey(2, 13, "platform-key", "key_user"),
        PastedKey(2, 44, "platform-key", "key_root"),
    ]


def test_the_sample_is_the_only_value_let_pass_and_has_a_source():
    assert list(SAMPLE_VALUES) == [SAMPLE]
    assert "documentation" in SAMPLE_VALUES[SAMPLE]


def test_our_own_notebooks_are_clean():
    notebooks = sorted(ROOT.glob("notebooks/**/*.ipynb"))

    assert notebooks
    assert all(find_pasted_keys(path.read_text()) == [] for path in notebooks)


def test_digests_ids_and_pictures_pass_and_take_no_time():
    chance = random.Random(3)
    text = "\n".join([chance.randbytes(32).hex() + "  a.tif" for _ in range(2000)])
    text += "\n".join(str(uuid.UUID(bytes=chance.randbytes(16))) for _ in range(2000))
    text += b64(chance.randbytes(1_000_000))

    assert find_pasted_keys(text) == []
