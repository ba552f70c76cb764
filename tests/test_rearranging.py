"""What converters split, join and reorder, on numbers that tell where they came from."""

import numpy as np
import pytest

from converter import permuted as by_rows
from truebits.lineage.layout import strips
from truebits.lineage.rearranging import TABLE, permuted, targets


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("shape", [(16, 3), (16,), (8, 2)])
def test_permuted_puts_halves_in_pairs(heads, shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    got = permuted(values, heads)
    assert got.reshape(shape).tolist() == by_rows(values, heads).tolist()


@pytest.mark.parametrize(("rows", "heads"), [(16, 3), (6, 2), (2, 2)])
def test_rows_that_are_no_heads(rows, heads):
    if rows % (2 * heads):
        with pytest.raises(ValueError, match=f"its {rows} rows are not {heads} heads of an even size"):
            permuted(np.zeros((rows, 2)), heads)


class Facts:
    """What a header and a config.json say."""

    def __init__(self, architecture, **sizes):
        self.architecture, self.sizes = architecture, sizes

    def size(self, *keys):
        found = [self.sizes[key] for key in keys if key in self.sizes]
        if not found:
            raise ValueError(f"config.json has no {' and no '.join(keys)}")
        return found[0]


HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def made(name, facts, known, source):
    """Return what each target gets of a source, flat, by name."""
    found = {}
    for target in targets(name, known, facts):
        laid = strips([source.shape], target.arrange)
        flat = source.ravel()
        parts = [
            piece.gather(flat[piece.offset : piece.offset + piece.extent]) for one in laid for piece in one.pieces(1)
        ]
        found[target.name] = np.concatenate(parts)
    return found


def rows(count, columns=3):
    return np.arange(count * columns, dtype=np.int64).reshape(count, columns)


QKV = {f"blk.2.attn_{part}.weight" for part in "qkv"}


def test_fused_attention_in_order():
    source = rows(4 * 2 + 2 * 2 * 2)
    got = made("model.layers.2.self_attn.qkv_proj.weight", Facts("phi3", **HEADS), QKV, source)
    assert {name: values.size for name, values in got.items()} == {
        "blk.2.attn_q.weight": 24,
        "blk.2.attn_k.weight": 12,
        "blk.2.attn_v.weight": 12,
    }
    assert np.concatenate(list(got.values())).tolist() == source.ravel().tolist()


def test_fused_attention_by_groups():
    """InternLM2: each group has its queries' rows, then a key's and a value's (internlm.py)."""
    groups, each, size = 2, 2, 4
    source = rows(groups * (each + 2) * size)
    got = made("model.layers.2.attention.wqkv.weight", Facts("internlm2", **HEADS), QKV, source)
    parts = source.reshape(groups, each + 2, size, 3)
    query = np.concatenate([by_rows(head, 1) for head in parts[:, :each].reshape(-1, size, 3)])
    assert got["blk.2.attn_q.weight"].tolist() == query.ravel().tolist()
    assert got["blk.2.attn_v.weight"].tolist() == parts[:, -1].ravel().tolist()


def test_experts_that_alternate():
    """gpt-oss: gate and up stand by turns in the last dimension, stored in x out (gpt_oss.py)."""
    source = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    known = {f"blk.2.ffn_{part}_exps.weight" for part in ("gate", "up")}
    got = made("model.layers.2.mlp.experts.gate_up_proj", Facts("gpt-oss"), known, source)
    assert got["blk.2.ffn_gate_exps.weight"].tolist() == source[:, :, ::2].swapaxes(1, 2).ravel().tolist()
    assert got["blk.2.ffn_up_exps.weight"].tolist() == source[:, :, 1::2].swapaxes(1, 2).ravel().tolist()


def test_latent_keys_are_transposed():
    """DeepSeek: kv_b_proj split by head, keys transposed (deepseek.py)."""
    facts = Facts("deepseek2", num_key_value_heads=2, v_head_dim=3)
    source = rows(2 * (4 + 3), 5)
    known = {f"blk.2.attn_{part}_b.weight" for part in "kv"}
    got = made("model.layers.2.self_attn.kv_b_proj.weight", facts, known, source)
    parts = source.reshape(2, 7, 5)
    assert got["blk.2.attn_k_b.weight"].tolist() == parts[:, :4].swapaxes(1, 2).ravel().tolist()
    assert got["blk.2.attn_v_b.weight"].tolist() == parts[:, 4:].ravel().tolist()


def test_halves():
    known = {"blk.2.ffn_gate.weight", "blk.2.ffn_up.weight"}
    got = made("model.layers.2.mlp.gate_up_proj.weight", Facts("phi3"), known, rows(8))
    assert [values.tolist() for values in got.values()] == [list(range(12)), list(range(12, 24))]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("model.layers.2.self_attn.q_proj.weight", QKV),
        ("model.layers.2.self_attn.qkv_proj.weight", {"blk.2.attn_qkv.weight"}),
        ("model.layers.2.self_attn.qkv_proj.weight", {"blk.1.attn_q.weight", "blk.1.attn_k.weight"}),
        ("model.norm.weight", set()),
    ],
)
def test_what_stays_whole(name, known):
    assert targets(name, known, Facts("phi3", **HEADS)) == ()


def test_sizes_that_config_json_does_not_have():
    (target, *_) = targets("model.layers.2.self_attn.qkv_proj.weight", QKV, Facts("phi3"))
    with pytest.raises(ValueError, match=r"config.json has no num_attention_heads"):
        strips([(12, 3)], target.arrange)


def test_every_row_names_what_its_regex_finds():
    for row in TABLE:
        assert row.targets
        assert callable(row.arrange)
        assert ("\\1" in "".join(row.targets)) <= ("(" in row.source)
