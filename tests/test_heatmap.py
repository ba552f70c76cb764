"""Where tensors stand in a heat map: by the names that formats and families of models give them."""

from __future__ import annotations

import pytest

from truebits.report.heatmap import NO_LAYER, grid


@pytest.mark.parametrize(
    ("name", "layer", "role"),
    [
        ("blk.3.attn_q.weight", "3", "attn_q"),
        ("blk.3.attn_q.bias", "3", "attn_q bias"),
        ("blk.*.attn_q.weight", "*", "attn_q"),
        ("blk.3", "3", "all"),
        ("model.layers.3.mlp.experts.7.w1.weight", "3", "mlp.experts.7.w1"),
        ("token_embd.weight", NO_LAYER, "token_embd"),
        ("a.1234567.b", NO_LAYER, "a.1234567.b"),
        ("", NO_LAYER, ""),
    ],
)
def test_a_name_tells_layer_and_role(name, layer, role):
    got = grid([name])
    assert (got.layers, got.roles, got.places) == ([layer], [role], {name: (0, 0)})
    assert got.has_layers is (layer != NO_LAYER)


def test_layers_are_in_their_order_and_what_has_none_is_last():
    got = grid(["token_embd.weight", "blk.10.a.weight", "blk.2.a.weight", "blk.2.b.weight"])
    assert got.layers == ["2", "10", NO_LAYER]
    assert got.roles == ["token_embd", "a", "b"]
    assert got.places["blk.10.a.weight"] == (1, 1)


def test_two_kinds_of_layers_are_two_sets_of_rows():
    got = grid(["dec.blk.0.a", "enc.blk.1.a", "enc.blk.0.a"])
    assert got.layers == ["dec.blk.0", "enc.blk.0", "enc.blk.1"]
    assert len(set(got.places.values())) == 3
