"""The environment first, then config.toml."""

import pytest

from libsafe_nb import settings
from libsafe_nb.errors import SettingsError

S3 = {"LIBSAFE_S3_BUCKET": "b", "LIBSAFE_S3_ACCESS_KEY": "a", "LIBSAFE_S3_SECRET_KEY": "s"}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write(text, mode=0o600):
        path = tmp_path / "libsafe-nb" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    return write


@pytest.mark.parametrize(
    "url",
    [
        "https://go.example.com",
        "https://go.example.com/",
        "https://go.example.com/api",
        "https://go.example.com/api/",
    ],
)
def test_both_ways_of_writing_the_url_are_one(url):
    assert settings.load({"LIBSAFE_URL": url}).url == "https://go.example.com/api"


def test_the_environment_comes_before_the_file(config):
    config('url = "https://file.example.com"\nkey_user = "from the file"')

    found = settings.load({"LIBSAFE_URL": "https://env.example.com"})

    assert (found.url, found.key_user, found.source) == (
        "https://env.example.com/api",
        "from the file",
        "environment",
    )


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("url = ", 0o600, "not TOML"),
        ('key_user = "x"', 0o644, "chmod 600"),
        ('keyuser = "x"', 0o600, "unknown setting 'keyuser'"),
    ],
)
def test_a_bad_file_is_told(config, text, mode, told):
    config(text, mode)

    with pytest.raises(SettingsError, match=told):
        settings.load({})


def test_incomplete_s3_settings_are_told(config):
    with pytest.raises(SettingsError, match="LIBSAFE_S3_SECRET_KEY is missing"):
        settings.load({name: value for name, value in S3.items() if "SECRET" not in name})


def test_keys_are_not_shown(config):
    found = settings.load(
        {"LIBSAFE_URL": "http://x", "LIBSAFE_KEY_USER": "user-key", "LIBSAFE_KEY_ROOT": "root-key", **S3}
    )

    assert not any(secret in repr(found) for secret in ("user-key", "root-key", "'s'"))


@pytest.mark.parametrize("text", ["", "[]", '{"url": "http://x"}'])
def test_what_is_not_a_platform_file_is_told(tmp_path, text):
    (tmp_path / "platform.json").write_text(text)

    with pytest.raises(SettingsError, match=r"platform\.json"):
        settings.from_platform_file(tmp_path / "platform.json")
