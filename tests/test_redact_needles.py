"""The question whether a text may hold a form has one answer, whichever way it is looked for."""

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redact_samples import ALNUM, AWS_LIKE, DERIVED, LONG, SHORT

from libsafe_nb.redact import SecretSet, derived
from libsafe_nb.redact.needles import Needles
from libsafe_nb.redact.reading import Fold, to_bytes
from libsafe_nb.secrets import Secret

SECRETS = SecretSet(
    Secret(f"s{number}", value) for number, value in enumerate([ALNUM, AWS_LIKE, LONG, *SHORT.values()])
)
NEEDLES = SECRETS._needles[Fold.ALNUM]


@pytest.fixture(params=["numpy", "set"])
def way(request, monkeypatch):
    """numpy is taken where something else has loaded it."""
    if request.param == "numpy":
        pytest.importorskip("numpy")
    else:
        monkeypatch.delitem(sys.modules, "numpy", raising=False)
    return request.param


@pytest.mark.parametrize("before", range(70))
def test_every_needle_is_found_wherever_it_stands(way, before):
    needles = SECRETS._suspected
    for needle in NEEDLES:
        assert needles.any_in(b"0" * before + needle + b"1" * 30)
        assert needles.any_in(b"0" * before + needle)


@given(
    alphabet=st.sampled_from([b"ab", b"0123456789abcdef", bytes(range(256))]),
    lengths=st.lists(st.integers(8, 90), min_size=1, max_size=8),
    size=st.integers(0, 3000),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_both_ways_answer_as_a_search_for_each(alphabet, lengths, size, seed):
    pytest.importorskip("numpy")
    chance = random.Random(seed)
    found = [bytes(chance.choices(alphabet, k=length)) for length in lengths]
    text = bytes(chance.choices(alphabet, k=size))
    if seed % 2:
        at = chance.randrange(size + 1)
        text = text[:at] + chance.choice(found) + text[at:]
    needles = Needles(found)
    expected = any(needle in text for needle in found)

    assert needles._plain.any_in(text, needles._plain.shows) is expected
    assert needles._dense.any_in(text, needles._shows_with_numpy) is expected


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("before", range(0, 16, 3))
def test_derived_tokens_are_suspected(way, name, before):
    text = "x" * before + " " + DERIVED[name][0]

    assert SecretSet().suspects_text(text)


IS = ["=", ": ", "'='", '": "', "%3D", "%3d", "\\u003d", "\\\\u003D", "&#61;", "=b'", ': b"', "%3Db'"]


@pytest.mark.parametrize("kind", ["Bearer", "basic", "TOKEN"])
@pytest.mark.parametrize("equals", IS)
def test_every_way_to_write_a_login_header_holds_a_clue(way, kind, equals):
    """What stands beside a clue is listed; a way of writing that the pattern takes and the list lacks would be missed."""
    text = f"Authorization{equals}{kind} Zq7Lm2vXc9Rt4Bn8"
    assert list(derived.values(text))

    assert SecretSet().suspects(to_bytes(text))
