"""Headers spoiled at random, from a seed: read, or refused by one clear error; what is printed stays bounded."""

import json
import random
from struct import pack

import pytest

from gguf_bytes import ARRAY, F32, F64, STRING, U8, U32, alignment, array, key_value, scalar, string, tensor
from gguf_bytes import gguf as gguf_bytes
from safetensors_bytes import safetensors
from truebits.errors import ModelFileError
from truebits.files.model import open_model
from truebits.precision.findings import header_findings
from truebits.report import listing

NUMBERS = [*range(12), 31, 32, 39, 42, 43, 137, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def a_gguf() -> bytes:
    keys = [
        key_value(b"general.architecture", STRING, string(b"llama")),
        alignment(32),
        key_value(b"general.file_type", U32, scalar(U32, 15)),
        key_value(b"llama.block_count", U32, scalar(U32, 2)),
        key_value(b"llama.attention.head_count", ARRAY, array(U32, [scalar(U32, 4)] * 2)),
        key_value(b"f", F32, scalar(F32, 1.5)),
        key_value(b"numbers", ARRAY, array(F64, [scalar(F64, 0.1)] * 3)),
        key_value(b"words", ARRAY, array(STRING, [string(b"a"), string(b"\xff"), string(b"")])),
        key_value(b"byte", U8, b"\1"),
    ]
    infos = [
        tensor(b"blk.0.attn_q.weight", (256, 4), 12, 0),
        tensor(b"blk.0.attn_norm.weight", (256,), 0, 576),
        tensor(b"blk.1.ffn.weight", (64, 2), 42, 1600),
        tensor(b"output.weight", (2, 1, 3, 1), 1, 1664),
    ]
    return gguf_bytes(keys, infos, bytes(1696))


def a_safetensors() -> bytes:
    tensors = {f"model.layers.{i}.w": ("BF16", (2, 2), bytes(8)) for i in range(3)}
    return safetensors({**tensors, "scalar": ("F32", (), bytes(4)), "f4": ("F4", (2,), b"\1")}, {"format": "pt"})


def spoiled(data: bytes, header: int, choose: random.Random) -> bytes:
    """Change a header in up to four places: a byte, a number, a piece taken out, doubled or moved, the end cut off."""
    new = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(min(header, len(new)) or 1)
        size = choose.choice((1, 4, 8))
        match choose.randrange(7):
            case 0:
                new[at : at + 1] = bytes([choose.randrange(256)])
            case 1 | 2:
                new[at : at + size] = pack("<Q", choose.choice(NUMBERS))[:size]
            case 3:
                del new[at : at + choose.randint(1, 24)]
            case 4:
                new[at:at] = new[at : at + choose.randint(1, 64)]
            case 5:
                other = choose.randrange(min(header, len(new)) or 1)
                new[at : at + 8] = new[other : other + 8]
            case _:
                del new[choose.randrange(len(new) or 1) :]
        if not new:
            break
    return bytes(new)


def refuse_constant(text: str) -> None:
    raise AssertionError(f"not JSON: {text}")


def look(path) -> bool:
    """Open a file and say all that `show` says; tell whether it could be read."""
    refusal = None
    try:
        model = open_model(path, max_header_bytes=1 << 20)
    except ModelFileError as error:
        refusal = error
    if refusal:
        assert len(refusal.message) <= 1_000
        assert refusal.message.isprintable()
        assert 0 <= refusal.offset <= max(path.stat().st_size, 24)
        return False
    messages = [finding.message for part in model.parts for finding in part.findings]
    assert len(messages) <= 20
    tables = [listing.types(model), listing.metadata(model), listing.tensors(model.tensors)]
    lines = [*listing.about(model, 80).splitlines(), *messages, *(found.message for found in header_findings(model))]
    lines += [line for table in tables for line in table.render("text", 80).splitlines()]
    assert all(line.isprintable() for line in lines)
    assert all(len(line) <= 1_000 for line in lines)
    document = json.loads("".join(listing.document(model, model.tensors)), parse_constant=refuse_constant)
    assert len(document["metadata"]) == len(model.parts[0].header.keys)
    return True


def campaign(path, seeds: range) -> None:
    read = 0
    for seed in seeds:
        choose = random.Random(seed)
        make, header = ((a_gguf, 700), (a_safetensors, 500))[seed % 2]
        path.write_bytes(spoiled(make(), header, choose))
        try:
            read += look(path)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert 0 < read < len(seeds)


def test_spoiled_headers(tmp_path):
    campaign(tmp_path / "model.bin", range(600))


@pytest.mark.slow
def test_many_spoiled_headers(tmp_path):
    campaign(tmp_path / "model.bin", range(600, 60_000))
