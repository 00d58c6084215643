"""Python's parser in several threads at once."""

import ast
import gc
import sys
import threading

import pytest

from libsafe_nb import syntax


@pytest.fixture
def collected_in_between():
    """The collector runs Python code often, in which other threads get their turn."""

    def look(phase, info):
        sum(range(50))

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    gc.callbacks.append(look)
    yield
    gc.callbacks.remove(look)
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


def test_threads_do_not_get_into_each_others_way(collected_in_between):
    """`ast.parse` itself fails here now and then, in Python 3.11."""
    lines = "\n".join(f"x{n} = [1, {{'a': (3, f(5))}}]" for n in range(200))
    expected, wrong = ast.dump(ast.parse(lines)), []

    def go():
        for _ in range(10):
            try:
                if ast.dump(syntax.parse(lines)) != expected:
                    wrong.append("another tree")
            except Exception as exc:
                wrong.append(exc)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert wrong == []


@pytest.mark.parametrize("text", ["{'a': [1, b'x', (None, -2.5)]}", "  'spaces before'", "b'\\x1f\\x8b'"])
def test_a_literal_is_what_python_says(text):
    assert syntax.literal(text) == ast.literal_eval(text)


@pytest.mark.parametrize("text", ["f(1)", "a", "1 +"])
def test_no_literal(text):
    with pytest.raises((ValueError, SyntaxError)):
        syntax.literal(text)
