"""Models of any tensors, as gguf-py writes them or byte by byte."""

import gguf
import numpy as np

from gguf_bytes import alignment, tensor
from gguf_bytes import gguf as gguf_bytes
from truebits.files.types import STORAGE_TYPES
from words import assert_same_bits, grid, mixed, profile_of

TYPE_ID = {type.name: type.number for type in STORAGE_TYPES}


def words_for(type, size, seed=0):
    """Return words of a storage type that reach all its sorts of values."""
    if type == "F32":
        return mixed(size, seed)
    return np.random.default_rng(seed).choice(grid(type), size)


def write(path, tensors, aligned=None, **settings):
    """Write a model with gguf-py. `tensors`: (type, words) by name."""
    writer = gguf.GGUFWriter(path, "llama", **settings)
    if aligned is not None:
        writer.add_custom_alignment(aligned)
    for name, (type, words) in tensors.items():
        raw = words.view(np.uint8)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[type])
    finish(writer)
    return path


def finish(writer):
    """Write what a `gguf.GGUFWriter` was given, and close it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_raw(path, tensors, aligned):
    """Write a model with data at any offset. `tensors`: (type, words) by name."""
    infos, data = [], b""
    for name, (type, words) in tensors.items():
        data += bytes(-len(data) % aligned)
        infos.append(tensor(name.encode(), (words.size,), TYPE_ID[type], len(data)))
        data += words.tobytes()
    path.write_bytes(gguf_bytes([alignment(aligned)], infos, data, aligned=aligned))
    return path


def model_bytes(contents, keys=()):
    """Return a GGUF file of (name, type id, values, bytes) tensors, each padded to 32 bytes."""
    infos, data = [], b""
    for name, type_id, values, content in contents:
        infos.append(tensor(name.encode(), (values,), type_id, len(data)))
        data += content + bytes(-len(content) % 32)
    return gguf_bytes(list(keys), infos, data)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def assert_same_file(got, expected):
    assert_same_bits(np.frombuffer(got, np.uint8), np.frombuffer(expected, np.uint8))


def assert_found(report, tensors):
    """Check that a report holds exactly the profiles of `tensors`, (type, words) by name."""
    assert set(report) == set(tensors)
    for name, (type, words) in tensors.items():
        assert report[name].type == type
        assert report[name].values == report[name].tensor.values == words.size
        assert report[name] == profile_of(words, type), name


TENSORS = {
    "token_embd.weight": ("F16", words_for("F16", 3_000, 1)),
    "blk.0.attn_norm.weight": ("F32", words_for("F32", 2_048, 2)),
    "blk.0.ffn_up.weight": ("BF16", words_for("BF16", 5_000, 3)),
    "blk.0.rope": ("F64", words_for("F64", 1_001, 4)),
    "blk.1.attn_norm.weight": ("F32", words_for("F32", 2_048, 5)),
    "blk.1.ffn_up.weight": ("BF16", words_for("BF16", 1, 6)),
    "output_norm.weight": ("F32", words_for("F32", 333, 7)),
}
"""A model of every floating-point type."""
