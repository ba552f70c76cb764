"""Where tensors lie in a GGUF, known types and unknown ones."""

import math

import pytest

from gguf_bytes import (
    HEADER_BYTES,
    KEY,
    NEWEST_TYPE,
    alignment,
    tensor,
)
from gguf_bytes import gguf as gguf_bytes
from truebits import errors
from truebits.files.types import BY_NUMBER

FIRST_RECORD = HEADER_BYTES


@pytest.mark.parametrize("type_id", [NEWEST_TYPE + 1, 1000, 2**31 - 1])
def test_opaque_type_reaches_to_the_next_offset(opened, type_id):
    infos = [tensor(b"new", (7, 3), type_id, 0), tensor(b"known", (8,), 0, 96), tensor(b"last", (1,), type_id, 128)]
    data = gguf_bytes([], infos, bytes(128 + 5))
    model = opened(data)
    start = model.parts[0].header.data_start
    got = [(t.type, t.offset - start, t.nbytes, t.values, t.opaque) for t in model.tensors]
    name = f"type_{type_id}"
    assert got == [(name, 0, 96, 21, True), ("F32", 96, 32, 8, False), (name, 128, 5, 1, True)]
    (finding,) = model.parts[0].findings
    assert finding[:2] == (errors.BadTensorType, start)
    assert finding.message.startswith(f"2 tensors (first: new): type {name},")
    assert finding.stops_writing


@pytest.mark.parametrize(
    ("type_id", "name"), [(4, "Q4_2"), (31, "Q4_0_4_4"), (36, "I2_S"), (137, "IQ2_K"), (144, "IQ4_KS")]
)
def test_types_that_ggml_does_not_define_now_are_opaque_by_name(opened, type_id, name):
    """I2_S (BitNet) and Q4_0_4_4 are in files that people have."""
    model = opened(gguf_bytes([], [tensor(b"w", (256, 4), type_id), tensor(b"norm", offset=96)], bytes(128)))
    got = [(t.type, t.nbytes, t.opaque) for t in model.tensors]
    assert got == [(name, 96, True), ("F32", 32, False)]
    (finding,) = model.parts[0].findings
    assert name in finding.message


@pytest.mark.parametrize(("type_id", "nbytes"), [(42, 2176), (42, 9000), (41, 2000), (39, 4000), (40, 9000)])
def test_a_number_that_a_fork_gave_to_another_type(opened, type_id, nbytes):
    """PrismML's type 42 has blocks of 128 values in 34 bytes, ggml's of 64 in 18."""
    place = -(-nbytes // 32) * 32
    infos = [tensor(name, (128, 64), type_id, i * place) for i, name in enumerate((b"a", b"b"))]
    model = opened(gguf_bytes([], [*infos, tensor(b"norm", offset=2 * place)], bytes(2 * place + 32)))
    got = [(t.type, t.nbytes, t.opaque) for t in model.tensors]
    assert got == [(f"type_{type_id}", place, True)] * 2 + [("F32", 32, False)]
    (finding,) = model.parts[0].findings
    assert BY_NUMBER[type_id].name in finding.message
    assert "another program's" in finding.message


def test_a_known_type_of_a_number_that_forks_use(opened):
    """One tensor of the right size tells that the type is ggml's; a gap elsewhere is a gap."""
    infos = [tensor(b"a", (64,), 42), tensor(b"b", (64,), 42, 32), tensor(b"norm", offset=96)]
    model = opened(gguf_bytes([], infos, bytes(128)))
    assert [t.type for t in model.tensors] == ["Q2_0", "Q2_0", "F32"]
    assert [finding.error.code for finding in model.parts[0].findings] == ["E_LAYOUT"]
    alone = opened(gguf_bytes([], [tensor(b"a", (64,), 42)], bytes(32 + 100)))
    assert alone.tensors[0].type == "Q2_0"


def test_opaque_tensor_behind_the_end_of_an_unpadded_header_has_no_bytes(opened):
    data = gguf_bytes([], [tensor(b"t", (1,), 43)], padding=b"")
    assert len(data) % 32
    assert opened(data).tensors[0].nbytes == 0


def test_opaque_tensor_without_values_has_no_bytes(opened):
    data = gguf_bytes([], [tensor(b"empty", (0,), 43), tensor(b"t")], bytes(32))
    assert [(t.nbytes, t.opaque) for t in opened(data).tensors] == [(0, True), (32, False)]


@pytest.mark.parametrize("shape", [(2**62, 2), (2**32, 2**32), (2**32, 2**32, 2**32, 2**32), (2**21, 2**21, 2**21)])
def test_number_of_values_overflows(refused, shape):
    data = gguf_bytes([KEY], [tensor(b"t", shape, 24)], bytes(4))
    refused(data, errors.SizeOverflow, "E_OVERFLOW", FIRST_RECORD + len(KEY), math.prod(shape), "2^63")


@pytest.mark.parametrize(("shape", "type_id", "size"), [((2**61,), 0, 4), ((2**62,), 1, 2), ((2**60,), 28, 8)])
def test_number_of_bytes_overflows(refused, shape, type_id, size):
    data = gguf_bytes([KEY], [tensor(b"t", shape, type_id)], bytes(4))
    refused(data, errors.SizeOverflow, "E_OVERFLOW", FIRST_RECORD + len(KEY), shape[0] * size, "2^63")


def test_largest_size_that_does_not_overflow(refused):
    data = gguf_bytes([], [tensor(b"t", (2**63 - 1,), 24)], bytes(4))
    refused(data, errors.OutOfBounds, "E_BOUNDS", FIRST_RECORD, 2**63 - 1, 4)


@pytest.mark.parametrize("type_id", [-1, -(2**31)])
def test_negative_type(refused, type_id):
    data = gguf_bytes([KEY], [tensor(b"t", (256,), type_id)], bytes(1024))
    refused(data, errors.BadTensorType, "E_TYPE", FIRST_RECORD + len(KEY), type_id)


@pytest.mark.parametrize(
    ("shape", "type_id", "block"),
    [((31,), 2, 32), ((16, 2), 8, 32), ((), 8, 32), ((128, 2), 12, 256), ((32, 2), 40, 64), ((64, 2), 41, 128)],
)
def test_row_is_a_multiple_of_the_block(refused, shape, type_id, block):
    data = gguf_bytes([KEY], [tensor(b"t", shape, type_id)], bytes(1024))
    row = shape[0] if shape else 1
    refused(data, errors.BadBlock, "E_BLOCK", FIRST_RECORD + len(KEY), row, block)


@pytest.mark.parametrize(
    ("shape", "offset", "size"),
    [((9,), 0, 36), ((8,), 32, 32), ((1,), 2**63, 4), ((0,), 64, 0)],
    ids=["too long", "behind", "far behind", "zero-length"],
)
def test_data_outside_the_file(refused, shape, offset, size):
    data = gguf_bytes([], [tensor(b"first"), tensor(b"t", shape, offset=offset)], bytes(32))
    refused(data, errors.OutOfBounds, "E_BOUNDS", FIRST_RECORD + len(tensor(b"first")), size, offset, 32)


@pytest.mark.parametrize("type_id", [0, 43])
@pytest.mark.parametrize("back", [32, 64, 128])
def test_offset_that_wraps_onto_the_header(refused, back, type_id):
    """2^64 - 32 plus 32 bytes is 0 in 64 bits: gguf 0.19 accepts it."""
    offset = 2**64 - back
    data = gguf_bytes([], [tensor(b"t", (8,), type_id, offset)], bytes(32))
    refused(data, errors.OutOfBounds, "E_BOUNDS", FIRST_RECORD, offset, 32)


@pytest.mark.parametrize("offset", [2**64 - 1, 2**64 - 4, 4])
def test_offset_that_wraps_at_alignment_1(refused, offset):
    data = gguf_bytes([alignment(1)], [tensor(b"t", (1,), 0, offset)], bytes(4), aligned=1)
    refused(data, errors.OutOfBounds, "E_BOUNDS", FIRST_RECORD + len(alignment(1)), offset, 4)


def test_file_ends_before_the_data_section(refused):
    data = gguf_bytes([], [tensor(b"t", (1,))], padding=b"")
    refused(data, errors.OutOfBounds, "E_BOUNDS", FIRST_RECORD, 4, 0)


@pytest.mark.parametrize(
    ("offsets", "shapes", "second"),
    [
        ((0, 0), ((8,), (8,)), 0),
        ((0, 32), ((16,), (8,)), 32),
        ((32, 0), ((8,), (9,)), 32),
        ((0, 32), ((24,), (1,)), 32),
    ],
    ids=["same", "tail", "other order", "inside"],
)
def test_overlap(refused, offsets, shapes, second):
    infos = [tensor(b"one", shapes[0], offset=offsets[0]), tensor(b"two", shapes[1], offset=offsets[1])]
    data = gguf_bytes([], infos, bytes(96))
    refused(data, errors.Overlap, "E_OVERLAP", len(data) - 96 + second, "one", "two")


def test_overlap_behind_a_short_tensor(refused):
    """A long tensor, a short one inside, a third behind the short one but still inside the long one."""
    infos = [tensor(b"long", (32,)), tensor(b"short", (0,), offset=32), tensor(b"third", (1,), offset=64)]
    refused(gguf_bytes([], infos, bytes(128)), errors.Overlap, "E_OVERLAP", 192 - 32 + 64, "long", "third")


@pytest.mark.parametrize(
    ("types", "offsets"),
    [((43, 43), (0, 0)), ((0, 43), (0, 0)), ((0, 43), (0, 32)), ((43, 0), (32, 0))],
    ids=["two opaque", "opaque at a known one's start", "opaque inside a known one", "inside and listed first"],
)
def test_overlap_of_opaque_tensors(refused, types, offsets):
    infos = [tensor(b"one", (16,), types[0], offsets[0]), tensor(b"two", (16,), types[1], offsets[1])]
    data = gguf_bytes([], infos, bytes(96))
    refused(data, errors.Overlap, "E_OVERLAP", len(data) - 96 + max(offsets), "one", "two")


def test_zero_length_tensor_overlaps_nothing(opened):
    infos = [tensor(b"long", (32,)), tensor(b"empty", (0,), offset=64), tensor(b"same", (0,), offset=64)]
    assert len(opened(gguf_bytes([], infos, bytes(128))).tensors) == 3


def test_a_tensor_that_lies_anywhere_is_no_incomplete_download(opened):
    data = gguf_bytes([], [tensor(b"a"), tensor(b"b", offset=2**40)], bytes(32))
    with pytest.raises(errors.OutOfBounds) as caught:
        opened(data)
    assert "download" not in caught.value.message


@pytest.mark.parametrize(("offset", "aligned"), [(4, 32), (33, 32), (31, 32), (32, 64), (1, 2)])
def test_offset_is_a_multiple_of_the_alignment(refused, offset, aligned):
    keys = [alignment(aligned)]
    data = gguf_bytes(keys, [tensor(b"t", (1,), offset=offset)], bytes(96), aligned=aligned)
    refused(data, errors.MisalignedOffset, "E_OFFSET", FIRST_RECORD + len(keys[0]), offset, aligned)
