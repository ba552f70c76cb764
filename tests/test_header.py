"""What a GGUF header says, and what is odd about it: a reader warns, a writer refuses."""

from dataclasses import replace

import pytest

from gguf_bytes import (
    ARRAY,
    HEADER_BYTES,
    STRING,
    U8,
    array,
    key_value,
    string,
    tensor,
)
from gguf_bytes import gguf as gguf_bytes
from truebits import errors
from truebits.files.header import aligned, is_zero

FIRST_RECORD = HEADER_BYTES


KEY = key_value(b"k", U8, b"\1")


def findings(opened, data):
    return [(found.error.code, found.offset, found.stops_writing) for found in opened(data).parts[0].findings]


def test_many_opaque_types_are_few_findings(opened):
    infos = [tensor(b"%d" % i, (8,), 1000 + i, 32 * i) for i in range(100)]
    found = opened(gguf_bytes([], infos, bytes(3200))).parts[0].findings
    assert len(found) == 9
    assert found[-1].message.startswith("92 more types")


@pytest.mark.parametrize(("n_dims", "expected"), [(4, []), (5, [("E_NDIMS", True)]), (8, [("E_NDIMS", True)])])
def test_dimensions_that_llama_cpp_does_not_read(opened, n_dims, expected):
    """Video models have tensors of 5 dimensions; gguf-py and ComfyUI read them, llama.cpp does not."""
    model = opened(gguf_bytes([], [tensor(b"t", (2,) + (1,) * (n_dims - 1))], bytes(8)))
    assert model.tensors[0].values == 2
    assert len(model.tensors[0].shape) == n_dims
    assert [(found.error.code, found.stops_writing) for found in model.parts[0].findings] == expected


def test_gap_between_tensors(opened):
    data = gguf_bytes([], [tensor(b"a"), tensor(b"b", offset=64)], bytes(96))
    assert findings(opened, data) == [("E_LAYOUT", len(data) - 32, True)]


def test_gap_before_the_first_tensor(opened):
    data = gguf_bytes([], [tensor(b"a", offset=32)], bytes(64))
    assert findings(opened, data) == [("E_LAYOUT", len(data) - 32, True)]


def test_other_order(opened):
    data = gguf_bytes([], [tensor(b"a", offset=32), tensor(b"b", offset=0)], bytes(64))
    assert [found[::2] for found in findings(opened, data)] == [("E_LAYOUT", True)]


def test_gap_behind_a_zero_length_tensor(opened):
    """A zero-length tensor far away explains none of the bytes before it."""
    data = gguf_bytes([], [tensor(b"a"), tensor(b"empty", (0,), offset=320)], bytes(32) + b"\1" * 288)
    assert any(stops for _, _, stops in findings(opened, data))


@pytest.mark.parametrize("trailing", [b"\1", bytes(1), bytes(100)])
def test_trailing_bytes(opened, trailing):
    data = gguf_bytes([], [tensor(b"a")], bytes(32))
    assert findings(opened, data + trailing) == [("E_UNEXPLAINED", len(data), True)]


def test_trailing_bytes_where_there_are_no_tensors(opened):
    data = gguf_bytes([KEY])
    found = findings(opened, data + b"\1" * 100)
    assert [(code, stops) for code, _, stops in found]
    assert all(code == "E_UNEXPLAINED" and offset >= len(data) and stops for code, offset, stops in found)


def test_padding_between_tensors_is_not_zero(opened):
    data = gguf_bytes([], [tensor(b"a", (1,)), tensor(b"b", offset=32)], bytes(20) + b"\1" + bytes(43))
    assert findings(opened, data) == [("E_UNEXPLAINED", len(data) - 60, True)]


def test_padding_after_the_last_tensor_is_not_zero(opened):
    data = gguf_bytes([], [tensor(b"a", (1,))], bytes(4) + b"\1")
    assert findings(opened, data) == [("E_UNEXPLAINED", len(data) - 1, True)]


def test_padding_after_the_header_is_not_zero(opened):
    info = tensor(b"a")
    end = FIRST_RECORD + len(info)
    data = gguf_bytes([], [info], bytes(32), padding=b"\1" * (-end % 32))
    assert findings(opened, data) == [("E_UNEXPLAINED", end, True)]


def test_empty_name(opened):
    assert [found[::2] for found in findings(opened, gguf_bytes([], [tensor(b"")], bytes(32)))] == [("E_NAME", True)]


@pytest.mark.parametrize(("name", "expected"), [(b"n" * 63, []), (b"n" * 64, [64]), ("ü".encode() * 32, [64])])
def test_name_of_64_bytes_which_llama_cpp_refuses(opened, name, expected):
    found = opened(gguf_bytes([], [tensor(name)], bytes(32))).parts[0].findings
    assert [(f.error.code, f.stops_writing) for f in found] == [("E_NAME", False) for _ in expected]
    assert all(str(length) in f.message for length, f in zip(expected, found, strict=True))


def test_findings_are_printable(opened):
    name = b"\x1b[31m\xe2\x80\xae\xff"
    infos = [tensor(name, (1,), 43, 32), tensor(name * 9, (1,), offset=0)]
    found = opened(gguf_bytes([], infos, bytes(64))).parts[0].findings
    assert found
    assert all(f.message.isprintable() for f in found)


VALUES = {b"u8": (U8, b"\7"), b"text": (STRING, string(b"a\xff")), b"words": (ARRAY, array(STRING, [string(b"x")] * 3))}


def test_values_are_decoded_where_they_stand(opened):
    data = gguf_bytes([key_value(key, *value) for key, value in VALUES.items()])
    header = opened(data).parts[0].header
    assert [header.value(data, key) for key in ("u8", "text", "words", "absent")] == [7, "a\udcff", None, None]
    assert [header.length(data, key) for key in ("u8", "words")] == [None, 3]
    assert list(header.elements(data, "words")) == ["x", "x", "x"]
    assert [list(header.elements(data, key)) for key in ("u8", "absent")] == [[7], []]


@pytest.mark.parametrize(("offset", "expected"), [(0, 0), (1, 32), (31, 32), (32, 32), (33, 64), (2**63, 2**63)])
def test_aligned(offset, expected):
    assert aligned(offset, 32) == expected


@pytest.mark.parametrize(
    ("data", "start", "stop", "expected"),
    [(b"", 0, 0, True), (b"\0\0\1", 0, 2, True), (b"\0\0\1", 0, 3, False), (b"\0\0", 1, 99, True)],
)
def test_is_zero(data, start, stop, expected):
    assert is_zero(data, start, stop) == expected


def test_padding_without_end_is_not_looked_at(opened):
    """An alignment may be 2^31: the file of 2 GiB of holes takes no time."""
    header = opened(gguf_bytes([], [tensor(b"a", (1,))], bytes(4))).parts[0].header
    far = replace(header, alignment=1 << 30, size=header.data_start + 4 + (1 << 30))
    found = [one for one in far.findings(b"") if one.error is errors.OddLayout]
    assert found
    assert all(one.stops_writing for one in found)
