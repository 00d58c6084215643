"""One secret, and the payload with its secrets taken out."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest

from libsafe_nb.errors import SettingsError
from libsafe_nb.secrets import Secret, weakness

USER = "Zq7/Lm+2vXc9Rt4Bn8Ks1Wd6Yh3Pg5Jf0=="
ROOT = "r0oT-kEy-5uP3r-pR1vAt3-0123456789"


@pytest.mark.parametrize(
    "shown",
    [
        repr,
        str,
        "{}".format,
        "{0!r:>40}".format,
        lambda secret: f"{secret}",
        lambda secret: str([secret]),
        lambda secret: str({1: secret}),
    ],
)
def test_a_secret_shows_its_name_only(shown):
    text = shown(Secret("key_user", USER))

    assert USER not in text
    assert "key_user" in text


def test_a_secret_is_not_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").debug(
            "login with %s and %r", Secret("key_user", USER), Secret("key_user", USER)
        )

    assert USER not in caplog.text


def test_a_secret_cannot_be_joined_dumped_or_pickled():
    secret = Secret("key_user", USER)

    with pytest.raises(TypeError):
        "Bearer " + secret  # type: ignore[operator]
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError, match="its own settings"):
        pickle.dumps(secret)
    assert secret.reveal() == USER


def test_secrets_compare_by_name_and_value():
    assert Secret("a", USER) == Secret("a", USER)
    assert Secret("a", USER) != Secret("b", USER)
    assert Secret("a", USER) != Secret("a", ROOT)
    assert copy.deepcopy([Secret("a", USER)]) == [Secret("a", USER)]
    assert Secret("a", USER) != USER


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("Ab3$xyz", "at least 8 characters, found 7"),
        ("", "at least 8 characters, found 0"),
        ("aaaabbbbccccdddd", "at least 5 different characters, found 4"),
        ("20260131", "digits only to have at least 12 of them, found 8"),
        ("12345678901", "digits only to have at least 12 of them, found 11"),
    ],
)
def test_a_weak_value_is_refused_with_a_sentence(value, sentence):
    with pytest.raises(SettingsError, match=sentence) as caught:
        Secret("key_user", value)

    assert str(caught.value).startswith("key_user: expected a key")


@pytest.mark.parametrize(
    "value",
    ["Ab3$xyzw", "123456789012", "пароль-ключ", "quo\"te's and \\", "k" * 508 + "abcd", "a/b+c=d/e+f=g/h="],
)
def test_other_values_are_taken(value):
    assert weakness(value) is None
    assert value == Secret("key", value).reveal()


def test_long_values_are_strong():
    assert not Secret("key", "abcdefgh1234567").strong
    assert Secret("key", "abcdefgh12345678").strong


def payload(**api):
    return {
        "api": {"url": "http://go.example", **api},
        "function_data": {"container": {"id": "1"}, "job": {"id": "299"}},
        "function_params": {"algorithm": "md5", "token": "Tok-9f8e7d6c5b4a", "depth": 3},
        "more": {"same": api.get("key_user"), "list": [api.get("key_root"), 1, None]},
    }
