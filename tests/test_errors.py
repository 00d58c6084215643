"""The one error tree."""

import inspect
import pickle

import pytest

from libsafe_nb import errors

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.LibsafeError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_pickle_with_their_facts(kind):
    again = pickle.loads(pickle.dumps(kind("what happened", path="a.b")))

    assert (type(again), str(again), again.path, again.exit_code) == (
        kind,
        "what happened",
        "a.b",
        kind.exit_code,
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_stand_in_the_drawn_tree(kind):
    assert kind.__name__ in errors.__doc__
