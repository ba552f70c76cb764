"""Fingerprints against a second implementation, and every verdict of `verify`."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tracemalloc
from hashlib import sha256
from pathlib import Path
from struct import pack
from typing import NamedTuple

import gguf
import numpy as np
import pytest

import gguf_bytes
import truebits as tb
from truebits.comparing.manifest import LARGEST_FILE, BadManifest, read_manifest
from truebits.errors import SelectionError
from truebits.files.mapping import FileChanged
from truebits.report.json import result as manifest_of
from words import SPECIAL, grid

TYPE_ID = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "I32": 26, "F64": 28, "BF16": 30}
FLOATS = ("F32", "F16", "BF16", "F64")
VALUES = np.array([0, -0.0, 1, -1.5, 0.0078125, 96, np.inf, -np.inf, np.nan, 2.0**-14, -3, 2.0**-20], np.float32)
"""Exact in every type."""


class Stored(NamedTuple):
    """A tensor as a file has it."""

    name: bytes
    type: str
    shape: tuple[int, ...]
    raw: bytes


def stored(name: str | bytes, values: np.ndarray, type: str = "F32", shape: tuple[int, ...] | None = None) -> Stored:
    name = name.encode() if isinstance(name, str) else name
    with np.errstate(invalid="ignore", over="ignore"):
        if type == "BF16":
            raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4"}[type]).tobytes()
    return Stored(name, type, (values.size,) if shape is None else shape, raw)


def quantized(name: str, type: str, seed: int) -> Stored:
    size = {"Q4_0": 18, "Q8_0": 34}[type]
    return Stored(name.encode(), type, (32, 4), np.random.default_rng(seed).bytes(4 * size))


def write(path: Path, tensors: list[Stored], keys: list[bytes] | None = None) -> Path:
    infos, data = [], b""
    for name, type, shape, raw in tensors:
        infos.append(gguf_bytes.tensor(name, shape, TYPE_ID[type], len(data)))
        data += raw + bytes(-len(raw) % 32)
    path.write_bytes(gguf_bytes.gguf(keys or [], infos, data))
    return path


def oracle_tensor(of: Stored) -> bytes:
    """Hash a tensor as the module's text says, through float64."""
    if of.type not in FLOATS:
        pieces = [of.raw[i : i + (1 << 22)] for i in range(0, len(of.raw), 1 << 22)]
        return sha256(b"".join(b"\1" + sha256(piece).digest() for piece in pieces)).digest()
    if of.type == "BF16":
        values = (np.frombuffer(of.raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(of.raw, {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[of.type])
    with np.errstate(invalid="ignore"):
        values = values.astype("<f8")
    values[np.isnan(values)] = np.frombuffer(pack("<Q", 0x7FF8 << 48), "<f8")
    digests = b""
    for piece in np.split(values, range(1 << 20, values.size, 1 << 20)):
        with np.errstate(over="ignore"):
            single = piece.astype("<f4")
        halves = single.view("<u2")
        if not np.array_equal(single.astype("<f8"), piece, equal_nan=True):
            digests += b"\x08" + sha256(piece.tobytes()).digest()
        elif halves[::2].any():
            digests += b"\x04" + sha256(single.tobytes()).digest()
        elif piece.size:
            digests += b"\x02" + sha256(halves[1::2].tobytes()).digest()
    return sha256(digests).digest()


def oracle(tensors: list[Stored]) -> str:
    text = b""
    for of in sorted(tensors):
        kind = b"values" if of.type in FLOATS else of.type.encode()
        shape = list(of.shape)
        while shape[-1:] == [1]:
            shape.pop()
        text += pack("<I", len(of.name)) + of.name + pack("<I", len(kind)) + kind
        text += pack("<I", len(shape)) + b"".join(pack("<Q", size) for size in shape) + oracle_tensor(of)
    return sha256(text).hexdigest()


def read(path: Path) -> list[Stored]:
    """Read a file with gguf-py."""
    return [
        Stored(one.name.encode(), one.tensor_type.name, tuple(map(int, one.shape)), one.data.tobytes())
        for one in gguf.GGUFReader(path).tensors
    ]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "truebits", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def tensors() -> list[Stored]:
    normal = np.random.default_rng(1).normal(size=96)
    return [
        stored("norm.weight", normal),
        stored("output.weight", VALUES, "F16", (6, 2)),
        stored("embed.weight", VALUES, "BF16"),
        stored("double", normal, "F64", (3, 32)),
        stored("steps", np.arange(8), "I32"),
        quantized("blk.0.up.weight", "Q8_0", 2),
        quantized("blk.1.up.weight", "Q4_0", 3),
    ]


@pytest.fixture
def path(tmp_path, tensors):
    return write(tmp_path / "model.gguf", tensors)


# --- the hash


def test_it_is_what_the_text_says(path, tensors):
    assert read(path) == tensors
    got = tb.fingerprint(path)
    assert [bytes.fromhex(one.hash) for one in got.tensors] == [oracle_tensor(of) for of in tensors]
    assert [(one.name.encode(), one.type, one.shape) for one in got.tensors] == [of[:3] for of in tensors]
    assert [one.kind for one in got.tensors] == ["values"] * 4 + ["bytes"] * 3
    assert [one.values for one in got.tensors] == [math.prod(of.shape) for of in tensors]
    assert got.value == oracle(tensors[:4])
    assert got.whole == oracle(tensors)


def test_it_stays_what_it_is(tmp_path):
    """A manifest must be good for years."""
    path = write(tmp_path / "model.gguf", [stored("a", VALUES), stored("b", np.array([0.1, 0.2]), "F64")])
    assert tb.fingerprint(path).value == "9dbc803882f1da5d4bf64c33d5b16a5dea8ad924ad23796a41a190aaf18f917d"


@pytest.mark.parametrize("type", FLOATS)
def test_every_kind_of_word(type, tmp_path):
    words = np.concatenate([grid(type), SPECIAL]) if type == "F32" else grid(type)
    of = Stored(b"a", type, (words.size,), words.tobytes())
    (got,) = tb.fingerprint(write(tmp_path / "model.gguf", [of])).tensors
    assert bytes.fromhex(got.hash) == oracle_tensor(of)


def test_pieces_choose_their_width_each_for_itself(tmp_path):
    values = np.tile(np.arange(4.0), (1 << 18) + 5)
    values[1 << 20] = 0.1
    expected = {type: oracle_tensor(stored("a", values, type)) for type in ("F32", "F64")}
    assert expected["F32"] != expected["F64"]
    for type, hash in expected.items():
        path = write(tmp_path / "model.gguf", [stored("x", VALUES), stored("a", values, type)])
        for threads in (1, 2, 5):
            assert tb.fingerprint(path, threads=threads).tensors[1].hash == hash.hex()


def test_long_quantized_tensors_have_pieces_too(tmp_path):
    raw = np.random.default_rng(4).bytes(34 * (1 << 17))
    of = Stored(b"a", "Q8_0", (1 << 22,), raw)
    (got,) = tb.fingerprint(write(tmp_path / "model.gguf", [of])).tensors
    assert bytes.fromhex(got.hash) == oracle_tensor(of)


@pytest.mark.parametrize("type", FLOATS)
def test_the_same_values_in_any_type(type, tmp_path):
    expected = oracle([stored("a", VALUES), stored("b", VALUES[:3])])
    path = write(tmp_path / "x.gguf", [stored("a", VALUES, type), stored("b", VALUES[:3], type)])
    assert tb.fingerprint(path).value == expected


def test_nan_is_one_value(tmp_path):
    words = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF], "<u4")
    hashes = {
        tb.fingerprint(write(tmp_path / "x.gguf", [Stored(b"a", "F32", (1,), pack("<I", word))])).value
        for word in words.tolist()
    }
    assert hashes == {oracle([stored("a", np.array([np.nan]))])}


def test_order_metadata_and_name_have_no_part(tmp_path, tensors):
    keys = [gguf_bytes.key_value(b"general.name", gguf_bytes.STRING, gguf_bytes.string(b"other"))]
    random.Random(0).shuffle(tensors)
    got = tb.fingerprint(write(tmp_path / "renamed.gguf", tensors, keys))
    assert got.whole == oracle(tensors)


def test_shards_have_no_part(tmp_path):
    values = {f"blk.{i}.norm.weight": np.random.default_rng(i).normal(size=40).astype(np.float32) for i in range(7)}
    for stem, most in (("one", 0), ("many", 2)):
        writer = gguf.GGUFWriter(tmp_path / f"{stem}.gguf", "llama", split_max_tensors=most)
        for name, of in values.items():
            writer.add_tensor(name, of)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    sharded = tb.open(tmp_path / "many-00001-of-00004.gguf")
    assert len(sharded.parts) == 4
    expected = oracle([stored(name, of) for name, of in values.items()])
    assert tb.fingerprint(sharded).value == tb.fingerprint(tmp_path / "one.gguf").value == expected


def test_many_small_tensors(tmp_path):
    tensors = [stored(f"t{i}", np.random.default_rng(i).normal(size=i % 40 + 1)) for i in range(500)]
    path = write(tmp_path / "x.gguf", tensors)
    assert {tb.fingerprint(path, threads=threads).value for threads in (1, 2, 7)} == {oracle(tensors)}


def test_empty_scalar_and_trailing_ones(tmp_path):
    one = np.ones(1)
    tensors = [stored("empty", one[:0], shape=(0, 3)), stored("scalar", one, shape=())]
    path = write(tmp_path / "x.gguf", tensors)
    assert tb.fingerprint(path).value == oracle(tensors)
    tensors[1] = stored("scalar", one, "F64", shape=(1, 1, 1))
    assert tb.fingerprint(write(path, tensors)).value == oracle([tensors[0], stored("scalar", one, shape=())])


def changes(of: Stored) -> dict[str, Stored]:
    values = np.frombuffer(of.raw, "<f4")
    other = {"a bit": values.copy(), "the sign of zero": values.copy(), "order": values[::-1]}
    other["a bit"].view("<u4")[3] ^= 1
    other["the sign of zero"][0] = -0.0
    changed = {what: of._replace(raw=new.tobytes()) for what, new in other.items()}
    changed["name"] = of._replace(name=b"b")
    changed["shape"] = of._replace(shape=(6, 2))
    changed["shape with a leading one"] = of._replace(shape=(1, 12))
    return changed


@pytest.mark.parametrize("what", changes(stored("a", VALUES)))
def test_any_change_shows(what, tmp_path):
    path = tmp_path / "x.gguf"
    of = stored("a", VALUES)
    before = tb.fingerprint(write(path, [of])).value
    changed = changes(of)[what]
    after = tb.fingerprint(write(path, [changed])).value
    assert before != after == oracle([changed])


def test_what_f32_does_not_hold_is_not_rounded(tmp_path):
    values = np.array([0.1, 1e300, 5e-324])
    hashes = {
        tb.fingerprint(write(tmp_path / "x.gguf", [stored("a", values[i : i + 1], type)])).value
        for i in range(3)
        for type in ("F64", "F32")
    }
    assert len(hashes) == 6


def test_quantized_tensors_are_in_the_whole_only(tmp_path, tensors):
    path = write(tmp_path / "x.gguf", tensors)
    before = tb.fingerprint(path)
    tensors[5] = tensors[5]._replace(raw=tensors[5].raw[::-1])
    after = tb.fingerprint(write(path, tensors))
    assert after.value == before.value
    assert after.whole == oracle(tensors) != before.whole


def test_without_values_there_is_no_fingerprint(tmp_path, tensors):
    """A hash of nothing would be the same for all quantized models."""
    path = write(tmp_path / "x.gguf", tensors[4:])
    assert tb.fingerprint(path).value is None
    assert tb.fingerprint(path).whole == oracle(tensors[4:])
    done = run("scan", path, "--fingerprint")
    assert (done.returncode, done.stdout[:6]) == (0, "none  ")


def test_selection(path, tensors):
    assert tb.fingerprint(path, "weight", ["blk", "norm"]).whole == oracle(tensors[1:3])
    with pytest.raises(SelectionError, match="no_such"):
        tb.fingerprint(path, "no_such")


def test_progress_reaches_the_end(path, tensors):
    seen = []
    tb.fingerprint(path, progress=lambda *now: seen.append(now))
    total = sum(len(of.raw) for of in tensors)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_a_file_that_changes_is_noticed(path, tensors):
    model = tb.open(path)
    write(path, tensors)
    with pytest.raises(FileChanged):
        tb.fingerprint(model)


def test_memory_stays_flat(tmp_path):
    path = tmp_path / "zeros.gguf"
    size = 128 << 20
    head = gguf_bytes.gguf([], [gguf_bytes.tensor(b"a", (size // 4,))])
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(len(head) + size)
    tb.fingerprint(path, threads=2)  # imports
    tracemalloc.start()
    got = tb.fingerprint(path, threads=2).tensors[0].hash
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got == sha256((b"\2" + sha256(bytes(2 << 20)).digest()) * 32).hexdigest()
    assert peak < 40 << 20


# --- verify


@pytest.fixture
def manifest(path, tmp_path):
    file = tmp_path / "manifest.json"
    file.write_text(manifest_of(tb.fingerprint(path)))
    return file


def verdicts(path: Path, manifest: Path) -> dict[str, str]:
    return {check.name: check.verdict for check in tb.verify(path, manifest).checks}


def test_same(path, manifest, tensors):
    found = tb.verify(path, manifest)
    assert found.is_same
    assert found.counts == {"same": 7, "changed": 0, "requantized": 0, "absent": 0, "extra": 0}
    assert [check.name.encode() for check in found.checks] == [of.name for of in tensors]
    assert tb.verify(path, tb.fingerprint(path)).is_same


def test_same_values_stored_otherwise(path, manifest, tensors):
    tensors[1] = stored("output.weight", VALUES, "F64", (6, 2, 1))
    tensors[2] = stored("embed.weight", VALUES, "F32")
    found = tb.verify(write(path, tensors[::-1]), manifest)
    assert found.is_same
    reasons = {check.name: check.reason for check in found.checks}
    assert reasons["embed.weight"] == "same values, stored as F32"
    assert reasons["norm.weight"] == "same values"
    assert reasons["blk.0.up.weight"] == "same bytes"


def test_every_other_verdict(path, manifest, tensors):
    changed = np.frombuffer(tensors[0].raw, "<f4").copy()
    changed[95] = -changed[95]
    tensors[0] = stored("norm.weight", changed)
    tensors[1] = stored("output.weight", VALUES, "F16", (2, 6))
    tensors[3] = stored("double 2", VALUES)
    tensors[4] = tensors[4]._replace(raw=tensors[4].raw[::-1])
    tensors[5] = quantized("blk.0.up.weight", "Q4_0", 2)
    tensors[6] = stored("blk.1.up.weight", np.ones(128), shape=(32, 4))
    found = tb.verify(write(path, tensors), manifest)
    assert {check.name: (check.verdict, check.was, check.now) for check in found.checks} == {
        "norm.weight": ("changed", "F32", "F32"),
        "output.weight": ("changed", "F16", "F16"),
        "embed.weight": ("same", "BF16", "BF16"),
        "double": ("absent", "F64", None),
        "steps": ("changed", "I32", "I32"),
        "blk.0.up.weight": ("requantized", "Q8_0", "Q4_0"),
        "blk.1.up.weight": ("requantized", "Q4_0", "F32"),
        "double 2": ("extra", None, "F32"),
    }
    reasons = [check.reason for check in found.checks]
    assert reasons[:2] == ["other values", "its shape is 2 x 6, was 6 x 2"]
    assert reasons[4] == "other bytes"
    assert not found.is_same
    assert found.counts == {"same": 1, "changed": 3, "requantized": 2, "absent": 1, "extra": 1}


def test_a_selection_is_of_both_sides(path, manifest, tensors):
    partial = tb.fingerprint(path, "norm")
    assert verdicts(path, partial)["steps"] == "extra"
    assert tb.verify(path, partial, "norm").is_same
    without = write(path, tensors[1:])
    assert [check.verdict for check in tb.verify(without, manifest, "norm").checks] == ["absent"]
    assert tb.verify(without, manifest, None, iter(["norm"])).is_same
    with pytest.raises(SelectionError, match="neither"):
        tb.verify(path, manifest, "no_such")


NAMES = ["a", "é\u202e\U0001f600", 'quote"\\\n\x1b[31m', b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"", b"a\xffb"]


def test_any_name_goes_through_a_manifest(tmp_path):
    tensors = [stored(name, np.full(1, i)) for i, name in enumerate(NAMES)]
    path = write(tmp_path / "x.gguf", tensors)
    file = tmp_path / "manifest.json"
    file.write_text(manifest_of(tb.fingerprint(path)))
    assert file.read_bytes().isascii()
    assert tb.fingerprint(path).value == read_manifest(file).value == oracle(tensors)
    assert tb.verify(path, file).is_same
    done = run("verify", write(path, tensors[:2]), file)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout


# --- manifests nobody vouches for


def resealed(document: dict) -> dict:
    """Compute the hashes of a manifest anew, as somebody would who knows how."""
    rows = sorted(document["tensors"], key=lambda row: row["name"].encode("utf-8", "surrogateescape"))
    for key, kinds in (("fingerprint", ("values",)), ("whole", ("values", "bytes"))):
        text = b""
        for row in (row for row in rows if row["kind"] in kinds):
            for part in (row["name"], row["kind"] if row["kind"] == "values" else row["type"]):
                raw = part.encode("utf-8", "surrogateescape")
                text += pack("<I", len(raw)) + raw
            shape = row["shape"]
            text += pack(f"<I{len(shape)}Q", len(shape), *shape) + bytes.fromhex(row["hash"])
        document[key] = sha256(text).hexdigest()
    return document


def edits() -> dict[str, tuple]:
    """Ways to a value in a manifest, and what to put there; ABSENT takes it out."""
    wrong = {
        ("schema",): ["truebits.fingerprint/2", ABSENT, None, 1],
        ("algorithm",): ["md5", ABSENT, []],
        ("file",): [ABSENT, None, {}],
        ("fingerprint",): ["0" * 64, ABSENT, None, 7],
        ("whole",): ["0" * 64, ABSENT, None],
        ("tensors",): [ABSENT, None, {}, "text", [], [None], [[]], [{}]],
        ("tensors", 0, "name"): ["other", ABSENT, None, 1, "embed.weight", "\ud800", ["a"]],
        ("tensors", 5, "type"): ["Q4_0", ABSENT, None, 1, "\ud800"],
        ("tensors", 0, "shape"): [[95], [-1], [1 << 64], [96.0], [True] * 96, ["96"], 96, None, ABSENT, [1] * 65, {}],
        ("tensors", 0, "values"): [95, -96, 96.0, "96", True, None, ABSENT, 1 << 70],
        ("tensors", 0, "hash"): ["0" * 64, "0" * 63, "g" * 64, "0" * 64 + "\n", "A" * 64, 5, None, ABSENT],
        ("tensors", 0, "kind"): ["bytes", "other", 3, None, ABSENT, []],
    }
    return {f"{'.'.join(map(str, at))}-{i}": (at, new) for at, all in wrong.items() for i, new in enumerate(all)}


ABSENT = object()

UNSEALED = [
    (("fingerprint",), "0" * 64),
    (("fingerprint",), ABSENT),
    (("fingerprint",), None),
    (("fingerprint",), 7),
    (("whole",), "0" * 64),
    (("whole",), ABSENT),
    (("whole",), None),
    (("tensors",), []),
    (("tensors", 0, "name"), "other"),
    (("tensors", 5, "type"), "Q4_0"),
    (("tensors", 0, "hash"), "0" * 64),
    (("tensors", 0, "kind"), "bytes"),
]
"""Edits that only the manifest's own hashes betray."""


@pytest.mark.parametrize(("at", "new"), edits().values(), ids=edits())
def test_an_edited_manifest_is_refused(at, new, manifest):
    document = json.loads(manifest.read_text())
    place = document
    for step in at[:-1]:
        place = place[step]
    if new is ABSENT:
        del place[at[-1]]
    else:
        assert json.dumps(place[at[-1]]) != json.dumps(new)
        place[at[-1]] = new
    manifest.write_text(json.dumps(document))
    with pytest.raises(BadManifest) as caught:
        read_manifest(manifest)
    assert str(caught.value).startswith(f"{manifest}: E_MANIFEST at byte 0: ")
    assert ("changed after it was made" in str(caught.value)) == ((at, new) in UNSEALED)


def test_names_twice_are_refused_however_written(manifest):
    document = json.loads(manifest.read_text())
    for twin in ("é", "\udcc3\udca9"):
        document["tensors"].append({**document["tensors"][0], "name": twin})
    manifest.write_text(json.dumps(resealed(document)))
    with pytest.raises(BadManifest, match="stands twice"):
        read_manifest(manifest)
    document["tensors"].pop()
    manifest.write_text(json.dumps(resealed(document)))
    assert [one.name for one in read_manifest(manifest).tensors][-1] == "é"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe\xfd",
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"schema": "truebits.fingerprint/1", "file": ' + b"9" * 10_000 + b"}",
        b"GGUF" + bytes(100),
        b" " * (LARGEST_FILE + 1),
    ],
    ids=range(10),
)
def test_what_is_no_manifest_is_refused(data, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_bytes(data)
    with pytest.raises(BadManifest):
        read_manifest(path)


def test_an_endless_manifest_is_refused():
    with pytest.raises(BadManifest, match="larger than"):
        read_manifest("/dev/zero")


def test_damaged_manifests_are_refused_or_say_the_same(manifest):
    """Only the file's name and the type that floating-point values were stored in can change unnoticed."""
    sound, raw, choice = read_manifest(manifest), manifest.read_bytes(), random.Random(5)
    refused = 0
    for _ in range(500):
        data = bytearray(raw)
        for _ in range(choice.randint(1, 3)):
            at = choice.randrange(len(data))
            data[at : at + choice.randint(0, 2)] = choice.randbytes(choice.randint(0, 2))
        manifest.write_bytes(data)
        try:
            got = read_manifest(manifest)
        except BadManifest:
            refused += 1
            continue
        assert (got.value, got.whole) == (sound.value, sound.whole)
    assert refused > 300


# --- the command line


def test_scan_prints_it(path, tensors):
    done = run("scan", path, "--fingerprint")
    assert done.returncode == 0
    assert done.stdout == (
        f"{oracle(tensors[:4])}  model.gguf: 216 values of 4 tensors; "
        "not in it: 3 tensors of block-quantized or integer type\n"
    )
    _, *rows = run("scan", path, "--fingerprint", "-o", "csv", "-l", "norm").stdout.splitlines()
    assert rows == [f"norm.weight,F32,96,96,values,{oracle_tensor(tensors[0]).hex()}"]


def test_scan_json_is_the_manifest(path, tensors):
    done = run("scan", path, "--fingerprint", "--json", "--threads", 1)
    document = json.loads(done.stdout)
    rows, coverage = document.pop("tensors"), document.pop("coverage")
    assert coverage["tensors_read"] == coverage["tensors"] == len(tensors)
    assert document == {
        "schema": "truebits.fingerprint/1",
        "file": str(path),
        "algorithm": "sha256",
        "fingerprint": oracle(tensors[:4]),
        "whole": oracle(tensors),
    }
    assert rows[1] == {
        "name": "output.weight",
        "type": "F16",
        "shape": [6, 2],
        "values": 12,
        "kind": "values",
        "hash": oracle_tensor(tensors[1]).hex(),
    }


@pytest.mark.parametrize(
    "option", [["--bits", "16"], ["--by-tensor"], ["--low-bits-only"], ["--bits-view", "norm.weight"]]
)
def test_scan_refuses_what_says_nothing_of_it(option, path):
    done = run("scan", path, "--fingerprint", *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert option[0] in done.stderr


def test_verify_by_command(path, manifest, tensors):
    done = run("verify", path, manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Same: all 7 tensors are there and hold what they held.\n"
    tensors[2] = stored("embed.weight", VALUES, "F32")
    done = run("verify", write(path, tensors), manifest)
    assert done.returncode == 0
    assert "1 of them: same values, stored as F32, not BF16." in done.stdout
    del tensors[6]
    done = run("verify", write(path, tensors), manifest)
    assert done.returncode == 1
    table, conclusion = done.stdout.split("\n\n")
    assert table.splitlines()[1].split()[:2] == ["blk.1.up.weight", "absent"]
    assert conclusion == "Not the same model: of 7 tensors 6 are the same, 1 absent.\n"
    done = run("verify", path, manifest, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    checks = document.pop("tensors")
    assert document.pop("coverage")["tensors_read"] == 6
    assert document == {
        "schema": "truebits.verify/1",
        "file": str(path),
        "manifest": str(manifest),
        "same": False,
        "verdict": "different",
        "counts": {"same": 6, "changed": 0, "requantized": 0, "absent": 1, "extra": 0},
    }
    assert checks[2] == {
        "name": "embed.weight",
        "verdict": "same",
        "was": "BF16",
        "now": "F32",
        "reason": "same values, stored as F32",
    }


def test_what_was_requantized_is_not_verified(path, manifest, tensors):
    tensors[0] = quantized("norm.weight", "Q8_0", 1)._replace(shape=(96,), raw=bytes(3 * 34))
    found = tb.verify(write(path, tensors), manifest)
    assert (found.verdict, found.counts["requantized"]) == ("not verified", 1)
    (missing,) = found.coverage.not_read
    assert (missing.type, missing.tensors, missing.why) == (
        "Q8_0",
        1,
        "stored as Q8_0, was F32: not comparable by hash",
    )
    done = run("verify", path, manifest)
    assert done.returncode == 7
    assert "Not verified: of 7 tensors 6 are the same, 1 cannot be compared by hash." in done.stdout


def test_the_manifest_may_be_a_pipe(path):
    truebits = f"{sys.executable} -m truebits"
    command = f"{truebits} verify {path} <({truebits} scan {path} --fingerprint --json)"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Same: all 7 tensors")


@pytest.mark.parametrize(
    ("manifest", "code", "named"),
    [("model.gguf", 3, "E_MANIFEST"), (".", 4, "directory"), ("no\x1bne", 4, "no\\x1bne")],
)
def test_verify_says_in_one_line_what_is_wrong(manifest, code, named, path, tmp_path):
    done = run("verify", path, tmp_path / manifest)
    assert (done.returncode, done.stdout) == (code, "")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
