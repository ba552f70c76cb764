"""Manifests that nobody vouches for."""

from __future__ import annotations

import json
import random
from hashlib import sha256
from struct import pack

import pytest

import truebits as tb
from hashed_models import Stored, every_type, write
from truebits.comparing.manifest import LARGEST_FILE, BadManifest, read_manifest
from truebits.report.json import result as manifest_of


@pytest.fixture
def tensors() -> list[Stored]:
    return every_type()


@pytest.fixture
def path(tmp_path, tensors):
    return write(tmp_path / "model.gguf", tensors)


@pytest.fixture
def manifest(path, tmp_path):
    file = tmp_path / "manifest.json"
    file.write_text(manifest_of(tb.fingerprint(path)))
    return file


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
