"""The door between a kernel and its runner."""

import threading
import time

import pytest

from libsafe_nb import door, errors


@pytest.fixture
def heard():
    return []


@pytest.fixture
def opened(tmp_path, heard):
    def answer(do, fields):
        heard.append((do, fields))
        if do == "refuse":
            raise errors.NotFound("file 9: no such file")
        if do == "crash":
            raise ZeroDivisionError("x")
        return fields

    with door.Door(tmp_path / "door", answer) as opened:
        yield opened


def test_answers_come_back(opened):
    client = door.connect(opened.path)

    assert client.call("echo", text="é\n") == {"text": "é\n"}
    client.close()


def test_errors_travel_by_type(opened):
    client = door.connect(opened.path)

    with pytest.raises(errors.NotFound, match="file 9"):
        client.call("refuse")
    with pytest.raises(errors.ExecutionError, match="ZeroDivisionError"):
        client.call("crash")
    client.close()


def test_what_was_told_is_there_after_the_teller_is_gone(opened, heard):
    client = door.connect(opened.path)
    for number in range(100):
        client.tell("event", number=number)
    client.close()
    opened.close()

    assert [fields["number"] for _, fields in heard] == list(range(100))


def test_many_speak_at_once(opened):
    def speak(results):
        client = door.connect(opened.path)
        results.append([client.call("echo", n=n)["n"] for n in range(50)])
        client.close()

    results = []
    threads = [threading.Thread(target=speak, args=(results,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [list(range(50))] * 16


def test_closing_removes_the_socket(tmp_path):
    with door.Door(tmp_path / "door", lambda do, fields: None) as opened:
        assert opened.path.exists()

    assert not opened.path.exists()
    with pytest.raises(errors.ExecutionError, match="no run answers"):
        door.connect(opened.path)


def test_many_that_wait_for_an_answer_do_not_each_delay_the_end(tmp_path):
    """As workers of a kernel do whose messages wait in an outage."""
    go = threading.Event()
    opened = door.Door(tmp_path / "door", lambda do, fields: go.wait(60))
    clients = [door.connect(opened.path) for _ in range(4)]
    for each in clients:
        each.tell("log")
    time.sleep(0.2)
    begun = time.monotonic()
    opened.close()
    lasted = time.monotonic() - begun
    go.set()
    for each in clients:
        each.close()

    assert lasted < 4
