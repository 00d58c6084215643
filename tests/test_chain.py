"""The chain of a container's records, in the real store."""

import json
import threading

import pytest

import libsafe_nb
from libsafe_nb import chain, record, recover
from libsafe_nb.storage import Storage

FILES = {"record.json": b"{}", "SHA256SUMS": b""}


@pytest.fixture
def link(connection, container):
    def link(run, **options):
        return chain.link(connection.storage, container, run=run, prefix="p", files=FILES, **options)

    return link


@pytest.fixture
def bodies(connection, container):
    def bodies():
        paths = [each.path for each in connection.storage.list(container, f"{chain.FOLDER}/")]
        return [connection.storage.get(container, path) for path in paths]

    return bodies


def unbroken(bodies):
    found = [json.loads(each) for each in bodies]
    before = [None, *map(record.digest, bodies)][:-1]
    return [each["seq"] for each in found] == list(range(1, len(found) + 1)) and [
        each["prev"] for each in found
    ] == before


def test_each_link_holds_the_digest_of_the_one_before(link, bodies):
    heads = [link(name) for name in "abc"]

    assert unbroken(bodies())
    assert heads[-1] == chain.Link(3, record.digest(bodies()[-1]))


def test_twenty_at_once_make_one_chain(link, bodies):
    threads = [threading.Thread(target=link, args=(str(number),)) for number in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(bodies()) == 20
    assert unbroken(bodies())


def test_an_end_that_is_out_of_date_costs_a_try(link, bodies, connection, container):
    seen = chain.end(connection.storage, container)
    for name in "abc":
        link(name)
    tried = []

    assert link("d", last=seen, trying=lambda seq, sha256: tried.append(seq)).seq == 4
    assert tried == [1, 4]
    assert unbroken(bodies())


@pytest.mark.parametrize("gone", [2, 3])
def test_a_deleted_links_number_is_not_taken_again(gone, link, bodies, connection, container):
    """On a versioned bucket a conditional put succeeds again after a deletion."""
    third = [link(name) for name in "abc"][-1]
    connection.storage.delete(container, chain.path(gone))
    fourth = link("d")

    assert (fourth.seq, json.loads(bodies()[-1])["prev"]) == (4, third.sha256)


def test_the_last_number_is_found_past_holes_pages_and_what_lies_beside(connection, container, monkeypatch):
    monkeypatch.setattr(chain, "PAGE", 3)
    for seq in (1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 29):
        connection.storage.put(container, chain.path(seq), b"{}")
        connection.storage.put(container, chain.path(seq).replace(".json", ".dsse.json"), b"{}")
    connection.storage.put(container, f"{chain.FOLDER}/note.txt", b"")

    assert chain.highest(connection.storage, container) == 29


def test_what_was_begun_before_is_not_done_twice(link, bodies):
    tried = []
    link("a", trying=lambda seq, sha256: tried.append({"seq": seq, "sha256": sha256}))

    assert link("a", tried=tried).seq == 1
    assert len(bodies()) == 1


def test_a_run_is_linked_and_its_job_knows_the_head(run, notebook, bodies, connection, stored):
    done = run(notebook("print(1)"))
    (link,) = bodies()
    found = json.loads(link)
    said = [each["message"] for each in connection.client.messages(done.job)]

    assert found["record_sha256"] == record.digest(stored(done, "record.json"))
    assert found["sums_sha256"] == record.digest(stored(done, "SHA256SUMS"))
    assert (found["run"], found["prev"], found["seq"]) == (done.run, None, 1)
    assert f"chain: 1 {record.digest(link)}" in said


def test_a_recovery_finds_the_link_that_a_dead_runner_put(
    run, notebook, bodies, connection, monkeypatch, platform
):
    """Killed after the put, before the journal's line: the next number would be a second link of one record."""
    put = Storage.put

    def killed(self, container, path, data, **options):
        put(self, container, path, data, **options)
        if path.startswith(chain.FOLDER):
            raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", killed)
        with pytest.raises(SystemExit):
            run(notebook("print(1)"))
    (found,) = recover.recover(settings=platform.settings, lost=False)

    assert found.status == "completed"
    assert len(bodies()) == 1


def test_runs_at_once_make_one_chain(notebook, platform, container, bodies):
    path = notebook("print(1)")
    runs = [
        libsafe_nb.run(None, path, container=container, settings=platform.settings, wait=False)
        for _ in range(6)
    ]

    assert {each.wait(120).status for each in runs} == {"completed"}
    assert len(bodies()) == 6
    assert unbroken(bodies())
