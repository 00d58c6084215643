"""One secret, and the payload with its secrets taken out."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import pytest

from libsafe_nb.errors import PayloadError, SettingsError
from libsafe_nb.secrets import Secret, fill_payload, redact_payload, weakness

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


def test_the_payload_keeps_everything_but_its_keys():
    given = payload(key_user=USER, key_root=ROOT)
    before = copy.deepcopy(given)

    clean, secrets = redact_payload(given)

    assert before == given
    assert [Secret("key_user", USER), Secret("key_root", ROOT)] == secrets
    assert clean["api"] == {
        "url": "http://go.example",
        "key_user": {"$secret": "key_user"},
        "key_root": {"$secret": "key_root"},
    }
    assert given["function_params"] == clean["function_params"]
    assert clean["more"] == {"same": {"$secret": "key_user"}, "list": [{"$secret": "key_root"}, 1, None]}
    assert USER not in json.dumps(clean)


def test_declared_parameters_are_secrets_too():
    clean, secrets = redact_payload(payload(key_user=USER), names=["token", "absent"])

    assert clean["function_params"]["token"] == {"$secret": "token"}
    assert [secret.name for secret in secrets] == ["key_user", "token"]


def test_filling_is_the_inverse():
    given = payload(key_user=USER, key_root=ROOT)
    clean, secrets = redact_payload(given, names=iter(["token"]))

    assert given == fill_payload(clean, {secret.name: secret.reveal() for secret in secrets})
    assert clean == fill_payload(clean, {})


def test_one_value_under_two_names_keeps_both():
    clean, secrets = redact_payload(payload(key_user=USER, key_root=USER))

    assert clean["api"]["key_root"] == {"$secret": "key_root"}
    assert clean["more"]["same"] == {"$secret": "key_user"}
    assert len(secrets) == 2


def test_a_payload_without_keys_has_no_secrets():
    for api in ({}, {"key_user": "", "key_root": None}, {"key_user": {"$secret": "key_user"}}):
        clean, secrets = redact_payload(payload(**api))

        assert secrets == []
        assert payload(**api) == clean
    assert redact_payload({"api": None}) == ({"api": None}, [])


@pytest.mark.parametrize("value", ["short", 12, ["a"]])
def test_a_key_that_cannot_be_kept_secret_is_refused(value):
    with pytest.raises(PayloadError) as caught:
        redact_payload(payload(key_user=value))

    assert caught.value.path == "api.key_user"
    assert str(caught.value).startswith("api.key_user: expected")
