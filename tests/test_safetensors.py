"""Safetensors files and Hugging Face folders, by files written here."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from struct import pack

import ml_dtypes
import numpy as np
import pytest

import truebits as tb
from gguf_bytes import STRING, key_value, string, tensor
from gguf_bytes import gguf as gguf_bytes
from safetensors_bytes import Tensors, file_of, part_of, safetensors
from truebits import errors
from truebits.errors import ModelFileError
from truebits.files.gguf import Limits
from truebits.files.model import open_model
from truebits.files.safetensors import read_header
from truebits.files.types import FP8_FORMATS
from truebits.numbers.words import single_words
from truebits.precision.profile import PrecisionProfile

GOLDEN = (
    b"\xc0\0\0\0\0\0\0\0"
    b'{"__metadata__":{"format":"pt"},'
    b'"norm.weight":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
    b'"layers.0.w":{"dtype":"BF16","shape":[2,2],"data_offsets":[12,20]}}                             '
    b"\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40"
    b"\x80\x3f\0\x40\x40\x40\x80\x40"
)


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def entry(dtype: str = '"F32"', shape: str = "[2]", offsets: str = "[0,8]") -> bytes:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'.encode()


def one(dtype: str = '"F32"', shape: str = "[2]", offsets: str = "[0,8]", data: int = 8) -> bytes:
    """Return a file of one tensor, each of its fields free text."""
    return file_of(b'{"t":' + entry(dtype, shape, offsets) + b"}", bytes(data))


@pytest.fixture
def opened(tmp_path):
    def call(data: bytes, name: str = "model.safetensors", **limits: int):
        path = tmp_path / name
        path.write_bytes(data)
        return open_model(path, **limits)

    return call


@pytest.fixture
def refused(opened):
    """Check that a file is refused with this error, in one line, at a byte of the file."""

    def call(data: bytes, error: type[ModelFileError], code: str, *words: object, **options):
        with pytest.raises(ModelFileError) as caught:
            opened(data, **options)
        got = caught.value
        assert type(got) is error, got
        assert (got.code, got.exit_code) == (code, 3)
        assert 0 <= got.offset <= len(data)
        assert "\n" not in str(got)
        assert str(got).isprintable()
        for word in words:
            assert str(word) in got.message

    return call


def findings(model) -> list[tuple[str, int]]:
    """Return the codes of what was found in one file, and where in its data."""
    (part,) = model.parts
    assert all(finding.stops_writing for finding in part.findings)
    return [(finding.error.code, finding.offset - part.header.data_start) for finding in part.findings]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "truebits", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# --- files that are good


def test_golden_bytes(opened):
    model = opened(GOLDEN)
    norm, weight = model.tensors
    assert norm == ("norm.weight", "F32", (3,), 200, 12, 3, 0, False)
    assert weight == ("layers.0.w", "BF16", (2, 2), 212, 8, 4, 0, False)
    assert (weight.role, weight.group) == ("w", "layers.*.w")
    assert (model.format, model.size, model.types) == ("safetensors", len(GOLDEN), {"F32": 1, "BF16": 1})
    assert model.value("format") == "pt"
    assert model.value("absent") is None
    assert model.parts[0].value("format") == "pt"
    assert model.parts[0].header.data_start == 200
    assert findings(model) == []
    model.parts[0].check_layout()
    with model.parts[0].map() as file:
        assert bytes(file.data) == GOLDEN


def test_writer_of_these_tests_writes_the_golden_bytes():
    tensors = {
        "norm.weight": ("F32", (3,), floats(1, 2, 3)),
        "layers.0.w": ("BF16", (2, 2), np.array([1, 2, 3, 4], ml_dtypes.bfloat16).tobytes()),
    }
    got = safetensors(tensors, {"format": "pt"})
    assert json.loads(got[8 : 8 + got[0]]) == json.loads(GOLDEN[8:200])
    assert got[-20:] == GOLDEN[-20:]


@pytest.mark.parametrize("name", ["model.safetensors", "model", "model.gguf", "model.bin", "model.json"])
def test_contents_tell_what_a_file_is(opened, name):
    assert opened(GOLDEN, name).format == "safetensors"
    assert opened(gguf_bytes([], [tensor(b"t")], bytes(32)), name).format == "gguf"


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        *((name, 64) for name in ("F64", "I64", "U64", "C64")),
        *((name, 32) for name in ("F32", "I32", "U32")),
        *((name, 16) for name in ("F16", "BF16", "I16", "U16")),
        *((name, 8) for name in ("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")),
        *(("F6_E2M3", 6), ("F6_E3M2", 6), ("F4", 4)),
    ],
)
def test_dtypes(opened, dtype, bits):
    (got,) = opened(safetensors({"t": (dtype, (3, 4), bytes(12 * bits // 8))})).tensors
    assert (got.type, got.values, got.nbytes) == (dtype, 12, 12 * bits // 8)


@pytest.mark.parametrize(
    "header",
    [
        b'{ "t" : { "data_offsets":[ 0 , 8 ] ,\t"shape":[2],\r\n"dtype" :"F32"} } \n',
        b'{"\\u0074":{"dtype":"\\u0046\\u00332","shape":[1,2],"data_offsets":[0,8]}}',
        b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{}}',
    ],
)
def test_any_json_says_the_same(opened, header):
    (got,) = opened(file_of(header, bytes(8))).tensors
    assert (got.name, got.type, got.values, got.offset) == ("t", "F32", 2, 8 + len(header))


def test_scalars_and_empty_tensors(opened):
    tensors: Tensors = {
        "scalar": ("F32", (), bytes(4)),
        "empty": ("F64", (0, 2**62, 2**62), b""),
        "last": ("F16", (1,), bytes(2)),
    }
    model = opened(safetensors(tensors))
    assert [(one.values, one.nbytes) for one in model.tensors] == [(1, 4), (0, 0), (1, 2)]
    assert findings(model) == []


def test_no_tensors(opened):
    model = opened(file_of(b"{}"))
    assert model.tensors == ()
    assert findings(model) == []


def test_tensors_in_another_order_than_their_data(opened):
    header = b'{"b":' + entry(offsets="[8,16]") + b',"a":' + entry() + b"}"
    model = opened(file_of(header, bytes(16)))
    assert [one.name for one in model.tensors] == ["b", "a"]
    assert findings(model) == []


def test_metadata_is_any_text(opened):
    text = 'a "quoted" \\ line\n\0 \U0001f600 é'
    model = opened(safetensors({}, {"k\u00e9y": text, "empty": ""}))
    assert model.value("k\u00e9y") == text
    assert model.value("empty") == ""


def test_names_may_be_any_text_without_nul(opened):
    name = 'a"b\\c\n\x1b[31m\U0001f600'
    (got,) = opened(safetensors({name: ("F32", (1,), bytes(4))})).tensors
    assert got.name == name
    assert got.label.isprintable()


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_data_need_not_be_aligned(opened, padding):
    values = np.random.default_rng(padding).standard_normal(1001).astype("<f4")
    tensors: Tensors = {"odd": ("U8", (padding,), bytes(padding)), "t": ("F32", (7, 143), values.tobytes())}
    report = tb.scan(opened(safetensors(tensors, padding=1)))
    expected = int(np.count_nonzero(values.view(np.uint32) & 0xFFFF == 0))
    assert report["t"].low_zero(16) == expected
    assert report["t"].values == 1001


# --- headers that are not


@pytest.mark.parametrize(
    ("data", "error", "code", "words"),
    [
        (file_of(b""), errors.BadJson, "E_JSON", ["{", "the end"]),
        (b"\x02\0\0", errors.HeaderTruncated, "E_TRUNCATED", [3]),
        (GOLDEN[:8], errors.HeaderTruncated, "E_TRUNCATED", [192, 0]),
        (GOLDEN[:100], errors.HeaderTruncated, "E_TRUNCATED", [192, 92, "unfinished download"]),
        (pack("<Q", 2**64 - 1) + b"{}", errors.HeaderTruncated, "E_TRUNCATED", [2**64 - 1, 2]),
        (pack("<Q", 2**63) + b"{}", errors.HeaderTruncated, "E_TRUNCATED", [2**63]),
        (file_of(b" {}"), errors.NotSafetensors, "E_NOT_SAFETENSORS", []),
        (file_of(b"[]"), errors.NotSafetensors, "E_NOT_SAFETENSORS", []),
        (b"\0" * 300, errors.NotSafetensors, "E_NOT_SAFETENSORS", ["unfinished download"]),
        (b"<!DOCTYPE html>", errors.NotSafetensors, "E_NOT_SAFETENSORS", ["HTML"]),
        (b"version https://git-lfs", errors.NotSafetensors, "E_NOT_SAFETENSORS", ["git lfs pull"]),
        (b"", errors.EmptyFile, "E_EMPTY", [10]),
        (file_of(b"{"), errors.BadJson, "E_JSON", ["a string", "the end"]),
        (file_of(b"{}}"), errors.BadJson, "E_JSON", ["nothing more"]),
        (file_of(b"{} x"), errors.BadJson, "E_JSON", ["nothing more"]),
        (file_of(b"{}\0"), errors.BadJson, "E_JSON", ["\\x00"]),
        (file_of(b"{'t':1}"), errors.BadJson, "E_JSON", []),
        (file_of(b'{"t"}'), errors.BadJson, "E_JSON", ["a colon"]),
        (file_of(b'{"t":' + entry() + b",}", bytes(8)), errors.BadJson, "E_JSON", ["a string"]),
        (file_of(b'{"t":' + entry() + b' "u":1}', bytes(8)), errors.BadJson, "E_JSON", ["a comma"]),
        (file_of(b'{"t\n":1}'), errors.BadJson, "E_JSON", []),
        (file_of(b'{"\\q":1}'), errors.BadJson, "E_JSON", ["escape"]),
        (file_of(b'{"\\u12":1}'), errors.BadJson, "E_JSON", ["escape"]),
        (file_of(b'{"\xff":1}'), errors.BadText, "E_TEXT", ["UTF-8"]),
        (file_of(b'{"\xc0\x80":1}'), errors.BadText, "E_TEXT", ["UTF-8"]),
        (file_of(b'{"\\ud800":1}'), errors.BadText, "E_TEXT", ["surrogate"]),
        (file_of(b'{"a":{"dtype":"\xff"'), errors.BadText, "E_TEXT", []),
        (file_of(b'{"t":[1]}'), errors.BadField, "E_FIELD", ["an object"]),
        (file_of(b'{"t":null}'), errors.BadField, "E_FIELD", []),
        (file_of(b'{"t":NaN}'), errors.BadField, "E_FIELD", ["NaN"]),
        (file_of(b'{"t":{}}'), errors.BadField, "E_FIELD", ["dtype", "shape", "data_offsets"]),
        (file_of(b'{"t":{"dtype":"F32","shape":[]}}'), errors.BadField, "E_FIELD", ["no data_offsets"]),
        (file_of(b'{"t":{"more":1}}'), errors.BadField, "E_FIELD", ["more"]),
        (file_of(b'{"t":' * 100_000), errors.BadField, "E_FIELD", []),
        (file_of(b'{"t":{"shape":' + b"[" * 100_000), errors.BadDimension, "E_DIM", []),
        (file_of(b'{"t":{"shape":[],"shape":[]}}'), errors.DuplicateKey, "E_DUP_KEY", ["shape"]),
        (file_of(b'{"t":' + entry() + b',"\\u0074":1}', bytes(8)), errors.DuplicateTensor, "E_DUP_TENSOR", ["t"]),
        (file_of(b'{"__metadata__":{},"__metadata__":{}}'), errors.DuplicateTensor, "E_DUP_TENSOR", []),
        (file_of(b'{"__metadata__":{"a":"","a":""}}'), errors.DuplicateKey, "E_DUP_KEY", ["a"]),
        (file_of(b'{"__metadata__":[]}'), errors.BadMetadata, "E_METADATA", ["an object"]),
        (file_of(b'{"__metadata__":{"a":1}}'), errors.BadMetadata, "E_METADATA", ["a string"]),
        (file_of(b'{"__metadata__":{"a":{"b":""}}}'), errors.BadMetadata, "E_METADATA", []),
        (file_of(b'{"a\\u0000b":1}'), errors.NulInName, "E_NUL", []),
        (file_of(b'{"' + b"n" * 65_536 + b'":1}'), errors.BadName, "E_NAME", [65_536]),
        (one(dtype='"F7"'), errors.BadTensorType, "E_TYPE", ["F7"]),
        (one(dtype='"f32"'), errors.BadTensorType, "E_TYPE", ["f32"]),
        (one(dtype="4"), errors.BadField, "E_FIELD", ["a string"]),
        (one(dtype="Infinity"), errors.BadField, "E_FIELD", ["Infinity"]),
        (one(shape="2"), errors.BadField, "E_FIELD", ["a list"]),
        (one(shape="[-2]"), errors.BadDimension, "E_DIM", [-2]),
        (one(shape="[2.0]"), errors.BadDimension, "E_DIM", ["2.0"]),
        (one(shape="[2e0]"), errors.BadDimension, "E_DIM", ["2e0"]),
        (one(shape="[true]"), errors.BadDimension, "E_DIM", ["true"]),
        (one(shape='["2"]'), errors.BadDimension, "E_DIM", []),
        (one(shape="[NaN]"), errors.BadDimension, "E_DIM", ["NaN"]),
        (one(shape="[02]"), errors.BadDimension, "E_DIM", ["02"]),
        (one(shape=f"[{2**63}]"), errors.BadDimension, "E_DIM", [2**63]),
        (one(shape=f"[{'9' * 5001}]"), errors.BadDimension, "E_DIM", ["5001 digits"]),
        (one(shape=f"[{','.join('1' * 65)}]"), errors.TooManyDimensions, "E_NDIMS", [64]),
        (one(shape=f"[{2**62},4]"), errors.SizeOverflow, "E_OVERFLOW", [2**64]),
        (one(shape=f"[{2**62}]"), errors.SizeOverflow, "E_OVERFLOW", [2**62]),
        (one(shape="[3]"), errors.SizeMismatch, "E_SIZE", [8, 12]),
        (one(shape="[]"), errors.SizeMismatch, "E_SIZE", [8, 4]),
        (one(dtype='"F4"', shape="[3]", offsets="[0,1]"), errors.BadBlock, "E_BLOCK", ["F4", 3]),
        (one(dtype='"F6_E2M3"', shape="[5]", offsets="[0,3]"), errors.BadBlock, "E_BLOCK", ["F6_E2M3", 5]),
        (one(offsets="[8,0]"), errors.BadRange, "E_RANGE", [8, 0]),
        (one(offsets="[-8,0]"), errors.BadRange, "E_RANGE", [-8]),
        (one(offsets="[0]"), errors.BadField, "E_FIELD", [1]),
        (one(offsets="[0,8,8]"), errors.BadField, "E_FIELD", ["two"]),
        (one(offsets="[0,8.0]"), errors.BadField, "E_FIELD", ["8.0"]),
        (one(offsets="[false,8]"), errors.BadField, "E_FIELD", ["false"]),
        (one(offsets=f"[0,{10**30}]"), errors.BadField, "E_FIELD", ["31 digits"]),
        (one(offsets="{}"), errors.BadField, "E_FIELD", ["a list"]),
        (one(offsets="[1,9]"), errors.OutOfBounds, "E_BOUNDS", [9, 8]),
        (one(offsets=f"[{2**64 - 8},{2**64}]"), errors.OutOfBounds, "E_BOUNDS", [2**64]),
        (one(shape="[0]", offsets="[9,9]"), errors.OutOfBounds, "E_BOUNDS", [9]),
        (
            file_of(b'{"a":' + entry() + b',"b":' + entry(offsets="[4,12]") + b"}", bytes(12)),
            errors.Overlap,
            "E_OVERLAP",
            ["a", "b"],
        ),
        (
            file_of(b'{"a":' + entry() + b',"b":' + entry() + b"}", bytes(8)),
            errors.Overlap,
            "E_OVERLAP",
            ["a", "b"],
        ),
    ],
)
def test_broken_rules(refused, data, error, code, words):
    refused(data, error, code, *words)


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path):
    path = tmp_path / "long.safetensors"
    with path.open("wb") as file:
        file.write(pack("<Q", 100_000_001) + b"{")
        file.truncate(100_000_100)  # a hole: no disk is used
    with pytest.raises(errors.LimitExceeded, match="100000001 bytes, the limit is 100000000"):
        open_model(path)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_header_bytes": 191}, [192, 191]),
        ({"max_tensors": 1}, ["limit of 1"]),
        ({"max_keys": 0}, ["limit of 0"]),
    ],
)
def test_limits(refused, opened, limits, words):
    refused(GOLDEN, errors.LimitExceeded, "E_LIMIT", *words, **limits)
    assert opened(GOLDEN, max_header_bytes=192, max_tensors=2, max_keys=1).tensors


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (file_of(b'{"t":' + entry() + b"}", bytes(9)), [("E_UNEXPLAINED", 8)]),
        (file_of(b'{"t":' + entry(offsets="[1,9]") + b"}", bytes(9)), [("E_LAYOUT", 0)]),
        (file_of(b"{}", bytes(1)), [("E_UNEXPLAINED", 0)]),
        (
            file_of(b'{"a":' + entry(offsets="[8,16]") + b',"b":' + entry(offsets="[20,28]") + b"}", bytes(30)),
            [("E_LAYOUT", 0), ("E_LAYOUT", 16), ("E_UNEXPLAINED", 28)],
        ),
    ],
)
def test_bytes_of_no_tensor_are_found(opened, data, expected):
    model = opened(data)
    assert findings(model) == expected
    with pytest.raises(ModelFileError):
        model.parts[0].check_layout()


def test_truncation_at_every_byte():
    for length in range(200):
        with pytest.raises(ModelFileError) as caught:
            read_header(GOLDEN[:length], Path("cut"), 0, Limits())
        assert 0 <= caught.value.offset <= length
    for length in range(200, len(GOLDEN)):
        with pytest.raises(errors.OutOfBounds):
            read_header(GOLDEN[:length], Path("cut"), 0, Limits())
    assert len(read_header(GOLDEN, Path("whole"), 0, Limits()).tensors) == 2


@pytest.mark.parametrize("missing", [1, 10, 20])
def test_a_file_that_is_cut_off_is_perhaps_an_incomplete_download(missing):
    with pytest.raises(errors.OutOfBounds) as caught:
        read_header(GOLDEN[:-missing], Path("cut"), 0, Limits())
    assert caught.value.message.endswith(f"an incomplete download? {220 - missing} of 220 bytes are here")


FRAGMENTS = rb'{ } [ ] " , : \ -1 1e9 2 99999999999999999999 null NaN "t": __metadata__ \ud800 \u0000 F64 F4'.split()


def spoiled(choose: random.Random) -> bytes:
    """Return the golden file, changed at one to three places; mostly the header's length is made to fit again."""
    header, data = bytearray(GOLDEN[8:200]), GOLDEN[200:]
    for _ in range(choose.randint(1, 3)):
        at = choose.randrange(len(header))
        kind = choose.randrange(4)
        if kind == 0:
            header[at] ^= 1 << choose.randrange(8)
        elif kind == 1:
            header[at : at + choose.randint(0, 4)] = choose.choice(FRAGMENTS)
        elif kind == 2:
            del header[at : at + choose.randint(1, 20)]
        else:
            header[at:at] = header[choose.randrange(len(header)) :][: choose.randint(1, 70)]
    if choose.random() < 0.1:
        data = data[: choose.randrange(20)]
    return file_of(bytes(header), data) if choose.random() < 0.9 else GOLDEN[:8] + bytes(header) + data


def test_fuzz():
    """Anything else than a header or a ModelFileError fails; what is read has its bytes inside the file."""
    choose, good = random.Random(5), 0
    bad: list[tuple[ModelFileError, int]] = []
    for _ in range(4000):
        data = spoiled(choose)
        try:
            header = read_header(data, Path("fuzz"), 0, Limits())
        except ModelFileError as error:
            bad.append((error, len(data)))
            continue
        good += 1
        assert all(header.data_start <= one.offset <= one.offset + one.nbytes <= len(data) for one in header.tensors)
        assert all(header.value(data, key) is not None for key in header.keys)
        assert all(finding.stops_writing for finding in header.findings(data))
    assert good > 100
    assert all(0 <= error.offset <= size and str(error).isprintable() for error, size in bad)
    assert len({error.code for error, _ in bad}) > 10


# --- what is done with them


def same_in_gguf(tensors: Tensors, keys: dict[str, str] | None = None) -> bytes:
    """Return the same tensors in a GGUF, which has the fastest dimension first."""
    types = {"F32": 0, "F16": 1, "BF16": 30, "F64": 28}
    infos, data = [], b""
    for name, (dtype, shape, raw) in tensors.items():
        infos.append(tensor(name.encode(), shape[::-1], types[dtype], len(data)))
        data += raw + bytes(-len(raw) % 32)
    records = [key_value(key.encode(), STRING, string(text.encode())) for key, text in (keys or {}).items()]
    return gguf_bytes(records, infos, data)


@pytest.fixture
def pair(tmp_path):
    """The same values in both formats."""
    values = np.random.default_rng(7).standard_normal(4096)
    tensors: Tensors = {
        "layers.0.w": ("F32", (32, 128), values.astype("<f4").tobytes()),
        "layers.0.exact": ("F32", (4096,), values.astype(ml_dtypes.bfloat16).astype("<f4").tobytes()),
        "half": ("F16", (4096,), values.astype("<f2").tobytes()),
        "brain": ("BF16", (2, 4, 512), values.astype(ml_dtypes.bfloat16).tobytes()),
        "double": ("F64", (4096,), values.tobytes()),
    }
    paths = tmp_path / "model.safetensors", tmp_path / "model.gguf"
    paths[0].write_bytes(safetensors(tensors, {"format": "pt"}))
    paths[1].write_bytes(same_in_gguf(tensors, {"format": "pt"}))
    return paths


def test_scan_counts_what_it_counts_in_a_gguf(pair):
    got, expected = (tb.scan(path) for path in pair)
    assert list(got) == list(expected)
    assert len(got) == 5
    for name, precision in got.items():
        assert PrecisionProfile.answers(precision) == PrecisionProfile.answers(expected[name])
        assert np.array_equal(precision.bins, expected[name].bins)
        assert np.array_equal(precision.counts, expected[name].counts)
    assert got["layers.0.exact"].fits("bf16") == 4096
    assert tb.low_bits(pair[0]) == tb.low_bits(pair[1])


def test_scan_leaves_out_what_it_does_not_count(opened):
    tensors: Tensors = {"q": ("F8_E4M3", (4,), bytes(4)), "t": ("F32", (1,), bytes(4)), "i": ("I64", (1,), bytes(8))}
    model = opened(safetensors(tensors))
    assert list(tb.scan(model)) == ["q", "t"]
    with pytest.raises(errors.SelectionError, match="only I64"):
        tb.scan(model, "i")


def test_diff_of_both_formats(pair):
    found = tb.diff(*pair)
    assert found.is_same
    assert len(found.tensors) == 5
    assert {one.shapes for one in found.tensors} >= {((32, 128), (32, 128)), ((2, 4, 512), (2, 4, 512))}
    assert tb.diff(pair[1], pair[0]).tensors[0].shapes == ((128, 32), (128, 32))


@pytest.mark.parametrize("type", ["F64", "F32", "F16", "BF16"])
def test_diff_of_data_that_is_not_aligned(opened, type):
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}[type]
    values = np.arange(1, 101).astype(kind)
    odd: Tensors = {"odd": ("U8", (1,), b"\0"), "t": (type, (100,), values.tobytes())}
    for padding in (8, 1):
        ours = opened(safetensors(odd, padding=padding), "odd.safetensors")
        assert tb.diff(ours, opened(same_in_gguf({"t": odd["t"]}), "even.gguf"), "t").is_same
        values[50] = 7
        (got,) = tb.diff(ours, opened(same_in_gguf({"t": (type, (100,), values.tobytes())}), "b.gguf"), "t").tensors
        assert (got.changed, got.first.at, got.first.a, got.first.b) == (1, 50, 51, 7)
        values[50] = 51


def test_diff_of_a_shape_in_another_order(pair, opened):
    tensors: Tensors = {"t": ("F32", (2, 3), bytes(24))}
    ours = opened(safetensors(tensors))
    transposed = opened(safetensors({"t": ("F32", (3, 2), bytes(24))}), "b.safetensors")
    in_gguf = opened(gguf_bytes([], [tensor(b"t", (2, 3))], bytes(24)), "c.gguf")
    for other in (transposed, in_gguf):
        (got,) = tb.diff(ours, other).tensors
        assert got.problem == "its shapes differ: 2 x 3 and 3 x 2"


def test_diff_finds_one_changed_value(pair, tmp_path):
    data = bytearray(pair[0].read_bytes())
    at = open_model(pair[0]).tensors[0].offset + 4 * 77
    data[at + 1] ^= 0x40
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(data)
    for other in pair:
        found = tb.diff(changed, other)
        assert [(one.name, one.changed) for one in found.tensors if not one.is_same] == [("layers.0.w", 1)]
        assert found.tensors[0].first.at == 77


def test_diff_of_metadata(opened):
    a = opened(safetensors({}, {"format": "pt", "same": "é", "a": "\x1b"}))
    b = opened(safetensors({}, {"format": "tf", "same": "é"}), "b.safetensors")
    assert tb.diff(a, b).metadata == (("format", "pt", "tf"), ("a", "\\x1b", None))
    in_gguf = opened(same_in_gguf({}, {"format": "pt", "same": "é"}), "c.gguf")
    assert tb.diff(in_gguf, b).metadata == (("format", "pt", "tf"),)


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
    ],
)
def test_fp8_codes(type, kind):
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(getattr(ml_dtypes, kind)).astype(np.float32)
    words = single_words(type)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(words.view(np.float32)), nan)
    assert [hex(word) for word in words[~nan]] == [hex(word) for word in expected.view(np.uint32)[~nan]]
    assert len(set(words.tolist())) == 256  # what differs in bytes is told apart, NaNs too
    assert type in FP8_FORMATS


@pytest.mark.parametrize("type", ["F8_E4M3", "F8_E5M2"])
def test_diff_of_fp8(opened, type):
    old, new = bytes(range(16)), bytes([*range(9), 0x7F, *range(10, 16)])
    words = single_words(type).view(np.float32)
    a = opened(safetensors({"q": (type, (16,), old)}), "a.safetensors")
    assert tb.diff(a, opened(safetensors({"q": (type, (16,), old)}), "b.safetensors")).is_same
    (got,) = tb.diff(a, opened(safetensors({"q": (type, (16,), new)}), "c.safetensors")).tensors
    assert (got.changed, got.first.at, got.first.a) == (1, 9, float(words[9]))
    assert np.isnan(got.first.b)
    wide = safetensors({"q": ("F32", (16,), words[:16].astype("<f4").tobytes())})
    (got,) = tb.diff(a, opened(wide, "d.safetensors")).tensors
    assert (got.types, got.changed) == ((type, "F32"), 0)


@pytest.mark.parametrize("type", ["U8", "BOOL", "C64", "I64"])
def test_diff_of_what_has_no_values_to_compare(opened, type):
    a = opened(safetensors({"q": (type, (4,), bytes(4 * (8 if "64" in type else 1)))}))
    size = a.tensors[0].nbytes
    shape = a.tensors[0].shape
    assert tb.diff(a, opened(safetensors({"q": (type, shape, bytes(size))}), "b")).is_same
    (got,) = tb.diff(a, opened(safetensors({"q": (type, shape, b"\1" * size)}), "c")).tensors
    assert got.problem == f"the bytes differ, and {type} has no values that could be compared"


def test_what_runs_a_model_takes_gguf_only(pair):
    with pytest.raises(errors.NeedsGGUF, match="GGUF only: convert it first"):
        tb.experiment(pair[0], to="bf16")


# --- the command line


def test_cli(pair, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, names in enumerate(("ab", "c"), 1):
        (folder / f"model-{number:05d}-of-00002.safetensors").write_bytes(part_of(*names))
    shown = run("show", pair[0])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("model.safetensors · safetensors · ")
    assert re.search(r"^format +pt$", shown.stdout, re.MULTILINE)
    assert "32 x 128" in run("show", pair[0], "--by-tensor").stdout
    document = json.loads(run("show", folder, "--json").stdout)
    assert (document["schema"], document["format"], document["parts"]) == ("truebits.show/1", "safetensors", 2)
    assert (document["version"], document["alignment"], document["metadata"]) == (None, None, {})
    assert [one["part"] for one in document["tensors"]] == [0, 0, 1]
    document = json.loads(run("scan", pair[0], "--json").stdout)
    assert document["format"] == "safetensors"
    assert document["total"]["values"] == 5 * 4096
    assert run("diff", *pair).returncode == 0
    assert run("diff", pair[0], folder).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "bad.safetensors"], 3, "E_JSON"),
        (["scan", "pytorch_model.bin"], 3, "E_PICKLE"),
        (["scan", "."], 4, "not a model file"),
        (["truncate", "good.safetensors", "out.gguf", "--bits", "16"], 2, "is safetensors, and stays so"),
        (["experiment", "good.safetensors", "--to", "bf16"], 2, "GGUF only"),
        (["scan", "ids.safetensors", "-l", "q"], 2, "only I64"),
        (["scan", "ids.safetensors"], 0, ""),
    ],
)
def test_cli_says_no_in_one_line(tmp_path, arguments, code, words):
    (tmp_path / "bad.safetensors").write_bytes(file_of(b"{"))
    (tmp_path / "good.safetensors").write_bytes(GOLDEN)
    (tmp_path / "ids.safetensors").write_bytes(safetensors({"q": ("I64", (4,), bytes(32))}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}.")
    verb, name, *more = arguments
    done = run(verb, tmp_path / ("empty" if name == "." else name), *more)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == (code != 0)
    if code == 0:
        assert "1 I64 tensor" in done.stdout
