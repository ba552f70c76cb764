"""Traces of models whose history is known, because the tests' own converter made them."""

from __future__ import annotations

import json
from dataclasses import replace

import gguf
import ml_dtypes
import numpy as np
import pytest

import truebits as tb
from converter import (
    BLOCKS,
    DTYPES,
    EXPERTS,
    HIDDEN,
    checkpoint,
    converted,
    permuted,
    stored,
    write_folder,
    write_gguf,
    write_safetensors,
)
from extras import NEEDS_EVAL
from running import run
from truebits.errors import NeedsGGUF, NotTheSource, SelectionError, UsageError
from truebits.lineage import layout
from truebits.lineage.block_error import BOUNDS
from truebits.lineage.siblings import siblings
from truebits.lineage.trace import trace
from truebits.lineage.ways import Verdict

FAMILIES = ("llama", "gemma", "mixtral", "mamba2")
MATRIX, NORM = "blk.1.ffn_down.weight", "blk.1.attn_norm.weight"


@pytest.fixture(scope="module")
def drawn():
    """All checkpoints, drawn once."""
    return {(family, dtype): checkpoint(family, dtype) for family in FAMILIES for dtype in ("BF16", "F16", "F32")}


@pytest.fixture(scope="module")
def folders(drawn, tmp_path_factory):
    """The same as folders."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {key: write_folder(root / "-".join(key), tensors) for key, tensors in drawn.items()}


@pytest.fixture
def made(tmp_path, drawn, folders):
    """Return what converts a checkpoint, lets somebody change it, and traces the result."""

    def make(family="llama", dtype="BF16", type="F32", change=None, source=None, **options):
        tensors = converted(family, drawn[family, dtype])
        if change is not None:
            change(tensors)
        path = write_gguf(tmp_path / "model.gguf", family, tensors, type)
        return trace(path, source or folders[family, dtype], **options)

    return make


def verdicts(found):
    return {tensor.name: tensor.verdict for tensor in found.tensors}


def of(found, name):
    return next(tensor for tensor in found.tensors if tensor.name == name)


def faults(found):
    return {tensor.name: tensor.verdict for tensor in found.tensors if tensor.verdict.is_fault}


EXACT = {("BF16", "BF16"), ("F16", "F16"), ("F32", "F32"), ("BF16", "F32"), ("F16", "F32")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "Q8_0"])
def test_what_was_converted_is_found_to_be_so(made, family, dtype, type):
    found = made(family, dtype, type)
    assert found.is_faithful, faults(found)
    assert found.is_known
    assert not found.unmatched
    expected = {
        **{"F32": Verdict.IDENTICAL if dtype == "F32" else Verdict.UPCAST, "Q8_0": Verdict.SAME_BLOCKS},
        **{"F16": Verdict.ROUNDED, "BF16": Verdict.ROUNDED},
    }[type]
    if (dtype, type) in EXACT and dtype == type:
        expected = Verdict.IDENTICAL
    name = "blk.0.ssm_in.weight" if family == "mamba2" else "blk.0.attn_v.weight"
    assert of(found, name).verdict == expected
    assert of(found, "output_norm.weight").verdict in (Verdict.IDENTICAL, Verdict.UPCAST)
    assert found.conclusion.startswith("converted from this checkpoint: 5 of 5 norms bit-identical to the ")
    assert f"the {dtype} source" in found.conclusion


@NEEDS_EVAL
@pytest.mark.parametrize("type", ["Q4_0", "Q2_K", "Q4_K", "Q6_K"])
def test_what_was_quantized_is_the_reference_quantizers(made, type):
    found = made(type=type)
    assert found.is_faithful
    matrices = [tensor for tensor in found.tensors if tensor.part == "matrices"]
    assert {(tensor.verdict, tensor.detail, tensor.type) for tensor in matrices} == {(Verdict.SAME_BLOCKS, "", type)}
    assert all(0 < tensor.error < 0.5 for tensor in matrices)
    assert found.conclusion.endswith(f"16 of 16 matrices byte for byte the reference quantizer's {type}")


def test_transforms_are_told(made):
    found = made()
    assert of(found, "blk.0.attn_q.weight").transforms == ("permuting heads",)
    assert of(found, "blk.0.attn_q.bias").transforms == ("permuting heads",)
    assert of(found, "blk.0.attn_v.weight").transforms == ()
    assert of(found, "blk.0.attn_q.weight").described == "upcast, exact; transformed by permuting heads"
    found = made("mixtral")
    experts = of(found, "blk.1.ffn_up_exps.weight")
    assert experts.transforms == ("stacking",)
    assert experts.sources == tuple(f"model.layers.1.block_sparse_moe.experts.{i}.w3.weight" for i in range(EXPERTS))
    found = made("gemma")
    assert of(found, "blk.0.attn_norm.weight").transforms == ("adding 1",)
    assert "5 of 5 norms bit-identical to the BF16 source, adding 1" in found.conclusion
    found = made("mamba2")
    assert of(found, "blk.0.ssm_a").described == "upcast, exact (to one unit in the last place); transformed by -exp"
    assert "to one unit in the last place the BF16 source, -exp" in found.conclusion


def test_experts_that_are_stacked_already_and_split(tmp_path):
    """Gate and up projections of all experts in one tensor, as Qwen has them since transformers 5."""
    random = np.random.default_rng(3)
    shapes = {"gate_up_proj": (EXPERTS, 2 * 96, HIDDEN), "down_proj": (EXPERTS, HIDDEN, 96)}
    tensors = {
        f"model.language_model.layers.{block}.mlp.experts.{name}": random.standard_normal(shape).astype(np.float16)
        for block in range(BLOCKS)
        for name, shape in shapes.items()
    }
    source = write_folder(tmp_path / "source", tensors)
    made = {}
    for block in range(BLOCKS):
        both = tensors[f"model.language_model.layers.{block}.mlp.experts.gate_up_proj"].astype(np.float32)
        made[f"blk.{block}.ffn_gate_exps.weight"] = both[:, :96]
        made[f"blk.{block}.ffn_up_exps.weight"] = both[:, 96:]
        down = tensors[f"model.language_model.layers.{block}.mlp.experts.down_proj"]
        made[f"blk.{block}.ffn_down_exps.weight"] = down.astype(np.float32)
    for type in ("F16", "Q8_0"):
        if type == "Q8_0":  # whole blocks
            made = {name: values for name, values in made.items() if "down" not in name}
        found = trace(write_gguf(tmp_path / f"{type}.gguf", "qwen3moe", made, type), source)
        assert {*verdicts(found).values()} - {Verdict.MISSING} == {
            Verdict.IDENTICAL if type == "F16" else Verdict.SAME_BLOCKS
        }
        assert of(found, "blk.1.ffn_up_exps.weight").transforms == ("splitting",)
    made["blk.0.ffn_up_exps.weight"] = made["blk.0.ffn_gate_exps.weight"]
    found = trace(write_gguf(tmp_path / "twice.gguf", "qwen3moe", made, "F16"), source, exclude="down")
    assert faults(found) == {"blk.0.ffn_up_exps.weight": Verdict.ALTERED}


def test_matrices_that_are_transposed(tmp_path):
    """GPT-2's Conv1D."""
    random = np.random.default_rng(3)
    shapes = {"c_attn": (64, 192), "c_proj": (64, 64)}
    tensors = {
        f"h.{block}.attn.{name}.weight": random.standard_normal(shape).astype(np.float32)
        for block in range(BLOCKS)
        for name, shape in shapes.items()
    }
    source = tmp_path / "gpt2.safetensors"
    write_safetensors(source, tensors)
    names = {"c_attn": "attn_qkv", "c_proj": "attn_output"}
    made = {
        f"blk.{block}.{names[name]}.weight": np.ascontiguousarray(tensors[f"h.{block}.attn.{name}.weight"].T)
        for block in range(BLOCKS)
        for name in shapes
    }
    found = trace(write_gguf(tmp_path / "a.gguf", "gpt2", made), source)
    assert {*verdicts(found).values()} == {Verdict.IDENTICAL}
    assert of(found, "blk.1.attn_qkv.weight").transforms == ("transposing",)
    name = "blk.0.attn_output.weight"
    made[name] = made[name].T.copy()
    found = trace(write_gguf(tmp_path / "b.gguf", "gpt2", made), source)
    assert faults(found) == {name: Verdict.ALTERED}
    assert of(found, name).detail == "the source's values as they are, without transposing"


def test_what_is_rearranged_is_not_compared_without_the_sizes_that_tell_how(tmp_path):
    """Falcon's fused QKV: known to be put in another order, which is not a fault."""
    random = np.random.default_rng(3)
    tensors = {
        name: random.standard_normal((48, 32)).astype(np.float32)
        for name in (
            "transformer.h.0.self_attention.query_key_value.weight",
            "transformer.h.0.self_attention.dense.weight",
            "transformer.h.0.mlp.dense_h_to_4h.weight",
        )
    }
    source = tmp_path / "falcon.safetensors"
    write_safetensors(source, tensors)
    values = list(tensors.values())
    made = {
        "blk.0.attn_qkv.weight": np.roll(values[0], 16, axis=0),
        "blk.0.attn_output.weight": values[1],
        "blk.0.ffn_up.weight": values[2],
    }
    found = trace(write_gguf(tmp_path / "a.gguf", "falcon", made, block_count=1), source)
    got = of(found, "blk.0.attn_qkv.weight")
    assert (got.verdict, got.detail) == (
        Verdict.UNCOMPARED,
        "config.json has no num_attention_heads and no n_head and no n_heads",
    )
    assert not found.is_verified
    assert found.is_faithful
    assert found.conclusion.endswith("2 of 2 matrices bit-identical to the F32 source; 1 not compared")


def test_values_that_the_narrower_type_has_are_not_rounded(made, tmp_path, drawn):
    tensors = dict(drawn["llama", "F32"])
    halves = np.round(tensors["model.layers.1.mlp.down_proj.weight"] * 512) / 512
    tensors["model.layers.1.mlp.down_proj.weight"] = halves.astype(np.float32)
    source = write_folder(tmp_path / "halves", tensors)
    path = write_gguf(tmp_path / "halves.gguf", "llama", converted("llama", tensors), "F16")
    got = of(trace(path, source), MATRIX)
    assert (got.verdict, got.changed) == (Verdict.NARROWED, 0)


def bf16(values):
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def fp16(values):
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def cut(values, bits=16):
    return (values.view(np.uint32) >> bits << bits).view(np.float32)


@pytest.mark.parametrize(
    ("way", "expected", "detail"),
    [
        (bf16, Verdict.ROUNDED, "BF16"),
        (cut, Verdict.TRUNCATED, "BF16"),
        (fp16, Verdict.THROUGH_FP16, ""),
    ],
)
@pytest.mark.parametrize("name", [MATRIX, NORM, "blk.0.attn_q.weight"])
def test_f32_that_went_through_less(made, way, expected, detail, name):
    def change(tensors):
        before[:] = [tensors[name]]
        tensors[name] = way(tensors[name])

    before: list[np.ndarray] = []
    found = made(dtype="F32", change=change)
    got = of(found, name)
    assert (got.verdict, got.detail) == (expected, detail)
    assert got.changed == np.count_nonzero(way(before[0]) != before[0])
    assert found.is_faithful


def test_truncation_instead_of_rounding(made):
    """16-bit words whose low half was dropped, where converters round."""

    def change(tensors):
        words = (tensors[MATRIX].view(np.uint32) >> 16).astype(np.uint16)
        tensors[MATRIX] = words

    found = made(dtype="F32", type="BF16", change=change)
    got = verdicts(found)
    assert got.pop(MATRIX) is Verdict.TRUNCATED
    assert Verdict.TRUNCATED not in got.values()
    assert of(found, MATRIX).described == "truncated to BF16"


@pytest.mark.parametrize("largest", [65504.0, np.inf])
def test_bf16_through_fp16_with_values_beyond_it(made, tmp_path, drawn, largest):
    tensors = dict(drawn["llama", "BF16"])
    name = "model.layers.1.mlp.down_proj.weight"
    values = tensors[name].astype(np.float32)
    values[3, 5], values[7, 9], values[0, 0] = 1e5, -7e4, 1e-30
    tensors[name] = values.astype(ml_dtypes.bfloat16)
    source = write_folder(tmp_path / "large", tensors)

    through = converted("llama", tensors)
    halves = fp16(through[MATRIX])
    through[MATRIX] = np.where(np.isinf(halves), np.copysign(np.float32(largest), halves), halves)
    got = of(trace(write_gguf(tmp_path / "through.gguf", "llama", through), source), MATRIX)
    assert got.verdict is Verdict.THROUGH_FP16
    assert got.detail == ("clipped at 65504" if largest == 65504 else "")
    assert got.changed >= 3

    got = of(trace(write_gguf(tmp_path / "again.gguf", "llama", through, "BF16"), source), MATRIX)
    assert (got.verdict, got.detail) == (Verdict.THROUGH_FP16, "clipped at 65504" if largest == 65504 else "")

    got = of(trace(write_gguf(tmp_path / "half.gguf", "llama", through, "F16"), source), MATRIX)
    assert got.verdict is Verdict.ROUNDED
    assert got.detail == ("FP16, clipped at 65504" if largest == 65504 else "FP16, 2 became Inf")


def test_gemma_norms_through_fp16(made, drawn):
    """Rounded before 1 was added, and after."""

    def change(tensors):
        tensors[NORM] = fp16(drawn["gemma", "F32"]["model.layers.1.input_layernorm.weight"]) + np.float32(1)

    found = made("gemma", "F32", change=change)
    assert of(found, NORM).verdict is Verdict.THROUGH_FP16
    found = made("gemma", "F32", change=lambda tensors: tensors.update({NORM: bf16(tensors[NORM])}))
    assert (of(found, NORM).verdict, of(found, NORM).detail) == (Verdict.ROUNDED, "BF16 after computing")


def flipped(values, index, bit):
    words = values.reshape(-1).view(np.uint32).copy()
    words[index] ^= np.uint32(1 << bit)
    return words.view(np.float32).reshape(values.shape)


@pytest.mark.parametrize("bit", [0, 16, 31])
@pytest.mark.parametrize("name", [NORM, MATRIX, "blk.0.attn_k.weight"])
def test_one_flipped_bit(made, name, bit):
    index = 101

    def change(tensors):
        right[:] = [tensors[name].reshape(-1)[index]]
        tensors[name] = flipped(tensors[name], index, bit)

    right: list[np.float32] = []
    found = made(change=change)
    assert faults(found) == {name: Verdict.ALTERED}
    got = of(found, name)
    assert (got.differing, got.first.at) == (1, index)
    assert got.first.b == right[0]
    assert got.first.a == flipped(right[0][None], 0, bit)[0]
    assert int(got.first.word_a, 16) ^ int(got.first.word_b, 16) == 1 << bit
    assert not found.is_faithful
    assert found.conclusion.startswith("not this checkpoint as it is: ")
    assert "1 of " in found.conclusion
    assert "altered" in found.conclusion


@pytest.mark.parametrize("type", ["F16", "BF16"])
def test_one_flipped_bit_of_16(made, type):
    """Against a source in F32, where all others are rounded; and against one of the same type."""

    def change(tensors):
        halves = stored(tensors[MATRIX], type)
        words = halves.view(np.uint16).copy()
        words[2, 7] ^= 1
        tensors[MATRIX] = words.view(np.float16) if type == "F16" else words

    for dtype in ("F32", type):
        found = made(dtype=dtype, type=type, change=change)
        assert faults(found) == {MATRIX: Verdict.ALTERED}
        got = of(found, MATRIX)
        assert (got.differing, got.first.at) == (1, 2 * HIDDEN + 7)


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0", "Q5_1", "MXFP4"])
def test_one_flipped_bit_of_a_block(made, type):
    """The lowest bit of one code: one step, which an error bound alone might let pass."""
    _, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type]]

    def change(tensors):
        blocks = stored(tensors[MATRIX], type).copy()
        blocks.reshape(-1)[5 * nbytes + nbytes - 1] ^= 1
        tensors[MATRIX] = blocks

    found = made(type=type, change=change)
    assert faults(found) == {MATRIX: Verdict.ALTERED}
    got = of(found, MATRIX)
    assert got.first.at // 32 == 5
    assert found.is_faithful is False


@NEEDS_EVAL
@pytest.mark.parametrize(("at", "bit"), [(100, 1), (1, 0x40)])
def test_a_flipped_bit_of_a_k_quant(made, at, bit):
    """The lowest bit of one code, and one of a scale."""

    def change(tensors):
        blocks = stored(tensors[MATRIX], "Q4_K").copy()
        blocks.reshape(-1)[3 * 144 + at] ^= bit
        tensors[MATRIX] = blocks

    found = made(type="Q4_K", change=change)
    assert faults(found) == {MATRIX: Verdict.ALTERED}
    assert of(found, MATRIX).first.at // 256 == 3


def test_two_tensors_swapped(made):
    pair = "blk.0.ffn_up.weight", "blk.1.ffn_up.weight"

    def change(tensors):
        tensors[pair[0]], tensors[pair[1]] = tensors[pair[1]], tensors[pair[0]]

    for type in ("F32", "BF16", "Q8_0"):
        assert faults(made(type=type, change=change)) == dict.fromkeys(pair, Verdict.ALTERED)


def test_two_experts_swapped(made):
    name = "blk.0.ffn_gate_exps.weight"

    def change(tensors):
        tensors[name] = tensors[name][[0, 2, 1, 3]]

    for type in ("BF16", "Q8_0"):
        found = made("mixtral", type=type, change=change)
        assert faults(found) == {name: Verdict.ALTERED}
        assert of(found, name).first.at // HIDDEN**2 == 1


@pytest.mark.parametrize("type", ["F32", "BF16", "Q8_0", "Q4_0"])
def test_a_permutation_that_was_forgotten(made, drawn, type):
    name = "blk.0.attn_q.weight"

    def change(tensors):
        tensors[name] = drawn["llama", "BF16"]["model.layers.0.self_attn.q_proj.weight"].astype(np.float32)

    found = made(type=type, change=change)
    assert faults(found) == {name: Verdict.ALTERED}
    assert of(found, name).detail == "the source's values as they are, without permuting heads"


def test_a_permutation_for_another_number_of_heads(made, drawn):
    name = "blk.0.attn_q.weight"

    def change(tensors):
        values = drawn["llama", "BF16"]["model.layers.0.self_attn.q_proj.weight"].astype(np.float32)
        tensors[name] = permuted(values, 8)

    assert faults(made(change=change)) == {name: Verdict.ALTERED}


def test_a_norm_without_its_one(made):
    def change(tensors):
        tensors[NORM] = tensors[NORM] - np.float32(1)

    found = made("gemma", "BF16", change=change)
    assert faults(found) == {NORM: Verdict.ALTERED}


def test_norms_as_mistral_keeps_them_need_no_permutation(tmp_path, drawn):
    """Names of consolidated checkpoints: gguf-py maps them, and their order is ggml's already."""
    renamed = {
        name.replace("model.layers", "layers").replace("self_attn.q_proj", "attention.wq"): array
        for name, array in drawn["llama", "BF16"].items()
        if "q_proj.weight" in name
    }
    others = {name: array for name, array in drawn["llama", "BF16"].items() if "q_proj.weight" not in name}
    source = write_folder(tmp_path / "consolidated", {**others, **renamed})
    tensors = converted("llama", drawn["llama", "BF16"])
    for block in range(BLOCKS):
        plain = drawn["llama", "BF16"][f"model.layers.{block}.self_attn.q_proj.weight"].astype(np.float32)
        tensors[f"blk.{block}.attn_q.weight"] = plain
    found = trace(write_gguf(tmp_path / "model.gguf", "llama", tensors), source)
    assert found.is_faithful
    assert of(found, "blk.0.attn_q.weight").transforms == ()


def test_one_missing(made):
    found = made(change=lambda tensors: tensors.pop(MATRIX))
    assert faults(found) == {MATRIX: Verdict.MISSING}
    assert of(found, MATRIX).sources == ("model.layers.1.mlp.down_proj.weight",)
    assert found.conclusion.endswith("; 1 missing")


def test_one_extra(made):
    found = made(change=lambda tensors: tensors.update({"blk.1.attn_sinks.weight": tensors[NORM]}))
    assert faults(found) == {"blk.1.attn_sinks.weight": Verdict.EXTRA}
    assert found.conclusion.endswith("; 1 extra")


def test_what_converters_make_and_leave_out_is_no_fault(made, tmp_path, drawn):
    def change(tensors):
        del tensors["output.weight"]
        tensors["rope_freqs.weight"] = np.ones(32, np.float32)

    tied = {**drawn["llama", "BF16"], "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(32, np.float32)}
    found = made(change=change, source=write_folder(tmp_path / "tied", tied, tie_word_embeddings=True))
    assert found.is_faithful
    assert of(found, "rope_freqs.weight").verdict is Verdict.MADE
    assert found.conclusion.endswith("; 1 made by the converter")
    assert faults(made(change=change)) == {"output.weight": Verdict.MISSING}


def test_an_output_that_is_the_embedding(made, tmp_path, drawn):
    tied = {name: array for name, array in drawn["llama", "BF16"].items() if name != "lm_head.weight"}
    source = write_folder(tmp_path / "tied", tied, tie_word_embeddings=True)

    def change(tensors):
        tensors["output.weight"] = tensors["token_embd.weight"]

    found = made(change=change, source=source)
    assert of(found, "output.weight").verdict is Verdict.UPCAST
    assert of(found, "output.weight").sources == ("model.embed_tokens.weight",)
    assert faults(made(source=source)) == {"output.weight": Verdict.ALTERED}


def test_rows_of_tokens_that_the_vocabulary_does_not_have(made):
    name = "token_embd.weight"
    found = made("gemma", change=lambda tensors: tensors.update({name: tensors[name][:30]}))
    assert found.is_faithful
    assert (of(found, name).left_out, of(found, name).values) == (2, 30 * HIDDEN)


def test_another_fine_tune(made, tmp_path):
    """Other weights of the same shapes: everything is altered, and nothing is called a conversion."""
    other = write_folder(tmp_path / "other", checkpoint(seed=1))
    for type in ("F32", "Q8_0", "Q4_0"):
        found = made(type=type, source=other)
        assert {*verdicts(found).values()} == {Verdict.ALTERED}
        assert found.conclusion.startswith("not this checkpoint as it is: 5 of 5 norms altered")


def test_a_fine_tune_that_changed_little(made, tmp_path, drawn):
    """One part in twenty: Q8_0 cannot make that of the source, nor can the norms hide it."""
    random = np.random.default_rng(5)
    tuned = {
        name: (array.astype(np.float32) * (1 + 0.05 * random.standard_normal(array.shape))).astype(array.dtype)
        for name, array in drawn["llama", "BF16"].items()
    }
    found = made(type="Q8_0", source=write_folder(tmp_path / "tuned", tuned))
    assert {*verdicts(found).values()} == {Verdict.ALTERED}


@NEEDS_EVAL
def test_a_fine_tune_within_the_bounds(made, tmp_path, drawn):
    """One part in 27, in Q6_K: bounds that fit all weights let it pass, the reference quantizer on these does not."""
    random = np.random.default_rng(5)
    tensors = dict(drawn["llama", "BF16"])
    name = "model.layers.1.mlp.down_proj.weight"
    values = tensors[name].astype(np.float32)
    tensors[name] = (values * (1 + 0.037 * random.standard_normal(values.shape))).astype(ml_dtypes.bfloat16)
    found = made(type="Q6_K", source=write_folder(tmp_path / "tuned", tensors))
    assert faults(found) == {MATRIX: Verdict.ALTERED}
    assert of(found, MATRIX).error < BOUNDS["Q6_K"].rms
    assert of(found, MATRIX).detail.endswith(" codes are not the nearest to their values")


def test_what_was_requantized_from_another_type_says_so(made):
    def through(type, values):
        number = gguf.GGMLQuantizationType[type]
        return gguf.quants.dequantize(gguf.quants.quantize(values, number), number)

    for own, other in (("F32", "Q8_0"), ("BF16", "Q4_0"), ("Q4_0", "Q8_0"), ("Q8_0", "Q5_1")):
        found = made(type=own, change=lambda tensors, of=other: tensors.update({MATRIX: through(of, tensors[MATRIX])}))
        assert faults(found) == {MATRIX: Verdict.ALTERED}
        assert of(found, MATRIX).detail == f"requantized from {other} of this checkpoint"


def test_a_quantizer_of_other_choices_is_consistent(made):
    """Scales a little larger than the reference's, as a search may choose them."""

    def change(tensors):
        values = tensors[MATRIX].reshape(-1, 32)
        scales = (np.abs(values).max(axis=1, keepdims=True) / 127 * 1.002).astype(np.float16)
        codes = np.round(values / scales.astype(np.float32)).astype(np.int8)
        blocks = np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=1)
        tensors[MATRIX] = blocks.reshape(HIDDEN, -1)

    found = made(type="Q8_0", change=change)
    got = of(found, MATRIX)
    assert got.verdict is Verdict.CONSISTENT
    assert "times the reference quantizer's" in got.detail
    assert found.is_faithful


def test_quantized_through_fp16(made, tmp_path, drawn):
    """The usual way: a checkpoint in BF16, an F16 GGUF, and that quantized."""
    tensors = dict(drawn["llama", "BF16"])
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = (tensors[name].astype(np.float32) * 1e-4).astype(ml_dtypes.bfloat16)
    source = write_folder(tmp_path / "small", tensors)
    found = made(
        type="Q8_0",
        source=source,
        change=lambda made: made.update({MATRIX: fp16(converted("llama", tensors)[MATRIX])}),
    )
    assert (of(found, MATRIX).verdict, of(found, MATRIX).detail) == (Verdict.SAME_BLOCKS, "through FP16")


def test_a_tensor_that_is_read_in_pieces(made, monkeypatch):
    """Pieces that end inside experts, and after each head."""
    whole = {type: made("mixtral", type=type) for type in ("BF16", "Q8_0")}
    monkeypatch.setattr(layout, "PIECE_VALUES", 5 * 256 * 64 // 2)
    for type, expected in whole.items():
        got = made("mixtral", type=type)
        assert [replace(tensor, error=None) for tensor in got.tensors] == [
            replace(tensor, error=None) for tensor in expected.tensors
        ]
        errors = [tensor.error for tensor in got.tensors]
        assert errors == [pytest.approx(tensor.error) if tensor.error else None for tensor in expected.tensors]

    def change(tensors):
        name = "blk.1.ffn_up_exps.weight"
        tensors[name] = flipped(tensors[name], 200_001, 3)

    got = of(made("mixtral", change=change), "blk.1.ffn_up_exps.weight")
    assert (got.verdict, got.first.at, got.differing) == (Verdict.ALTERED, 200_001, 1)


def test_only_the_start_is_quantized_again_unless_asked(made, monkeypatch):
    monkeypatch.setattr("truebits.lineage.requantize.REFERENCE_VALUES", 32 * 64)
    got = of(made(type="Q8_0"), MATRIX)
    expected = Verdict.CONSISTENT, "64 of first 64 blocks the reference quantizer's bytes"
    assert (got.verdict, got.detail) == expected
    assert of(made(type="Q8_0", thorough=True), MATRIX).verdict is Verdict.SAME_BLOCKS


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 512}, "hidden_size is 512, the GGUF's embedding_length is 256"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, the GGUF's block_count is 2"),
        ({"num_attention_heads": 8}, "num_attention_heads is 8, the GGUF's attention.head_count is 4"),
        ({"text_config": {"num_hidden_layers": 7}}, "num_hidden_layers is 7"),
    ],
)
def test_another_model_by_its_config(made, tmp_path, drawn, config, message):
    source = write_folder(tmp_path / "other", drawn["llama", "BF16"], **config)
    with pytest.raises(NotTheSource, match=message):
        made(source=source)


def test_layers_that_predict_more_tokens_may_be_there(made, tmp_path, drawn):
    tensors = {**drawn["llama", "BF16"], "model.layers.2.enorm.weight": np.ones(HIDDEN, np.float32)}
    source = write_folder(tmp_path / "more", tensors, num_hidden_layers=2, num_nextn_predict_layers=1)
    found = made(source=source)
    assert found.is_faithful
    assert found.unmatched == ("model.layers.2.enorm.weight",)


def test_a_file_without_a_config(made, tmp_path, drawn, folders):
    path = tmp_path / "alone.safetensors"
    write_safetensors(path, drawn["llama", "BF16"])
    assert made(source=path).is_faithful
    longer = {**drawn["llama", "BF16"], "model.layers.2.input_layernorm.weight": np.ones(HIDDEN, np.float32)}
    write_safetensors(path, longer)
    with pytest.raises(NotTheSource, match="it has 3 layers, the GGUF has 2"):
        made(source=path)


def test_other_shapes_and_other_names(made, tmp_path, drawn):
    path = tmp_path / "other.safetensors"
    write_safetensors(path, {name: array[: len(array) // 2] for name, array in drawn["llama", "BF16"].items()})
    with pytest.raises(NotTheSource, match="of its 23 tensors, 0 are in the checkpoint by name and shape"):
        made(source=path)
    write_safetensors(path, {f"unet.{name}": array for name, array in drawn["llama", "BF16"].items()})
    with pytest.raises(NotTheSource, match=r"token_embd\.weight: it has no namesake there"):
        made(source=path)


def test_one_tensor_of_another_shape(made, tmp_path, drawn):
    tensors = dict(drawn["llama", "BF16"])
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"][:, :128]
    found = made(source=write_folder(tmp_path / "other", tensors))
    assert faults(found) == {MATRIX: Verdict.ALTERED}
    assert of(found, MATRIX).detail == "its shape is 256 x 256, the source's 256 x 128"


def test_what_cannot_be_traced(made, tmp_path, drawn, folders):
    path = write_gguf(tmp_path / "a.gguf", "llama", converted("llama", drawn["llama", "BF16"]))
    with pytest.raises(UsageError, match="both are GGUFs"):
        trace(path, path, thorough=True)
    with pytest.raises(NeedsGGUF):
        trace(folders["llama", "BF16"], folders["llama", "BF16"])
    with pytest.raises(SelectionError):
        trace(path, folders["llama", "BF16"], "no such tensor")


def test_of_another_gguf_it_tells_what_siblings_tells(made, tmp_path, drawn):
    tensors = converted("llama", drawn["llama", "BF16"])
    paths = [write_gguf(tmp_path / f"{type}.gguf", "llama", tensors, type) for type in ("F32", "Q8_0")]
    got = trace(*paths, MATRIX)
    assert got == siblings(paths, MATRIX)
    assert got.is_verified


def test_progress_of_a_model_that_is_altered(made, tmp_path, monkeypatch):
    """It is looked at twice, and the progress never goes back."""
    monkeypatch.setattr(layout, "PIECE_VALUES", 1 << 13)
    seen: list[tuple[int, int]] = []
    other = write_folder(tmp_path / "other", checkpoint(seed=1))
    found = made(source=other, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    altered = of(found, MATRIX)
    assert 0.99 * altered.values < altered.differing <= altered.values


def test_a_checkpoint_in_parts(made, tmp_path, drawn):
    """Experts of one tensor lie in several files."""
    tensors = list(drawn["mixtral", "BF16"].items())
    folder = write_folder(tmp_path / "parts", {})
    (folder / "model.safetensors").unlink()
    for number in range(3):
        path = folder / f"model-{number + 1:05d}-of-00003.safetensors"
        write_safetensors(path, dict(tensors[number::3]))
    for type in ("BF16", "Q8_0"):
        assert made("mixtral", type=type, source=folder).is_faithful


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_a_source_in_fp8(tmp_path, dtype):
    """Exact in anything wider; with scales of its own it is what they make of it."""
    random = np.random.default_rng(4)
    names = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
    values = {f"model.layers.{i}.mlp.up_proj.weight": random.standard_normal((64, 64)).astype(dtype) for i in (0, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DTYPES, *next((name, np.dtype(one)) for name, one in names.items() if one is dtype))
        path = tmp_path / "fp8.safetensors"
        write_safetensors(path, values)
        scaled = tmp_path / "scaled.safetensors"
        write_safetensors(
            scaled, {**values, "model.layers.1.mlp.up_proj.weight_scale_inv": np.ones((1, 1), np.float32)}
        )
    made = {f"blk.{i}.ffn_up.weight": array.astype(np.float32) for i, array in enumerate(values.values())}
    for type in ("F32", "BF16", "F16"):
        model = write_gguf(tmp_path / f"{type}.gguf", "llama", made, type)
        assert {*verdicts(trace(model, path)).values()} == {Verdict.UPCAST}
        found = trace(model, scaled)
        scaled_ones = Verdict.IDENTICAL if type == "F32" else Verdict.NARROWED
        assert verdicts(found) == {"blk.0.ffn_up.weight": Verdict.UPCAST, "blk.1.ffn_up.weight": scaled_ones}
        assert found.is_faithful


def test_heads_that_differ_from_block_to_block(tmp_path, drawn):
    """Metadata as arrays: Deci, and hybrid models."""
    tensors = dict(drawn["llama", "BF16"])
    made = converted("llama", tensors)
    query = "model.layers.1.self_attn.q_proj"
    made["blk.1.attn_q.weight"] = permuted(tensors[f"{query}.weight"].astype(np.float32), 8)
    made["blk.1.attn_q.bias"] = permuted(tensors[f"{query}.bias"].astype(np.float32), 8)
    path = tmp_path / "heads.safetensors"
    write_safetensors(path, tensors)
    for heads, expected in (([4, 8], set()), ([8, 4], {"blk.0.attn_q", "blk.1.attn_q"}), ([4, 4], {"blk.1.attn_q"})):
        model = write_gguf(tmp_path / "heads.gguf", "deci", made, **{"attention.head_count": heads})
        got = faults(trace(model, path))
        assert {name.removesuffix(".weight").removesuffix(".bias") for name in got} == expected


def test_heads_are_taken_from_the_config_where_the_gguf_has_none(tmp_path, drawn, folders):
    made = converted("llama", drawn["llama", "BF16"])
    none = {"attention.head_count": None, "attention.head_count_kv": None}
    model = write_gguf(tmp_path / "none.gguf", "llama", made, **none)
    assert trace(model, folders["llama", "BF16"]).is_faithful
    path = tmp_path / "alone.safetensors"
    write_safetensors(path, drawn["llama", "BF16"])
    assert trace(model, path).is_verified  # values tell it
    blocks = write_gguf(tmp_path / "blocks.gguf", "llama", made, "Q8_0", **none)
    got = of(trace(blocks, path), "blk.0.attn_q.weight")
    assert got.verdict is Verdict.UNCOMPARED
    assert got.detail == "the number of its heads is not known: the GGUF has no attention.head_count"


@pytest.mark.parametrize("shape", [(), (1,), (3,), (6, 1), (2, 2, 2)])
def test_shapes_that_no_converter_makes(tmp_path, shape):
    """A checkpoint nobody vouches for: odd shapes are told, and break nothing."""
    random = np.random.default_rng(4)
    values = random.standard_normal(shape).astype(np.float32)
    other = random.standard_normal((4, 4)).astype(np.float32)
    path = tmp_path / "odd.safetensors"
    for name, architecture, hf in (
        ("blk.0.attn_q.weight", "llama", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.0.attn_output.weight", "gpt2", "h.0.attn.c_proj.weight"),
        ("blk.0.ffn_up_exps.weight", "qwen3moe", "model.layers.0.mlp.experts.gate_up_proj"),
    ):
        write_safetensors(path, {hf: values, "model.embed_tokens.weight": other, "wte.weight": other})
        model = write_gguf(
            tmp_path / "odd.gguf",
            architecture,
            {"token_embd.weight": other, name: np.atleast_1d(values)},
            **{"block_count": 1, "attention.head_count": 3},
        )
        found = trace(model, path)
        assert of(found, "token_embd.weight").verdict is Verdict.IDENTICAL
        assert of(found, name).verdict in (Verdict.ALTERED, Verdict.IDENTICAL, Verdict.EXTRA)


def test_a_selection(made):
    found = made(select=r"norm", exclude=r"output", change=lambda tensors: tensors.pop(MATRIX))
    assert {tensor.name for tensor in found.tensors} == {
        f"blk.{block}.{name}_norm.weight" for block in range(BLOCKS) for name in ("attn", "ffn")
    }
    assert found.is_faithful
    assert found.conclusion == "converted from this checkpoint: 4 of 4 norms bit-identical to the BF16 source"


def test_progress_reaches_the_end(made):
    seen: list[tuple[int, int]] = []
    found = made(progress=lambda done, total: seen.append((done, total)))
    total = seen[-1][1]
    assert seen[-1][0] == total == sum(4 * tensor.values for tensor in found.tensors)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_nans_and_infinities(tmp_path, drawn):
    """A NaN's payload is one of the bits; rounded, it only has to stay a NaN."""
    tensors = dict(drawn["llama", "F32"])
    name = "model.layers.1.mlp.down_proj.weight"
    values = tensors[name].copy()
    values.reshape(-1).view(np.uint32)[:4] = 0x7FC00001, 0x7F800000, 0xFF800000, 0xFFC12345
    tensors[name] = values
    source = write_folder(tmp_path / "nan", tensors)
    for type, expected in (("F32", Verdict.IDENTICAL), ("F16", Verdict.ROUNDED), ("BF16", Verdict.ROUNDED)):
        path = write_gguf(tmp_path / f"{type}.gguf", "llama", converted("llama", tensors), type)
        assert of(trace(path, source), MATRIX).verdict is expected
    other = converted("llama", tensors)
    other[MATRIX].reshape(-1).view(np.uint32)[0] ^= 1
    got = of(trace(write_gguf(tmp_path / "payload.gguf", "llama", other), source), MATRIX)
    assert (got.verdict, got.first.at, got.first.word_a, got.first.word_b) == (
        *(Verdict.ALTERED, 0),
        *("7fc00000", "7fc00001"),
    )


def test_an_adapter(tmp_path):
    """PEFT's two halves of each change; of the second the rows are permuted as those of the weight."""
    random = np.random.default_rng(2)
    start = "base_model.model.model.layers.0.self_attn"
    halves = {
        f"{start}.{name}_proj.lora_{half}.weight": random.standard_normal(shape).astype(np.float32)
        for name in "qv"
        for half, shape in (("A", (8, HIDDEN)), ("B", (HIDDEN, 8)))
    }
    halves[f"{start}.v_proj.lora_B.weight"][:] = 0
    made = {
        f"blk.0.attn_{name}.weight.lora_{half.lower()}": halves[f"{start}.{name}_proj.lora_{half}.weight"]
        for name in "qv"
        for half in "AB"
    }
    made["blk.0.attn_q.weight.lora_b"] = permuted(made["blk.0.attn_q.weight.lora_b"], 4)
    source = tmp_path / "adapter_model.safetensors"
    write_safetensors(source, halves)
    none = {"attention.head_count": None, "attention.head_count_kv": None, "block_count": None}
    for type in ("F32", "F16"):
        found = trace(write_gguf(tmp_path / f"{type}.gguf", "llama", made, type, **none), source)
        assert found.is_verified
        assert of(found, "blk.0.attn_q.weight.lora_b").transforms == ("permuting heads",)
        assert of(found, "blk.0.attn_v.weight.lora_b").detail == "all zero: the adapter does nothing there"
    made["blk.0.attn_v.weight.lora_a"][3, 3] += 1
    found = trace(write_gguf(tmp_path / "changed.gguf", "llama", made, **none), source)
    assert faults(found) == {"blk.0.attn_v.weight.lora_a": Verdict.ALTERED}


def test_a_block_that_is_promised_and_not_there(made):
    def change(tensors):
        for name in [name for name in tensors if name.startswith("blk.1.")]:
            del tensors[name]

    found = made(change=change)
    assert faults(found)["blk.1"] is Verdict.MISSING
    assert "block_count is 2, but blk.1 has no tensor" in of(found, "blk.1").detail


def test_tensors_without_a_known_name_are_found_by_value(tmp_path, drawn, folders):
    """And where they are not, nothing is said of them."""
    tensors = converted("llama", drawn["llama", "BF16"])
    norms = {f"blk.0.{name}": tensors.pop(f"blk.{name}") for name in ("0.attn_norm.weight", "1.attn_norm.weight")}
    plain = {**drawn["llama", "BF16"]}
    for block in (0, 1):
        plain[f"model.layers.{block}.strange"] = plain.pop(f"model.layers.{block}.input_layernorm.weight")
    source = write_folder(tmp_path / "strange", plain)
    found = trace(write_gguf(tmp_path / "a.gguf", "llama", {**tensors, **norms}), source)
    assert found.is_verified
    assert of(found, "blk.0.0.attn_norm.weight").detail == "known by its values, not by its name"
    norms["blk.0.0.attn_norm.weight"][0] *= 2
    found = trace(write_gguf(tmp_path / "b.gguf", "llama", {**tensors, **norms}), source)
    assert found.is_faithful
    assert not found.is_verified
    assert found.unmatched == ("model.layers.0.strange",)
    assert found.conclusion.startswith("not verified, 0.1 % of the values were not compared; of the rest: ")


def test_an_unknown_architecture_is_not_accused(tmp_path, drawn):
    """What differs much may be its converter's doing; one value may not."""
    tensors = converted("llama", drawn["llama", "BF16"])
    source = write_folder(tmp_path / "plain", drawn["llama", "BF16"])
    found = trace(write_gguf(tmp_path / "a.gguf", "afmoe", tensors), source)
    assert not found.is_known
    assert of(found, "blk.0.attn_q.weight").verdict is Verdict.UNCOMPARED
    assert (found.is_faithful, found.is_verified) == (True, False)
    tensors[NORM] = flipped(tensors[NORM], 3, 20)
    found = trace(write_gguf(tmp_path / "b.gguf", "afmoe", tensors), source)
    assert faults(found) == {NORM: Verdict.ALTERED}
    strange = {"blk.0.strange.weight": np.ones((3, 4), np.float32)}
    found = trace(write_gguf(tmp_path / "c.gguf", "afmoe", strange, block_count=2), source)
    assert found.conclusion == "not verified: no tensor could be compared with this checkpoint"


def test_the_command(tmp_path, drawn, folders):
    tensors = converted("llama", drawn["llama", "BF16"])
    path = write_gguf(tmp_path / "right.gguf", "llama", tensors, "Q8_0")
    done = run("trace", path, folders["llama", "BF16"])
    assert (done.returncode, done.stderr) == (0, "")
    expected = (
        "Converted from this checkpoint: 5 of 5 norms bit-identical to the BF16 source; 2 of 2 vectors bit-identical "
        "to the BF16 source; 16 of 16 matrices byte for byte the reference quantizer's Q8_0."
    )
    assert " ".join(done.stdout.split("\n\n")[0].split()) == expected
    assert done.stdout.splitlines()[-1] == "Read: all of 23 tensors, 804,608 values."
    assert max(map(len, done.stdout.splitlines())) <= 100
    start = next(i for i, line in enumerate(done.stdout.splitlines()) if line.startswith("blk.*.attn_q.weight"))
    said = [line.split("  ")[-1].strip() for line in done.stdout.splitlines()[start : start + 3]]
    assert " ".join(said).startswith("quantized, the same bytes as the reference quantizer; transformed by permuting")

    tensors[NORM] = flipped(tensors[NORM], 9, 20)
    path = write_gguf(tmp_path / "wrong.gguf", "llama", tensors, "BF16")
    done = run("trace", path, folders["llama", "BF16"])
    assert done.returncode == 1
    place = next(line for line in done.stdout.splitlines() if line.startswith(NORM))
    assert place.split()[:3] == [NORM, "1", "9"]
    done = run("trace", path, folders["llama", "BF16"], "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["schema"] == "truebits.trace/1"
    assert document["faithful"] is False
    assert document["counts"]["altered"] == 1
    got = next(tensor for tensor in document["tensors"] if tensor["verdict"] == "altered")
    assert (got["name"], got["differing"], got["first"]["at"]) == (NORM, 1, 9)
    assert document["conclusion"].startswith("not this checkpoint as it is: 4 of 5 norms bit-identical to the BF16")
    done = run("trace", path, folders["llama", "BF16"], "-o", "csv")
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (1, 1 + len(document["tensors"]))
    assert lines[0].startswith("tensor,type,source_type,source,values,verdict,")
    done = run("trace", path, folders["llama", "BF16"], "-o", "md", "-L", "norm")
    assert (done.returncode, done.stdout[0]) == (0, "|")

    done = run("trace", path, folders["mamba2", "BF16"])
    assert done.returncode == 2
    assert "is not what" in done.stderr or "not what this GGUF was made of" in done.stderr
    assert tb.trace(path, folders["llama", "BF16"]).is_faithful is False
