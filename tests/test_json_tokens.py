"""JSON read where it stands, against Python's own."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truebits import errors
from truebits.errors import ModelFileError
from truebits.files.json_tokens import MOST_NESTED, JsonText

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    # half a surrogate is text to Python, and to nobody else
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('abé\n"\\', max_size=3), inner, max_size=4),
    max_leaves=12,
)


def text_of(data: bytes) -> JsonText:
    return JsonText(data, Path("x.json"), 0, len(data))


def strict(data: bytes) -> bool:
    """Tell whether Python reads it, without what it reads beyond JSON."""

    def pairs(found):
        if len({key for key, _ in found}) != len(found):
            raise ValueError("twice")
        return dict(found)

    def constant(_):
        raise ValueError("no JSON")

    try:
        value = json.loads(data.decode(), object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:  # UnicodeError is one
        return False
    return True


def skipped(data: bytes) -> bool:
    text = text_of(data)
    try:
        text.skip()
        text.end()
    except ModelFileError as error:
        refused = error
    else:
        return True
    assert 0 <= refused.offset <= len(data)
    return False


@given(value=VALUES, indent=st.sampled_from([None, 0, 3]), ascii=st.booleans())
def test_what_python_writes_is_read(value, indent, ascii):
    assert skipped(json.dumps(value, indent=indent, ensure_ascii=ascii).encode())


@given(data=st.text('{}[]:,"\\ \n\tu01d8e9.+-Eabtrufalsn\x00é', max_size=12).map(str.encode))
def test_any_text_is_read_where_python_reads_it(data):
    assert skipped(data) == strict(data)


@given(value=VALUES, at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_byte_that_is_spoiled(value, at, byte):
    data = bytearray(json.dumps(value, ensure_ascii=False).encode())
    data[at % len(data)] = byte
    assert skipped(bytes(data)) == strict(bytes(data))


@given(members=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=5), st.integers(0, 10**19)))
def test_members_with_their_values(members):
    data = json.dumps(members).encode()
    text = text_of(data)
    assert {key: text.integer(errors.BadField) for _, key in text.members()} == members
    text.end()


def test_members_know_their_bytes():
    data = b' { "a" :1,"b":[2 , "c"] }'
    text = text_of(data)
    got = {}
    for at, key in text.members():
        got[key] = at
        text.skip()
    assert got == {"a": data.index(b'"a"'), "b": data.index(b'"b"')}
    text = text_of(b"[2 , 3]")
    assert [(at, text.integer(errors.BadField)) for at in text.elements()] == [(1, 2), (5, 3)]


def test_a_member_as_it_usually_is_says_the_same():
    usual = re.compile(rb'"([a-z]+)":([0-9])')
    text = text_of(b'{"a":1, "b":2,"c":3}')
    got = []
    for at, key in text.members(usual=usual):
        whole = text.whole
        got.append((at, key, int(whole[2]) if whole else text.integer(errors.BadField)))
    assert got == [(1, "a", 1), (8, "b", 2), (14, "c", 3)]
    text.end()


@pytest.mark.parametrize(
    ("data", "call", "error", "offset"),
    [
        (b"", lambda text: text.skip(), errors.BadJson, 0),
        (b"[]", lambda text: list(text.members()), errors.BadJson, 0),
        (b"{}", lambda text: list(text.elements(errors.BadRange)), errors.BadRange, 0),
        (b'{"a":1,"a":2}', lambda text: text.skip(), errors.DuplicateKey, 7),
        (b'{"a" 1}', lambda text: text.skip(), errors.BadJson, 5),
        (b"[1 2]", lambda text: text.skip(), errors.BadJson, 3),
        (b"[1,]", lambda text: text.skip(), errors.BadJson, 3),
        (b"1 2", lambda text: (text.skip(), text.end()), errors.BadJson, 2),
        (b"1.5", lambda text: text.integer(errors.BadField), errors.BadField, 0),
        (b"1e3", lambda text: text.integer(errors.BadField), errors.BadField, 0),
        (b"01", lambda text: text.integer(errors.BadField), errors.BadField, 0),
        (b"9" * 21, lambda text: text.integer(errors.BadField), errors.BadField, 0),
        (b"null", lambda text: text.string(errors.BadName), errors.BadName, 0),
        (b'"\\ud800"', lambda text: text.string(), errors.BadText, 0),
        (b'"\xff"', lambda text: text.string(), errors.BadText, 0),
        (b'"\\x"', lambda text: text.string(), errors.BadJson, 0),
        (b'"\n"', lambda text: text.string(), errors.BadJson, 0),
        (b"[" * 40, lambda text: text.skip(), errors.LimitExceeded, MOST_NESTED + 1),
        (b"[" + b"1," * 70_000 + b"1]", lambda text: text.skip(), errors.LimitExceeded, None),
    ],
)
def test_each_error_knows_its_byte(data, call, error, offset):
    with pytest.raises(ModelFileError) as caught:
        call(text_of(data))
    assert type(caught.value) is error
    assert offset in (None, caught.value.offset)


def test_nothing_behind_the_end_is_read():
    """The tensors follow: they are no JSON, and what they hold must not count."""
    text = JsonText(b'xx{"a":"b"}{"', Path("x"), 2, 11)
    assert [(key, text.string()) for _, key in text.members()] == [("a", "b")]
    text.end()
    for cut in range(3, 11):
        with pytest.raises(errors.BadJson):
            JsonText(b'xx{"a":"b"}', Path("x"), 2, cut).skip()
