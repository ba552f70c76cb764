"""GGUFs of one model whose histories are known, told from each other."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

import truebits as tb
from models import finish
from truebits.comparing import sides
from truebits.errors import UsageError
from truebits.lineage.kin import Kin
from words import rounded


def as_bf16(values):
    return rounded(values, "bf16")


def as_fp16(values):
    return rounded(values, "fp16")


def as_is(values):
    return values


def checkpoint(seed=0):
    """Make norms around 0 and matrices, in BF16, with values that FP16 cannot hold."""
    random = np.random.default_rng(seed)
    tensors = {f"blk.{block}.attn_norm.weight": random.normal(0, 0.1, 64) for block in range(3)}
    tensors["output_norm.weight"] = random.normal(0, 2.0**-15, 64)
    tensors["blk.0.ffn_up.weight"] = random.normal(0, 0.02, (32, 64))
    return {name: as_bf16(values.astype(np.float32)) for name, values in tensors.items()}


@pytest.fixture
def model(tmp_path):
    """Give a function that writes a GGUF of a checkpoint, as an uploader would."""

    def write(name, tensors=None, norms=as_is, matrices="F32", architecture="llama", shift=0.0):
        path = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        for tensor, values in (checkpoint() if tensors is None else tensors).items():
            if values.ndim == 1:
                writer.add_tensor(tensor, norms(values) + np.float32(shift))
            else:
                type = GGMLQuantizationType[matrices]
                writer.add_tensor(tensor, gguf.quants.quantize(values, type), raw_dtype=type)
        finish(writer)
        return path

    return write


def kins(found, number=1):
    return {one.name: str(one.relations[number - 1]) for one in found.tensors}


def test_the_same_values_in_other_types(model):
    found = tb.siblings([model("a"), model("b", matrices="BF16"), model("c", matrices="F16", tensors=checkpoint())])
    assert set(kins(found).values()) == {"same"}
    assert found.conclusion(1) == "the same checkpoint: all 5 tensors of the same values"
    assert kins(found, 2)["blk.0.ffn_up.weight"] in ("same", "rounded to FP16")
    assert found.is_explained


def test_through_fp16(model):
    found = tb.siblings([model("a"), model("b", norms=as_fp16)])
    assert kins(found)["output_norm.weight"] == "rounded to FP16"
    assert kins(found)["blk.0.ffn_up.weight"] == "same"
    assert found.conclusion(1).startswith("the same checkpoint by another way: ")
    assert found.is_explained
    back = tb.siblings([model("b", norms=as_fp16), model("a")])
    assert kins(back)["output_norm.weight"] == "finer: the first is it, rounded to FP16"


def test_clipped_by_fp16(model):
    large = {name: values * np.float32(2.0**20) for name, values in checkpoint().items()}
    found = tb.siblings(
        [model("a", large), model("b", large, norms=lambda values: as_fp16(np.clip(values, -65504, 65504)))]
    )
    assert kins(found)["blk.0.attn_norm.weight"] == "rounded to FP16, clipped at 65504"


@pytest.mark.parametrize("truncated", [True, False])
def test_to_bf16(model, truncated):
    random = np.random.default_rng(5)
    full = {"output_norm.weight": random.normal(0, 0.1, 640).astype(np.float32)}

    def cut(values):
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    found = tb.siblings([model("a", full), model("b", full, norms=cut if truncated else as_bf16)])
    assert kins(found) == {"output_norm.weight": "rounded to BF16, truncated" if truncated else "rounded to BF16"}
    assert [one.origins["F32"].format for one in found.models] == ["f32", "bf16"]


def test_through_fp16_before_the_converter_added_one(model):
    """What FP16 did to the norms is seen only without the 1.0 that Gemma's converter adds."""
    full = {"output_norm.weight": np.random.default_rng(5).normal(0, 0.1, 640).astype(np.float32)}
    gemma = {"architecture": "gemma2", "shift": 1.0}
    found = tb.siblings([model("a", full, **gemma), model("b", full, norms=as_fp16, **gemma)])
    assert kins(found) == {"output_norm.weight": "rounded to FP16"}
    assert [one.origins["F32"].format for one in found.models] == ["f32", "fp16"]
    unknown = tb.siblings([model("c", full, shift=1.0), model("d", full, norms=as_fp16, shift=1.0)])
    assert kins(unknown) == {"output_norm.weight": "other values"}


def test_another_revision(model):
    found = tb.siblings([model("a"), model("b", checkpoint(seed=1)), model("c")])
    assert set(kins(found).values()) == {"other values"}
    assert found.conclusion(1).startswith("another revision")
    assert found.conclusion(2).startswith("the same checkpoint: ")
    assert not found.is_explained


@pytest.mark.parametrize("small", [True, False])
def test_one_value_is_enough(model, monkeypatch, small):
    if small:
        monkeypatch.setattr(sides, "PIECE_VALUES", 16)
    changed = checkpoint()
    changed["blk.0.ffn_up.weight"][31, 63] *= np.float32(1.5)
    found = tb.siblings([model("a"), model("b", changed)])
    assert [name for name, kin in kins(found).items() if kin != "same"] == ["blk.0.ffn_up.weight"]
    assert not found.is_explained


def test_quantized_tensors(model):
    """Each against each: whatever quantizers made of one matrix, and what they cannot have."""
    types = ("Q8_0", "Q8_0", "Q4_0", "Q5_1", "MXFP4", "F16", "F32")
    paths = [model(f"{number}", matrices=type) for number, type in enumerate(types)]
    changed = checkpoint()
    changed["blk.0.ffn_up.weight"] *= np.float32(1.1)
    paths += [model(f"other-{type}", changed, matrices=type) for type in ("Q8_0", "F32")]
    for number in range(len(types)):
        found = tb.siblings([paths[number], *paths])
        matrix = next(one for one in found.tensors if one.name == "blk.0.ffn_up.weight")
        got = [relation.kin for relation in matrix.relations]
        assert got[number] is Kin.SAME
        explained = {Kin.SAME, Kin.REQUANTIZED, Kin.ROUNDED, Kin.FINER}
        assert {*got[: len(types)]} <= explained, (types[number], got)
        assert Kin.OTHER_VALUES in got[len(types) :]
        assert found.coverage.is_complete


def test_what_was_dequantized_is_the_same(model, tmp_path):
    plain = checkpoint()
    type = GGMLQuantizationType.MXFP4
    packed = gguf.quants.quantize(plain["blk.0.ffn_up.weight"], type)
    plain["blk.0.ffn_up.weight"] = gguf.quants.dequantize(packed, type)
    found = tb.siblings([model("a", plain, matrices="BF16"), model("b", matrices="MXFP4")])
    assert set(kins(found).values()) == {"same"}


def low_rank(random):
    return (random.standard_normal((32, 2)) @ random.standard_normal((2, 64))).astype(np.float32)


@pytest.mark.parametrize(
    "types", [("Q8_0", "Q8_0"), ("Q8_0", "Q4_0"), ("Q4_0", "Q5_1"), ("F32", "Q8_0"), ("MXFP4", "F16")]
)
@pytest.mark.parametrize("how", ["lora", "swapped", "retrained", "abliterated"])
def test_what_no_quantizer_does(model, types, how):
    """In every direction: from coarse to fine and back."""
    random = np.random.default_rng(8)
    changed = checkpoint()
    name = "blk.0.ffn_up.weight"
    matrix = changed[name]
    direction = random.standard_normal(64).astype(np.float32)
    direction /= np.linalg.norm(direction)
    changed[name] = as_bf16(
        {
            "lora": matrix + low_rank(random) * np.float32(0.004),
            "swapped": matrix[::-1].copy(),
            "retrained": random.normal(0, 0.02, matrix.shape).astype(np.float32),
            "abliterated": matrix - np.outer(matrix @ direction, direction),
        }[how].astype(np.float32)
    )
    found = tb.siblings([model("a", matrices=types[0]), model("b", changed, matrices=types[1])])
    assert kins(found)[name] == "other values"
    assert not found.is_explained
    assert "cannot be one value" in next(one for one in found.tensors if one.name == name).relations[0].detail


def test_one_flipped_bit_of_a_norm_is_no_rounding(model):
    for bit in (0, 15, 16):
        changed = checkpoint()
        changed["blk.1.attn_norm.weight"].view(np.uint32)[7] ^= np.uint32(1 << bit)
        found = tb.siblings([model("a"), model("b", changed)])
        assert kins(found)["blk.1.attn_norm.weight"] == "other values"
        found = tb.siblings([model("b", changed), model("a")])
        assert kins(found)["blk.1.attn_norm.weight"] == "other values"


def test_what_cannot_be_judged_is_not_acquitted(model, tmp_path):
    """IQ types: which values a code stands for is not known here."""
    paths = []
    for name, byte in (("a", 0), ("b", 1)):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        blocks = np.full((1, 98), byte, np.uint8)
        writer.add_tensor("blk.0.ffn_up.weight", blocks, raw_dtype=GGMLQuantizationType.IQ3_XXS)
        finish(writer)
        paths.append(tmp_path / f"{name}.gguf")
    found = tb.siblings(paths)
    assert (found.is_explained, found.is_verified) == (True, False)
    assert found.conclusion(1).startswith("not verified: ")
    assert found.coverage.not_read[0].tensors == 1
    assert run(*paths).returncode == 7
    assert tb.siblings([paths[0], paths[0]]).is_verified


def test_made_and_tied_tensors_may_lack(model):
    with_both = checkpoint()
    with_both["token_embd.weight"] = with_both["output.weight"] = with_both["blk.0.ffn_up.weight"]
    with_both["rope_freqs.weight"] = np.ones(32, np.float32)
    without = {name: values for name, values in with_both.items() if name not in ("output.weight", "rope_freqs.weight")}
    for pair in ((with_both, without), (without, with_both)):
        found = tb.siblings([model("a", pair[0]), model("b", pair[1])])
        assert found.is_verified
        assert kins(found)["rope_freqs.weight"] == "made by the converter"
        assert kins(found)["output.weight"] == "same"


def test_absent_extra_and_of_another_shape(model):
    other = checkpoint()
    del other["blk.2.attn_norm.weight"]
    other["blk.3.attn_norm.weight"] = other["output_norm.weight"]
    other["output_norm.weight"] = other["output_norm.weight"][:32]
    found = tb.siblings([model("a"), model("b", other)])
    assert kins(found)["blk.2.attn_norm.weight"] == "absent"
    assert kins(found)["blk.3.attn_norm.weight"] == "extra"
    assert kins(found)["output_norm.weight"] == "other shape"
    assert found.conclusion(1).startswith("another revision, or changed after the conversion: ")


def test_nan_is_nan(model):
    broken = checkpoint()
    broken["output_norm.weight"][0] = np.nan
    other = {name: values.copy() for name, values in broken.items()}
    other["output_norm.weight"].view(np.uint32)[0] = 0xFFC00001
    assert set(kins(tb.siblings([model("a", broken), model("b", other)])).values()) == {"same"}


def test_one_model_is_too_few(model):
    with pytest.raises(UsageError, match="two models or more"):
        tb.siblings([model("a")])


def run(*arguments):
    command = [sys.executable, "-m", "truebits", "trace", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(model):
    a, b, other = model("a"), model("b", norms=as_fp16), model("other", checkpoint(seed=1))
    done = run(a, b)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rounded to FP16" in done.stdout
    assert "B: the same checkpoint by another way: " in done.stdout
    done = run(a, b, other, "--json")
    document = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (done.returncode, document["schema"]) == (1, "truebits.trace-siblings/1")
    assert [one["conclusion"] is None for one in document["models"]] == [True, False, False]
    assert not document["explained"]
    done = run(a, b, "-o", "csv", "-l", "output_norm")
    assert done.stdout.splitlines() == ["tensor,values,A,B,B_to_A", "output_norm.weight,64,F32,F32,rounded to FP16"]


def test_command_refuses(model):
    a = model("a")
    for arguments, words in (
        ((a,), "nothing to compare"),
        ((a, a, "--thorough"), "is for a GGUF and its checkpoint"),
        ((a, a, a, "--thorough"), "is for a GGUF and its checkpoint"),
        ((a, a, "-l", "nowhere"), "leaves none"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_all_that_ggml_makes_of_one_matrix_meets(tmp_path):
    """Each pair of block types, with and without an importance matrix: `tests/data/quantized.npz` is ggml's own."""
    with np.load(Path(__file__).with_name("data") / "quantized.npz") as file:
        made = {name: packed for name, packed in file.items() if name != "values"}
    paths = []
    for name, packed in made.items():
        path = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        type = GGMLQuantizationType[name.removesuffix("+imatrix")]
        writer.add_tensor("blk.0.ffn_up.weight", packed.reshape(16, -1), raw_dtype=type)
        finish(writer)
        paths.append(path)
    for first in paths:
        found = tb.siblings([first, *paths])
        got = {path.stem: relation for path, relation in zip(paths, found.tensors[0].relations, strict=True)}
        assert found.is_verified, (first.stem, {name: one for name, one in got.items() if one.kin.is_fault})
