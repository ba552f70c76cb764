import itertools
import math
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    F64,
    HEADER_BYTES,
    I8,
    I16,
    I32,
    I64,
    KEY,
    LARGEST,
    STRING,
    U8,
    U16,
    U32,
    U64,
    VALID,
    alignment,
    array,
    key_value,
    scalar,
    string,
    tensor,
)
from gguf_bytes import gguf as gguf_bytes
from models import finish
from truebits import errors
from truebits.errors import ModelFileError, printable
from truebits.files.gguf import Limits, read_header
from truebits.files.model import open_model
from truebits.files.types import BY_NUMBER

FIRST_RECORD = HEADER_BYTES
VALID_DATA_START = len(VALID) - 192


# --- valid files


def test_valid_file(opened):
    model = opened(VALID)
    got = [(t.name, t.type, t.shape, t.offset - VALID_DATA_START, t.nbytes, t.values) for t in model.tensors]
    expected = [
        ("scalar", "F32", (), 0, 4, 1),
        ("matrix", "Q8_0", (32, 3), 32, 102, 96),
        ("vector", "F32", (8,), 160, 32, 8),
    ]
    assert got == expected
    assert model.parts[0].header.data_start == VALID_DATA_START
    assert model.parts[0].findings == ()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("general.architecture", "llama"),
        ("u8", 200),
        ("i8", -100),
        ("u16", 60_000),
        ("i16", -30_000),
        ("u32", 4_000_000_000),
        ("i32", -2_000_000_000),
        ("f32", 1.5),
        ("bool", True),
        ("u64", LARGEST),
        ("i64", -(2**63)),
        ("f64", math.pi),
        ("words", None),
        ("absent", None),
    ],
)
def test_value(opened, key, expected):
    got = opened(VALID).value(key)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize("version", [2, 3])
def test_versions_allowed(opened, version):
    assert opened(gguf_bytes(version=version)).parts[0].header.version == version


def test_zero_tensors(opened):
    model = opened(gguf_bytes([KEY]))
    assert model.tensors == ()
    assert model.parts[0].findings == ()


def test_zero_tensors_padded_as_gguf_writes_it(opened):
    data = gguf_bytes([KEY])
    assert opened(data + bytes(-len(data) % 32)).parts[0].findings == ()


def test_zero_dimensions_are_a_scalar(opened):
    (got,) = opened(gguf_bytes([], [tensor(b"t", ())], bytes(4))).tensors
    assert (got.shape, got.values, got.nbytes) == ((), 1, 4)


@pytest.mark.parametrize("shape", [(0,), (32, 0), (0, 7), (2**62, 2**62, 0)])
def test_zero_length_tensor(opened, shape):
    data = gguf_bytes([], [tensor(b"empty", shape), tensor(b"t", (8,))], bytes(32))
    empty, got = opened(data).tensors
    assert (empty.shape, empty.values, empty.nbytes) == (shape, 0, 0)
    assert got.offset == empty.offset == len(data) - 32
    assert opened(data).parts[0].findings == ()


def test_no_padding_after_the_last_tensor(opened):
    data = gguf_bytes([], [tensor(b"t", (3,))], bytes(12))
    assert opened(data).tensors[0].nbytes == 12
    assert opened(data).parts[0].findings == ()


def test_zero_padding_after_the_last_tensor(opened):
    assert opened(gguf_bytes([], [tensor(b"t", (3,))], bytes(32))).parts[0].findings == ()


@pytest.mark.parametrize("size", [1, 2])
def test_alignment_smaller_than_a_value(opened, size):
    infos = [tensor(b"abc", (size,), 24), tensor(b"b", (2,), 0, size)]
    data = gguf_bytes([alignment(size)], infos, bytes(size + 8), aligned=size)
    model = opened(data)
    assert model.parts[0].header.alignment == size
    assert [t.offset for t in model.tensors] == [len(data) - 8 - size, len(data) - 8]
    assert opened(data).parts[0].findings == ()


def test_alignment_of_4096(opened):
    data = gguf_bytes([alignment(4096)], [tensor(b"t", (1,))], bytes(4), aligned=4096)
    assert opened(data).tensors[0].offset == 4096


def test_names_that_are_not_utf8_keep_their_bytes(opened):
    raw = b"blk.\xff\x80.w"
    keys = [key_value(b"k\xfe", STRING, string(b"v\xfd"))]
    model = opened(gguf_bytes(keys, [tensor(raw)], bytes(32)))
    (got,) = model.tensors
    assert got.name.encode("utf-8", "surrogateescape") == raw
    assert got.label == r"blk.\xff\x80.w"
    assert model.value("k\udcfe") == "v\udcfd"


# --- one test per rule


@pytest.mark.parametrize("version", [0, 1, 4, 0xFFFF])
def test_version(refused, version):
    refused(gguf_bytes(version=version), errors.BadVersion, "E_VERSION", 4, version, 2, 3)


@pytest.mark.parametrize("version", [2, 3])
def test_byte_swapped_version_is_big_endian(refused, version):
    swapped = version << 24
    refused(gguf_bytes(version=swapped), errors.BigEndian, "E_ENDIAN", 4, f"{swapped:#010x}", "big-endian")


def test_reversed_magic_is_big_endian(refused):
    refused(gguf_bytes(magic=b"FUGG"), errors.BigEndian, "E_ENDIAN", 0, "FUGG", "big-endian")


@pytest.mark.parametrize("length", range(4, HEADER_BYTES))
def test_truncated_in_the_counts(refused, length):
    start = 4 if length < 8 else 8 if length < 16 else 16
    refused(VALID[:length], errors.HeaderTruncated, "E_TRUNCATED", start, 4 if start == 4 else 8, length - start)


def test_truncated_in_a_tensor_info(refused):
    data = gguf_bytes([], [tensor(b"name", (8,))], padding=b"")
    refused(data[:-1], errors.HeaderTruncated, "E_TRUNCATED", FIRST_RECORD + 8 + 4 + 4, 20, 19)


def test_truncation_at_every_byte():
    for length in range(len(VALID)):
        with pytest.raises(ModelFileError) as caught:
            read_header(VALID[:length], Path("cut.gguf"), 0, Limits())
        assert 0 <= caught.value.offset <= length, length
    assert len(read_header(VALID, Path("whole.gguf"), 0, Limits()).tensors) == 3


@pytest.mark.parametrize("count", [2, 2**32, 2**63, LARGEST])
def test_count_of_key_values(refused, count):
    data = gguf_bytes([KEY], n_keys=count)
    refused(data, errors.BadCount, "E_COUNT", 16, count, 1)


@pytest.mark.parametrize("count", [3, 2**32, 2**63, LARGEST])
def test_count_of_tensors(refused, count):
    data = gguf_bytes([], [tensor(b"t", ()), tensor(b"u", ())], padding=b"", n_tensors=count)
    refused(data, errors.BadCount, "E_COUNT", 8, count, 2)


@pytest.mark.parametrize("length", [9, 2**40, 2**63, LARGEST])
def test_string_length_of_a_key(refused, length):
    left = len(b"key") + 4 + 1
    data = gguf_bytes([key_value(b"key", U8, b"\1", length)])
    refused(data, errors.BadStringLength, "E_STRLEN", FIRST_RECORD, length, left)


@pytest.mark.parametrize("length", [6, 2**63, LARGEST])
def test_string_length_of_a_value(refused, length):
    data = gguf_bytes([key_value(b"k", STRING, string(b"value", length))])
    refused(data, errors.BadStringLength, "E_STRLEN", FIRST_RECORD + 9 + 4, length, 5)


@pytest.mark.parametrize("length", [18, 2**63, LARGEST])
def test_string_length_of_a_tensor_name(refused, length):
    data = gguf_bytes([KEY], [tensor(b"t", (), length=length)], padding=b"")
    refused(data, errors.BadStringLength, "E_STRLEN", FIRST_RECORD + len(KEY), length, 17)


@pytest.mark.parametrize("length", [1000, 2**40, 2**63 - 1, 2**63, LARGEST])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_string_length_in_an_array(refused, length, position):
    """The error names the string that is too long, not the place it points to."""
    words = [string(b"abc"), string(b"abc"), string(b"abc")]
    words[position] = string(b"abc", length)
    data = gguf_bytes([key_value(b"k", ARRAY, array(STRING, words))])
    first = FIRST_RECORD + 9 + 4 + 12
    left = 3 + 11 * (2 - position)
    refused(data, errors.BadStringLength, "E_STRLEN", first + 11 * position, length, left)


def test_last_string_of_an_array_is_one_byte_too_long(refused):
    data = gguf_bytes([key_value(b"k", ARRAY, array(STRING, [string(b"abc"), string(b"abc", 4)]))])
    refused(data, errors.BadStringLength, "E_STRLEN", FIRST_RECORD + 9 + 4 + 12 + 11, 4, 3)


def test_error_message_does_not_repeat_a_long_key(opened):
    with pytest.raises(errors.NulInName) as caught:
        opened(gguf_bytes([key_value(bytes(100_000), U8, b"\1")]))
    assert len(caught.value.message) < 1000


def test_empty_key(refused):
    refused(gguf_bytes([KEY, key_value(b"", U16, b"\1\1")]), errors.BadKey, "E_KEY", FIRST_RECORD + len(KEY), "empty")


@pytest.mark.parametrize("key", [b"\0", b"a\0b", b"a\0"])
def test_nul_in_key(refused, key):
    refused(gguf_bytes([key_value(key, U16, b"\1\1")]), errors.NulInName, "E_NUL", FIRST_RECORD, printable(key))


@pytest.mark.parametrize("name", [b"\0", b"a\0b", b"a\0"])
def test_nul_in_tensor_name(refused, name):
    data = gguf_bytes([KEY], [tensor(name)], bytes(32))
    refused(data, errors.NulInName, "E_NUL", FIRST_RECORD + len(KEY), printable(name))


@pytest.mark.parametrize("key", [b"k", b"k\xff"])
def test_duplicate_key(refused, key):
    first, other = key_value(key, U32, bytes(4)), key_value(b"other", U8, b"\1")
    data = gguf_bytes([first, other, key_value(key, U8, b"\1")])
    refused(data, errors.DuplicateKey, "E_DUP_KEY", FIRST_RECORD + len(first) + len(other), printable(key))


@pytest.mark.parametrize("name", [b"", b"t", b"t\xff"])
def test_duplicate_tensor(refused, name):
    infos = [tensor(name), tensor(b"other", offset=32), tensor(name, offset=64)]
    data = gguf_bytes([], infos, bytes(96))
    start = FIRST_RECORD + len(infos[0]) + len(infos[1])
    refused(data, errors.DuplicateTensor, "E_DUP_TENSOR", start, *([printable(name)] if name else []))


@pytest.mark.parametrize("kind", [13, -1, 2**31 - 1, -(2**31)])
def test_value_type(refused, kind):
    data = gguf_bytes([key_value(b"k", kind, bytes(8))])
    refused(data, errors.BadValueType, "E_KV_TYPE", FIRST_RECORD + 9, kind, 0, 12)


@pytest.mark.parametrize("kind", [13, -1])
def test_value_type_of_array_elements(refused, kind):
    data = gguf_bytes([key_value(b"k", ARRAY, array(kind, [bytes(8)]))])
    refused(data, errors.BadValueType, "E_KV_TYPE", FIRST_RECORD + 9 + 4, kind, 0, 12)


@pytest.mark.parametrize("count", [0, 1])
def test_nested_array(refused, count):
    data = gguf_bytes([key_value(b"k", ARRAY, array(ARRAY, [array(U8, [b"\1"])] * count))])
    refused(data, errors.NestedArray, "E_NESTED_ARRAY", FIRST_RECORD + 9 + 4)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(U8, 1), (I8, 1), (BOOL, 1), (U16, 2), (I16, 2), (U32, 4), (I32, 4), (F32, 4), (U64, 8), (I64, 8), (F64, 8)],
)
def test_array_length(opened, refused, kind, size):
    fits = gguf_bytes([key_value(b"k", ARRAY, array(kind, [bytes(size)] * 3))])
    assert opened(fits).value("k") is None
    for count in (4, 2**61, 2**63, LARGEST):
        data = gguf_bytes([key_value(b"k", ARRAY, array(kind, [bytes(size)] * 3, count))])
        refused(data, errors.BadArrayLength, "E_ARRLEN", FIRST_RECORD + 9 + 8, count, 3 * size)


@pytest.mark.parametrize("count", [4, 2**61, 2**63, LARGEST])
def test_array_length_of_strings(refused, count):
    data = gguf_bytes([key_value(b"k", ARRAY, array(STRING, [string(b"")] * 3, count))])
    refused(data, errors.BadArrayLength, "E_ARRLEN", FIRST_RECORD + 9 + 8, count, 24)


@pytest.mark.parametrize("kind", [U8, STRING, F64])
@pytest.mark.parametrize("count", [2**63, LARGEST])
def test_array_of_2_to_the_63_in_49_bytes_is_answered_at_once(refused, kind, count):
    data = gguf_bytes([key_value(b"k", ARRAY, array(kind, [], count))])
    assert len(data) == 49
    start = time.process_time()
    refused(data, errors.BadArrayLength, "E_ARRLEN", 41, count, 0)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("value", [0, 3, 48, LARGEST >> 32])
def test_alignment(refused, value):
    data = gguf_bytes([KEY, alignment(value)])
    refused(data, errors.BadAlignment, "E_ALIGN", len(data) - 4, value, "power of two")


@pytest.mark.parametrize(
    ("kind", "value"),
    [(I32, scalar(I32, 32)), (U64, scalar(U64, 32)), (U16, scalar(U16, 32)), (STRING, string(b"32"))],
)
def test_alignment_is_a_u32(refused, kind, value):
    data = gguf_bytes([key_value(b"general.alignment", kind, value)])
    refused(data, errors.BadAlignment, "E_ALIGN", len(data) - len(value), kind, 4)


@pytest.mark.parametrize("n_dims", [9, 2**31, 2**32 - 1])
def test_number_of_dimensions(refused, n_dims):
    data = gguf_bytes([], [tensor(b"t", (1,) * 9, n_dims=n_dims)], bytes(4))
    refused(data, errors.TooManyDimensions, "E_NDIMS", FIRST_RECORD + 9, n_dims, 8)


@pytest.mark.parametrize("shape", [(2**63,), (1, LARGEST), (0, 2**63)])
def test_dimension(refused, shape):
    data = gguf_bytes([KEY], [tensor(b"t", shape)], bytes(4))
    refused(data, errors.BadDimension, "E_DIM", FIRST_RECORD + len(KEY), max(shape), "2^63")


@pytest.mark.parametrize("missing", [1, 64, 100, 192])
def test_a_file_that_is_cut_off_is_perhaps_an_incomplete_download(opened, missing):
    with pytest.raises(errors.OutOfBounds) as caught:
        opened(VALID[:-missing])
    expected = f"an incomplete download? {len(VALID) - missing:,} of {len(VALID):,} bytes are here"
    assert caught.value.message.endswith(expected)


@pytest.mark.parametrize("length", [30, 100, 300, len(VALID) - 192 - 120])
def test_a_header_that_is_cut_off_is_perhaps_an_incomplete_download(opened, length):
    with pytest.raises(ModelFileError, match="incomplete download"):
        opened(VALID[:length])


def test_longest_name(refused, opened):
    assert len(opened(gguf_bytes([], [tensor(b"n" * 65_535)], bytes(32))).tensors[0].name) == 65_535
    data = gguf_bytes([KEY], [tensor(b"n" * 65_536)], bytes(32))
    refused(data, errors.BadName, "E_NAME", FIRST_RECORD + len(KEY), 65_536, 65_535)


# --- limits


def test_limit_of_keys(refused, opened):
    data = gguf_bytes([key_value(b"%d" % i, U8, b"\1") for i in range(10, 13)])
    assert opened(data, max_keys=3)
    refused(data, errors.LimitExceeded, "E_LIMIT", 16, 3, 2, max_keys=2)


def test_limit_of_tensors(refused, opened):
    data = gguf_bytes([], [tensor(b"%d" % i, (0,)) for i in range(3)])
    assert opened(data, max_tensors=3)
    refused(data, errors.LimitExceeded, "E_LIMIT", 8, 3, 2, max_tensors=2)


def test_limit_of_strings_counts_all_arrays(refused, opened):
    words = array(STRING, [string(b"w")] * 2)
    data = gguf_bytes([key_value(b"a", ARRAY, words), key_value(b"b", ARRAY, words)])
    assert opened(data, max_strings=4)
    refused(data, errors.LimitExceeded, "E_LIMIT", len(data) - 18, 4, 3, max_strings=3)


def test_limit_of_header_bytes(refused, opened):
    data = gguf_bytes([key_value(b"%d" % i, U64, bytes(8)) for i in range(10, 20)])
    assert opened(data, max_header_bytes=len(data))
    limit = len(data) - 30
    with pytest.raises(errors.LimitExceeded) as caught:
        opened(data, max_header_bytes=limit)
    assert str(limit) in caught.value.message
    assert limit - 30 <= caught.value.offset <= len(data)


@pytest.mark.parametrize(
    "value",
    [(STRING, string(b"v" * 1000)), (ARRAY, array(U8, [b"\1"] * 1000)), (ARRAY, array(STRING, [string(b"v")] * 100))],
    ids=["string", "array", "strings"],
)
def test_limit_of_header_bytes_holds_for_the_last_record(opened, value):
    with pytest.raises(errors.LimitExceeded) as caught:
        opened(gguf_bytes([key_value(b"k", *value)]), max_header_bytes=200)
    assert caught.value.code == "E_LIMIT"


@pytest.mark.parametrize("tensors", [0, 1])
def test_limit_of_header_bytes_is_checked_before_a_name_is_copied(tmp_path, tensors):
    """A sparse file whose first name, a key's or a tensor's, claims all of its 2 MiB."""
    path = tmp_path / "sparse.gguf"
    path.write_bytes(gguf_bytes([string(b"", 2 << 20)], n_keys=1 - tensors, n_tensors=tensors))
    with path.open("r+b") as file:
        file.truncate(3 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            open_model(path, max_header_bytes=1 << 18)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_limits_have_the_documented_defaults():
    assert Limits() == (256 << 20, 65_536, 65_536, 16 << 20)


def test_default_limit_of_tensors(refused):
    data = gguf_bytes(n_tensors=65_537) + bytes(65_537 * 24)
    refused(data, errors.LimitExceeded, "E_LIMIT", 8, 65_537, 65_536)


def test_default_limit_of_keys(refused):
    data = gguf_bytes(n_keys=65_537) + bytes(65_537 * 14)
    refused(data, errors.LimitExceeded, "E_LIMIT", 16, 65_537, 65_536)


# --- properties

CODED = sorted(set(BY_NUMBER) & {kind.value for kind in GGMLQuantizationType} - {9})
"""Types gguf knows as we do."""

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
KEYS = TEXT.filter(lambda key: key and not key.startswith(("general.", "split.", "GGUF.")))
SCALARS = {
    GGUFValueType.UINT8: st.integers(0, 2**8 - 1),
    GGUFValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    GGUFValueType.UINT16: st.integers(0, 2**16 - 1),
    GGUFValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    GGUFValueType.UINT32: st.integers(0, 2**32 - 1),
    GGUFValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    GGUFValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    GGUFValueType.BOOL: st.booleans(),
    GGUFValueType.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    GGUFValueType.UINT64: st.integers(0, LARGEST),
    GGUFValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    GGUFValueType.FLOAT64: st.floats(allow_nan=False),
}


@st.composite
def metadata(draw):
    """(value type, element type, value) of one key."""
    kind = draw(st.sampled_from(list(SCALARS)))
    if draw(st.booleans()):
        return kind, None, draw(SCALARS[kind])
    return GGUFValueType.ARRAY, kind, draw(st.lists(SCALARS[kind], min_size=1, max_size=5))


@st.composite
def raw_tensors(draw):
    """(type, array as `GGUFWriter` takes it) of one tensor."""
    if draw(st.integers(0, 9)) == 0:
        return None, np.float32(draw(st.floats(width=32, allow_nan=False))) * np.ones((), np.float32)
    kind = GGMLQuantizationType(draw(st.sampled_from(CODED)))
    nbytes = BY_NUMBER[kind].nbytes
    *rows, row = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    return kind, np.full((*rows, row * nbytes), draw(st.integers(0, 255)), np.uint8)


@settings(max_examples=80, deadline=None)
@given(
    keys=st.dictionaries(KEYS, metadata(), max_size=6),
    tensors=st.dictionaries(TEXT, raw_tensors(), max_size=6),
    aligned=st.sampled_from([None, 1, 2, 8, 32, 64, 4096]),
)
def test_a_written_file_reads_as_gguf_reads_it(tmp_path_factory, keys, tensors, aligned):
    path = tmp_path_factory.getbasetemp() / "property.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if aligned is not None:
        writer.add_custom_alignment(aligned)
    for key, (kind, element, value) in keys.items():
        writer.add_key_value(key, value, kind, sub_type=element)
    for name, (kind, values) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    finish(writer)

    reader, model = gguf.GGUFReader(path), open_model(path)
    expected = [
        (t.name, t.tensor_type.name, tuple(t.shape.tolist()), t.data_offset, t.n_bytes, t.n_elements)
        for t in reader.tensors
    ]
    got = [(t.name, t.type, t.shape, t.offset, t.nbytes, t.values) for t in model.tensors]
    assert got == expected

    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    header, data = model.parts[0].header, path.read_bytes()
    assert list(header.keys) == list(fields)
    for name, field in fields.items():
        assert header.keys[name][0] == field.types[0]
        assert header.value(data, name) == (None if field.types[0] == ARRAY else field.contents())
    assert (header.alignment, header.version) == (reader.alignment, 3)
    odd = [found for found in model.parts[0].findings if found.error is not errors.BadName]
    assert odd == []


INTERESTING = [
    number.to_bytes(size, "little")
    for size in (4, 8)
    for number in (0, 1, 2, 8, 9, 32, 43, 64, len(VALID), 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, LARGEST)
    if number < 2 ** (8 * size)
]
EDITS = st.lists(
    st.tuples(
        st.integers(0, VALID_DATA_START - 1), st.one_of(st.binary(min_size=1, max_size=1), st.sampled_from(INTERESTING))
    ),
    min_size=1,
    max_size=4,
)


def check_consistent(data):
    """Parse `data`: what is accepted lies inside the file and shares nothing."""
    error = None
    try:
        header = read_header(data, Path("fuzz.gguf"), 0, Limits())
    except ModelFileError as raised:
        error = raised
    if error is not None:
        assert 0 <= error.offset <= len(data)
        assert str(error).isprintable()
        return
    for found in header.findings(data):
        assert found.message.isprintable()
    filled = sorted((t for t in header.tensors if t.nbytes), key=lambda t: t.offset)
    for one in filled:
        assert one.nbytes > 0
        assert header.data_start <= one.offset
        assert one.offset + one.nbytes <= len(data)
    for one, two in itertools.pairwise(filled):
        assert one.offset + one.nbytes <= two.offset


@settings(max_examples=400, deadline=None)
@given(edits=EDITS)
def test_a_damaged_header_parses_or_raises_a_model_file_error(edits):
    data = bytearray(VALID)
    for at, replacement in edits:
        data[at : at + len(replacement)] = replacement
    check_consistent(bytes(data[: len(VALID)]))


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise_behind_the_magic_raises_a_model_file_error(noise):
    check_consistent(b"GGUF\3\0\0\0" + noise)


def test_every_header_byte_set_to_zero_one_and_255():
    for at in range(VALID_DATA_START):
        for value in (0, 1, 255):
            data = bytearray(VALID)
            data[at] = value
            check_consistent(bytes(data))
