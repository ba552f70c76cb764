"""What every kind of model file boils down to."""

from pathlib import Path

import pytest

from truebits.errors import Overlap
from truebits.files.tensor import Tensor, check_overlap, named, shape_text


@pytest.mark.parametrize(
    ("name", "role", "group"),
    [
        ("blk.3.attn_norm.weight", "attn_norm", "blk.*.attn_norm.weight"),
        ("blk.31.ffn_down.weight", "ffn_down", "blk.*.ffn_down.weight"),
        ("blk.0.ffn_gate_inp.weight", "ffn_gate_inp", "blk.*.ffn_gate_inp.weight"),
        ("blk.0.attn_q.bias", "attn_q", "blk.*.attn_q.bias"),
        ("blk.1.ssm_a", "ssm_a", "blk.*.ssm_a"),
        ("output_norm.weight", "output_norm", "output_norm.weight"),
        ("token_embd.weight", "token_embd", "token_embd.weight"),
        ("v.blk.7.ln1.bias", "ln1", "v.blk.*.ln1.bias"),
        ("rope_freqs.weight", "rope_freqs", "rope_freqs.weight"),
        (
            "model.layers.12.self_attn.q_proj.weight",
            "self_attn.q_proj",
            "model.layers.*.self_attn.q_proj.weight",
        ),
        (
            "model.layers.3.mlp.experts.7.down_proj.weight",
            "down_proj",
            "model.layers.*.mlp.experts.*.down_proj.weight",
        ),
        ("model.embed_tokens.weight", "model.embed_tokens", "model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head", "lm_head.weight"),
        ("", "", ""),
    ],
)
def test_role_and_group(name, role, group):
    got = Tensor(name, "F32", (8,), 0, 32, 8)
    assert (got.role, got.group) == (role, group)


def at(offset, nbytes, name="a"):
    return Tensor(name, "F32", (nbytes // 4,), offset, nbytes, nbytes // 4)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([], None),
        ([at(0, 8), at(8, 8)], None),
        ([at(8, 8), at(0, 8)], None),
        ([at(0, 8), at(4, 0), at(4, 0)], None),
        ([at(0, 8), at(7, 8, "b")], "tensor b starts at 7, inside a, which ends at 8"),
        ([at(0, 4, "b"), at(0, 8)], "tensor a starts at 0, inside b, which ends at 4"),
        ([at(0, 64), at(16, 0), at(32, 4, "c")], "tensor c starts at 32, inside a, which ends at 64"),
    ],
)
def test_overlap(tensors, expected):
    if expected is None:
        check_overlap(Path("m"), tensors)
    else:
        with pytest.raises(Overlap, match=expected) as caught:
            check_overlap(Path("m"), tensors)
        assert str(caught.value.offset) in expected


def test_names_are_said_safely():
    odd = at(0, 8, "\x1b[31m" + "x" * 90)
    assert odd.label.startswith(r"\x1b[31m")
    assert odd.about() == {"name": odd.label, "type": "F32", "shape": (2,), "values": 2}
    assert named([odd]).startswith(r"tensor \x1b[31mxxx")
    assert len(named([odd])) == len("tensor ") + 60
    assert named([at(0, 8), odd, odd]) == "3 tensors (first: a)"


@pytest.mark.parametrize(("shape", "expected"), [((), "scalar"), ((3,), "3"), ((2, 4, 8), "2 x 4 x 8")])
def test_shape_text(shape, expected):
    assert shape_text(shape) == expected
