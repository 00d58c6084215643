"""A platform of the tests' own, and clients that are not ours: boto3 and requests as anybody uses them."""

from __future__ import annotations

import functools
import time
import uuid

import boto3
import pytest
import requests
from botocore.config import Config

from libsafe_nb import local
from libsafe_nb.local import accounts
from libsafe_nb.local.database import Database

from .rows import new_function


class Rest:
    """Plain requests with a key, as a client's script makes them."""

    def __init__(self, url, key):
        self.url = url
        self.session = requests.Session()
        if key:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def send(self, method, path, **options):
        return self.session.request(method, self.url + path, timeout=60, **options)

    def ok(self, method, path, **options):
        answer = self.send(method, path, **options)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["success"] is True
        return body["result"]

    def refused(self, status, method, path, **options):
        answer = self.send(method, path, **options)
        assert answer.status_code == status, answer.text
        body = answer.json()
        assert body["success"] is False
        assert body["msg"]
        return body["msg"]

    def container(self):
        return self.ok("POST", "/container", data={"name": f"test {uuid.uuid4()}"})["id"]

    def job(self, container):
        return self.ok("POST", "/job", json={"container_id": container})["id"]

    def file(self, container, path):
        return self.ok("GET", f"/container/{container}/file/path/{path}")

    def listed(self, container, **params):
        return self.ok("GET", f"/container/{container}/file/list", params=params)

    def close(self):
        self.session.close()


def s3_client(s3, **config):
    """boto3 as its users make it; `s3` is what platform.json or the user's creation says."""
    return boto3.client(
        "s3",
        endpoint_url=s3["endpoint"],
        aws_access_key_id=s3["access_key"],
        aws_secret_access_key=s3["secret_key"],
        region_name=s3["region"],
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}, **config),
    )


def as_dict(s3):
    return {name: getattr(s3, name) for name in ("endpoint", "bucket", "access_key", "secret_key", "region")}


def eventually(check, *, within=10.0):
    """Poll until the check holds (returns something true); what is promised in 2 s gets five times that."""
    deadline = time.monotonic() + within
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def db(tmp_path):
    made = Database(tmp_path / "rows.sqlite3")
    accounts.found(made, key_user="u" * 20, key_root="r" * 20, s3_access_key="")
    yield made
    made.close()


@pytest.fixture
def function(db):
    return functools.partial(new_function, db)


@pytest.fixture(scope="package")
def served(home, tmp_path_factory):
    with local.serve(tmp_path_factory.mktemp("local")) as platform:
        yield platform


@pytest.fixture(scope="package")
def rest(served):
    client = Rest(served.url, served.settings.key_user)
    yield client
    client.close()


@pytest.fixture(scope="package")
def root_rest(served):
    client = Rest(served.url, served.settings.key_root)
    yield client
    client.close()


@pytest.fixture(scope="package")
def s3(served):
    client = s3_client(as_dict(served.settings.s3))
    yield client
    client.close()


@pytest.fixture
def container(rest):
    return rest.container()


class Other:
    """A second user, with keys of their own."""

    def __init__(self, served, root_rest):
        created = root_rest.ok("POST", "/user", json={"name": "other"})
        self.id = created["id"]
        self.key = created["key"]
        self.s3_settings = created["s3"]
        self.rest = Rest(served.url, created["key"])
        self.s3 = s3_client(created["s3"])
        self.container = self.rest.container()


@pytest.fixture
def other(served, root_rest):
    user = Other(served, root_rest)
    yield user
    user.rest.close()
    user.s3.close()
