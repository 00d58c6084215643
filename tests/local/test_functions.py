"""Functions, triggers and the queue over REST, as a client's script sees them; nothing runs here."""

import base64
import hashlib
import uuid

import pytest

from libsafe_nb.local import queuecalls
from libsafe_nb.local.ask import Problem

CONTENT = b'{"cells": []}'
SECRET = "hunter2-SECRET-abcdef123456"
PARAMETERS = [
    {"name": "n", "type": "int", "default": 1, "secret": False, "help": ""},
    {"name": "any", "type": "any", "default": None, "secret": False, "help": ""},
    {"name": "kind", "type": "Literal['a', 'b']", "default": "a", "secret": False, "help": ""},
    {"name": "many", "type": "Optional[list[int]]", "default": None, "secret": False, "help": ""},
    {"name": "token", "type": "secret", "default": None, "secret": True, "help": ""},
]


@pytest.fixture
def publish(rest):
    def publish(key=None, content=CONTENT, by=rest, **fields):
        body = {"kind": "notebook", "name": "f.ipynb", **fields}
        return by.ok(
            "POST",
            "/function",
            json={
                "key": key or f"f-{uuid.uuid4().hex[:8]}",
                "content": base64.b64encode(content).decode(),
                **body,
            },
        )

    return publish


@pytest.fixture
def paused(rest, publish):
    """A function whose calls are taken and not started."""
    made = publish(parameters=PARAMETERS)
    return rest.ok("PUT", f"/function/{made['key']}", json={"paused": True})["key"]


def test_versions_are_kept_and_one_is_current(rest, publish):
    made = publish(title="A title")
    again = publish(made["key"], title="A title")
    second = publish(made["key"], b'{"cells": [1]}', description="more")
    back = rest.ok("PUT", f"/function/{made['key']}", json={"version": 1})

    assert (made["version"], again["version"], second["version"], back["version"]) == (1, 1, 2, 1)
    assert back["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert (second["description"], back["title"]) == ("more", "A title")
    listed = rest.ok("GET", f"/function/{made['key']}/version")
    assert [(each["number"], each["current"]) for each in listed] == [(2, False), (1, True)]
    content = rest.ok("GET", f"/function/{made['key']}/version/2")
    assert base64.b64decode(content["content"]) == b'{"cells": [1]}'
    assert rest.refused(404, "PUT", f"/function/{made['key']}", json={"version": 3})
    assert made["key"] in {each["key"] for each in rest.ok("GET", "/function", params={"limit": 10_000})}


def test_bytes_that_were_changed_on_the_disk_are_not_given_out(rest, publish, served):
    made = publish(content=f"{uuid.uuid4()}".encode())
    (served.root / "functions" / made["sha256"]).write_bytes(b"others")

    message = rest.refused(409, "GET", f"/function/{made['key']}/version/1")
    assert "expected the bytes that were published" in message


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"key": "UPPER"}, 400),
        ({"key": "a/b"}, 400),
        ({"content": "no base64!"}, 400),
        ({"content": None}, 400),
        ({"kind": "binary"}, 400),
        ({"name": "../f.ipynb"}, 400),
        ({"parameters": ["x"]}, 400),
        ({"parameters": [{"name": "token", "secret": True, "default": SECRET}]}, 400),
        ({"parameters": [{"name": "half", "default": "\ud800"}]}, 400),
        ({"content": base64.b64encode(b"x" * (32 * 1024 * 1024 + 1)).decode()}, 413),
    ],
)
def test_what_cannot_be_published(rest, fields, status):
    body = {"key": "fine", "content": "e30=", "kind": "notebook", "name": "f.ipynb", **fields}

    assert rest.refused(status, "POST", "/function", json=body)


@pytest.mark.parametrize(
    "fields",
    [
        {"attempts": 0},
        {"attempts": True},
        {"backoff": -1},
        {"concurrency": 1.5},
        {"queue_limit": None},
        {"enabled": 1},
        {"timeout": 0},
    ],
)
def test_settings_that_are_none(rest, paused, fields):
    assert rest.refused(400, "PUT", f"/function/{paused}", json=fields)


def test_settings(rest, paused):
    found = rest.ok("PUT", f"/function/{paused}", json={"attempts": 5, "concurrency": 2, "timeout": 1.5})
    assert (found["attempts"], found["concurrency"], found["timeout"]) == (5, 2, 1.5)
    found = rest.ok("PUT", f"/function/{paused}", json={"concurrency": None})
    assert found["concurrency"] is None


def test_others_may_call_but_not_publish(rest, root_rest, other, paused, publish):
    body = {"key": "x", "content": "e30=", "kind": "notebook", "name": "f.ipynb"}
    assert other.rest.refused(403, "POST", "/function", json=body)
    assert other.rest.refused(403, "PUT", f"/function/{paused}", json={"enabled": False})
    assert other.rest.refused(403, "POST", "/trigger", json={"function": paused, "type": "on_demand"})
    assert other.rest.refused(403, "POST", "/call/claim", json={"owner": "me"})
    assert other.rest.refused(403, "PUT", "/queue", json={"paused": True})
    assert other.rest.refused(403, "GET", f"/function/{paused}/version/1")
    assert root_rest.ok("GET", f"/function/{paused}/version/1")["content"]
    # Functions run as the platform's own user, who does not work in the other's container unless let in.
    assert other.rest.refused(403, "POST", f"/function/{paused}/call", json={"container_id": other.container})
    other.rest.ok("POST", f"/container/{other.container}/grant", json={"user_id": "1"})
    made = other.rest.ok("POST", f"/function/{paused}/call", json={"container_id": other.container})
    assert made["user_id"] == other.id
    assert other.rest.ok("PUT", f"/call/{made['id']}", json={"status": "cancelled"})["status"] == "cancelled"
    assert publish(by=root_rest)["version"] == 1


def test_others_see_the_triggers_of_their_containers_and_of_any_only_that_they_are_there(
    rest, other, paused, container
):
    about = {"function": paused, "type": "file_created", "path_regex": "^/secret", "params": {"any": "told"}}
    other.rest.ok("POST", f"/container/{other.container}/grant", json={"user_id": "1"})
    places = {"mine": container, "theirs": other.container, "any": None}
    made = {
        name: rest.ok("POST", "/trigger", json={**about, "container_id": place})["id"]
        for name, place in places.items()
    }
    seen = {each["id"]: each for each in other.rest.ok("GET", "/trigger", params={"function": paused})}
    assert set(seen) == {made["theirs"], made["any"]}
    assert seen[made["theirs"]] == rest.ok("GET", f"/trigger/{made['theirs']}")
    assert (seen[made["any"]]["path_regex"], seen[made["any"]]["params"]) == (None, None)
    assert other.rest.ok("GET", f"/trigger/{made['any']}") == seen[made["any"]]
    assert other.rest.refused(403, "GET", f"/trigger/{made['mine']}")
    assert len(rest.ok("GET", "/trigger", params={"function": paused})) == 3
    for each in made.values():
        rest.ok("DELETE", f"/trigger/{each}")


def test_equal_bytes_are_one_version_however_the_file_is_called_if_it_is_read_the_same_way(publish):
    made = publish(name="a.ipynb", title="A")
    again = publish(made["key"], name="b.ipynb", title="B", parameters=[{"name": "n"}])
    assert [(each["version"], each["name"], each["title"]) for each in (made, again)] == [
        (1, "a.ipynb", "A"),
        (1, "b.ipynb", "B"),
    ]
    assert again["parameters"] == [{"name": "n"}]
    assert publish(made["key"], name="b.py")["version"] == 2
    assert publish(made["key"], name="b.py", kind="handler")["version"] == 3


def test_a_call_on_demand_takes_files_folders_and_parameters(rest, s3, served, container, paused):
    bucket = served.settings.s3.bucket
    for path in ("a.txt", "d/b.txt", "d/e/c.txt", "provenance/x.json", "Provenance/x.json"):
        s3.put_object(Bucket=bucket, Key=f"{container}/{path}", Body=b"x")
    one = rest.file(container, "a.txt")["id"]
    for path in ("d/b.txt", "d/e/c.txt", "provenance/x.json", "Provenance/x.json"):
        rest.file(container, path)
    trigger = rest.ok(
        "POST", "/trigger", json={"function": paused, "type": "on_demand", "container_id": container}
    )
    made = rest.ok(
        "POST",
        f"/function/{paused}/call",
        json={"container_id": container, "file_ids": [one], "paths": ["/d"], "params": {"n": 1}},
    )
    whole = rest.ok("POST", f"/function/{paused}/call", json={"container_id": container, "paths": ["/"]})

    assert (made["status"], made["files"], whole["files"]) == ("queued", 3, 4)
    assert made["trigger"] == {"id": trigger["id"], "type": "on_demand", "regex": ""}
    job = rest.ok("GET", f"/job/{made['job_id']}")
    assert (job["status"], job["function_key"], job["call_id"]) == ("QUEUED", paused, made["id"])
    for wrong in ({"paths": ["/none"]}, {"file_ids": ["999999"]}):
        rest.refused(404, "POST", f"/function/{paused}/call", json={"container_id": container, **wrong})
    # Cancelled by its job, as a user does who knows nothing of calls.
    rest.ok("PUT", f"/job/{made['job_id']}", json={"status": "CANCELLED"})
    assert rest.ok("GET", f"/call/{made['id']}")["status"] == "cancelled"
    rest.ok("PUT", f"/call/{whole['id']}", json={"status": "cancelled"})
    assert rest.ok("GET", f"/job/{whole['job_id']}")["status"] == "CANCELLED"


def test_a_file_that_was_stored_a_moment_ago_is_called_with(rest, s3, served, container, paused):
    """The rows may know nothing of it yet."""
    for number in range(10):
        s3.put_object(Bucket=served.settings.s3.bucket, Key=f"{container}/{number}.txt", Body=b"x")
        made = rest.ok(
            "POST",
            f"/function/{paused}/call",
            json={"container_id": container, "paths": [f"/{number}.txt"]},
        )
        assert made["files"] == 1
        rest.ok("PUT", f"/call/{made['id']}", json={"status": "cancelled"})
    for number in range(10):
        s3.put_object(Bucket=served.settings.s3.bucket, Key=f"{container}/f/{number}.txt", Body=b"x")
        for folder, count in (("/f", number + 1), ("/", number + 11)):
            body = {"container_id": container, "paths": [folder]}
            made = rest.ok("POST", f"/function/{paused}/call", json=body)
            assert made["files"] == count
            rest.ok("PUT", f"/call/{made['id']}", json={"status": "cancelled"})
    for odd in ("/", "", "..", "a\0b", 7, None):
        answer = rest.send(
            "POST", f"/function/{paused}/call", json={"container_id": container, "paths": [odd]}
        )
        assert answer.status_code in (200, 400, 404), answer.text


def test_files_of_others_and_too_long_paths_are_refused(rest, s3, served, container, paused, other):
    bucket = served.settings.s3.bucket
    s3.put_object(Bucket=bucket, Key=f"{container}/a.txt", Body=b"x")
    other.s3.put_object(Bucket=bucket, Key=f"{other.container}/b.txt", Body=b"x")
    mine, elsewhere = rest.file(container, "a.txt")["id"], rest.container()
    theirs = other.rest.file(other.container, "b.txt")["id"]
    call = f"/function/{paused}/call"
    assert "is not in container" in rest.refused(
        400, "POST", call, json={"container_id": elsewhere, "file_ids": [mine]}
    )
    rest.refused(403, "POST", call, json={"container_id": container, "file_ids": [mine, theirs]})
    for wrong in ("x", None, True, -1):
        rest.refused(400, "POST", call, json={"container_id": container, "file_ids": [wrong]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queuecalls, "MAX_PATHS", 5)
        rows = [{"id": 1, "path": "a", "type": "FILE"}, {"id": 2, "path": "b" * 5, "type": "FILE"}]
        patch.setattr(queuecalls, "_chosen", lambda *_: iter(rows))
        with pytest.raises(Problem, match="paths of a call have 5 characters"):
            queuecalls._files(None, 1, {})
        rows[1] = rows[0]
        assert queuecalls._files(None, 1, {}) == {1: "/a"}


def test_what_waits_is_not_queued_again_nor_what_has_ended_cancelled_otherwise(rest, container, paused):
    call = rest.ok("POST", f"/function/{paused}/call", json={"container_id": container})["id"]
    assert "only one that is dead" in rest.refused(409, "POST", f"/call/{call}/requeue")
    for _ in range(2):
        assert rest.ok("PUT", f"/call/{call}", json={"status": "cancelled"})["status"] == "cancelled"
    again = rest.ok("POST", f"/call/{call}/requeue")
    assert again["status"] == "queued"
    rest.ok("PUT", f"/job/{again['job_id']}", json={"status": "FAILED", "result": {"status": "failed"}})
    assert "has ended as failed" in rest.refused(409, "PUT", f"/call/{call}", json={"status": "cancelled"})


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"token": SECRET}, "token is a secret, and is not taken from an argument; set LIBSAFE_SECRET_TOKEN"),
        ({"nonsense": 4}, "unknown parameter 'nonsense'"),
        ({"n": "x"}, "expected int, got 'x'"),
        ({"n": None}, "expected int"),
        ({"kind": "c"}, "Literal"),
        ({"many": "[1, 2.5]"}, "list"),
        ({"any": {"deep": [{"$secret": "other"}]}}, "declares as Secret"),
        ({"any": {"$secret": "serve_key"}}, "declares as Secret"),
        ({"token": {"$secret": "token"}}, "secret"),
        ({"any": "\ud800"}, "half a surrogate pair"),
    ],
    ids=str,
)
def test_what_a_function_does_not_take_is_neither_queued_nor_set_nor_kept(
    rest, served, container, paused, params, said
):
    for way, body in (
        (f"/function/{paused}/call", {"container_id": container, "params": params}),
        ("/trigger", {"function": paused, "type": "on_demand", "params": params}),
    ):
        assert said in rest.refused(400, "POST", way, json=body)
    assert rest.ok("GET", "/call", params={"container_id": container}) == []
    assert rest.ok("GET", "/trigger", params={"function": paused}) == []
    assert not any(SECRET.encode() in path.read_bytes() for path in served.root.glob("*") if path.is_file())


def test_what_it_takes_is_kept_as_it_was_given(rest, container, paused, publish):
    params = {"n": "4", "kind": "b", "many": "[1, 2]", "any": {"x": [1]}}
    made = rest.ok("POST", f"/function/{paused}/call", json={"container_id": container, "params": params})
    assert rest.ok("GET", f"/call/{made['id']}")["params"] == params
    handler = publish(kind="handler", name="h.py")["key"]
    rest.ok("PUT", f"/function/{handler}", json={"paused": True})
    call = {"container_id": container, "params": {"whatever": 1}}
    rest.ok("POST", f"/function/{handler}/call", json=call)
    call["params"] = {"whatever": {"$secret": "other"}}
    rest.refused(400, "POST", f"/function/{handler}/call", json=call)


def test_the_version_that_is_asked_for_says_what_it_takes(rest, container, paused, publish):
    publish(paused, b'{"cells": [1]}')
    call = {"container_id": container, "params": {"n": 1}}
    rest.refused(400, "POST", f"/function/{paused}/call", json=call)
    rest.ok("POST", f"/function/{paused}/call", json={**call, "version": 1})


def test_one_user_fills_the_queue_for_nobody_else_and_passes_nobody(rest, other, container, paused):
    other.rest.ok("POST", f"/container/{other.container}/grant", json={"user_id": "1"})
    rest.ok("PUT", f"/function/{paused}", json={"queue_limit": 2})
    call = f"/function/{paused}/call"
    theirs = {"container_id": other.container}
    assert "priority" in other.rest.refused(403, "POST", call, json={**theirs, "priority": 1})
    made = [other.rest.ok("POST", call, json={**theirs, "priority": priority}) for priority in (0, -5)]
    assert "2 calls" in other.rest.refused(429, "POST", call, json=theirs)
    assert other.rest.refused(403, "PUT", f"/call/{made[0]['id']}", json={"priority": 100})
    ours = [rest.ok("POST", call, json={"container_id": container, "priority": 100}) for _ in range(2)]
    assert rest.refused(429, "POST", call, json={"container_id": container})
    rest.ok("PUT", f"/call/{made[0]['id']}", json={"priority": 1})
    for each in (*made, *ours):
        rest.ok("PUT", f"/call/{each['id']}", json={"status": "cancelled"})


@pytest.mark.parametrize(("name", "taken"), [("ß" * 100, True), ("ß" * 101, False), ("x" * 201, False)])
def test_a_files_name_fits_into_every_file_system(rest, publish, name, taken):
    if taken:
        assert publish(name=name)["name"] == name
    else:
        body = {"key": "f", "content": "e30=", "kind": "notebook", "name": name}
        assert "name" in rest.refused(400, "POST", "/function", json=body)


def test_unknown_disabled_and_too_many(rest, container, paused):
    call = f"/function/{paused}/call"
    rest.refused(404, "POST", "/function/nobody/call", json={"container_id": container})
    rest.ok("PUT", f"/function/{paused}", json={"queue_limit": 1})
    first = rest.ok("POST", call, json={"container_id": container})
    refused = rest.send("POST", call, json={"container_id": container})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    rest.ok("PUT", f"/call/{first['id']}", json={"status": "cancelled"})
    rest.ok("PUT", f"/function/{paused}", json={"enabled": False})
    assert "disabled" in rest.refused(409, "POST", call, json={"container_id": container})


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "file_moved"},
        {"type": "file_created", "path_regex": "("},
        {"type": "file_created", "name_regex": r"\p{L}"},
        {"type": "file_created", "name_regex": "(?:tif){e<=1}"},
        {"type": "cron", "schedule": "0 0 0 * * *"},
        {"type": "file_created", "batch_files": 0},
        {"type": "file_created", "size_min": 5, "size_max": 4},
        {"type": "file_created", "schedule": "* * * * *"},
        {"type": "minute"},
        {"type": "minute", "mime": "a/b"},
        {"type": "cron", "schedule": "nonsense"},
        {"type": "cron"},
        {"type": "on_demand", "params": []},
        {"type": "on_demand", "params": {"half": "\ud800"}},
    ],
)
def test_triggers_that_are_none(rest, paused, fields):
    container = {} if fields == {"type": "minute"} else {"container_id": "1"}

    assert rest.refused(400, "POST", "/trigger", json={"function": paused, **container, **fields})


def test_triggers_are_listed_disabled_and_removed(rest, paused):
    made = rest.ok(
        "POST",
        "/trigger",
        json={"function": paused, "type": "cron", "schedule": "0 4 * * 1", "container_id": "1"},
    )
    rest.ok("PUT", f"/trigger/{made['id']}", json={"enabled": False})
    assert [each["enabled"] for each in rest.ok("GET", "/trigger", params={"function": paused})] == [False]
    rest.ok("DELETE", f"/trigger/{made['id']}")
    rest.refused(404, "GET", f"/trigger/{made['id']}")


def test_a_claim_that_waits_ends_with_nothing(rest):
    rest.ok("PUT", "/queue", json={"paused": True})
    try:
        assert rest.ok("POST", "/call/claim", json={"owner": "test", "wait": 0.3}) is None
    finally:
        assert rest.ok("PUT", "/queue", json={"paused": False})["paused"] is False


@pytest.mark.parametrize(
    "fields",
    [{}, {"keep_days": 0}, {"keep_calls": True}, {"keep_days": "7"}, {"paused": None, "keep_days": 7}],
)
def test_what_the_queue_cannot_be_told(rest, fields):
    before = rest.ok("GET", "/queue")
    assert rest.refused(400, "PUT", "/queue", json=fields)
    after = rest.ok("GET", "/queue")
    assert (after["paused"], after["keep_days"]) == (before["paused"], before["keep_days"])
    assert after["trouble"] == []
