"""The payload is the platform's JSON, exactly; what is not is refused with the place named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb.errors import PayloadError
from libsafe_nb.payloads import MAX_BYTES, Payload

SAMPLE = {
    "api": {"url": "http://go.example.com", "key_user": "a-user-key-1234", "key_root": "a-root-key-1234"},
    "function_data": {
        "container": {"id": "1"},
        "user": {"id": "1"},
        "files": {"ids": [], "paths": []},
        "job": {"id": "299"},
        "trigger": {"id": "0", "type": "", "regex": ""},
        "function": {"id": "0", "key": ""},
    },
    "function_params": {"your_custom_parameter": "custom_parameter_value"},
}


def with_value(path, value):
    data = json.loads(json.dumps(SAMPLE))
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    place[last] = value
    return data


@pytest.mark.parametrize(
    "form",
    [json.dumps, lambda data: json.dumps(data).encode(), lambda data: data],
    ids=["str", "bytes", "dict"],
)
def test_platform_payload_comes_back_as_it_was(form):
    assert json.loads(Payload.parse(form(SAMPLE)).to_json()) == SAMPLE


def test_unknown_keys_are_kept():
    data = {**SAMPLE, "new": {"thing": [1, None]}}
    data["function_data"] = {**SAMPLE["function_data"], "region": "eu"}

    assert Payload.parse(data).replace(job="7").to_dict()["new"] == {"thing": [1, None]}
    assert Payload.parse(data).to_dict()["function_data"]["region"] == "eu"


def test_integer_ids_become_strings():
    assert Payload.parse(with_value("function_data.container.id", 12)).container == "12"


def test_keys_are_not_shown():
    assert "user-key" not in repr(Payload.parse(SAMPLE))


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("function_data.container.id", "abc", "expected a number, got 'abc'"),
        ("function_data.container.id", True, "got a boolean"),
        ("function_data.container", [], "expected"),
        ("function_data.files.ids", "1", "expected a list, got a string"),
        ("function_data.files.ids", ["1", {}], "[1]: expected a number as a string, got an object"),
        ("function_data.files.paths", [1], "[0]: expected a string, got a number"),
        ("function_data.trigger.type", 3, "expected a string, got a number"),
        ("function_params", [], "expected an object, got a list"),
        ("api.key_user", 5, "expected a string, got a number"),
    ],
)
def test_wrong_types_name_the_place(path, value, found):
    with pytest.raises(PayloadError) as caught:
        Payload.parse(with_value(path, value))

    assert path in str(caught.value)
    assert found in str(caught.value) or "is missing" in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_container_names_the_place():
    data = json.loads(json.dumps(SAMPLE))
    del data["function_data"]["container"]

    with pytest.raises(PayloadError, match=r"function_data\.container: is missing"):
        Payload.parse(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        b"\xff\xfe",
        '{"a": NaN}',
        "[" * 100_000,
        '{"a": 1, "a": 2}',
        '[{"a": {"b": 0, "b": 0}}]',
    ],
)
def test_what_is_not_a_payload_is_refused_in_one_sentence(text):
    with pytest.raises(PayloadError) as caught:
        Payload.parse(text)

    assert len(str(caught.value)) < 200


def test_absurd_sizes_are_refused():
    with pytest.raises(PayloadError, match="at most"):
        Payload.parse(b" " * (MAX_BYTES + 1))


def test_ids_and_paths_are_parallel():
    data = with_value("function_data.files", {"ids": ["1", "2"], "paths": ["/a"]})

    with pytest.raises(PayloadError, match="expected 2 paths"):
        Payload.parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(params=st.dictionaries(st.text(), json_values, max_size=5))
def test_any_parameters_survive(params):
    data = {**SAMPLE, "function_params": params}

    assert Payload.parse(Payload.parse(json.dumps(data)).to_json()).params == params


@given(data=json_values)
def test_nothing_but_a_payload_error_comes_out(data):
    try:
        Payload.parse(json.dumps(data))
    except PayloadError as refused:
        assert str(refused)
