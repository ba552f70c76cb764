"""An upcast of FP8 with scales, as a folder, becomes what it was; and ``config.json`` says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import deserialize

import truebits as tb
from quantized_files import golden, same_bits, stored, values_of
from safetensors_bytes import safetensors
from truebits.cli.app import app
from truebits.errors import VerificationFailed
from truebits.quantizers.weights import meaning_of
from truebits.rewriting import shrink as module
from upcast_fp8 import DTYPES, FP8, PERS, folder_of, made

LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
RANDOM = np.random.default_rng(9).normal(0, 1, (300, 260)).astype(np.float32)


def stored_in(folder):
    """Return what the format's own package reads: type, shape and bytes by name."""
    found = deserialize((folder / "model.safetensors").read_bytes())
    return {name: (one["dtype"], tuple(one["shape"]), bytes(one["data"])) for name, one in found}


def settings_of(folder):
    return json.loads((folder / "config.json").read_text()).get("quantization_config")


def layers(per, **kept):
    """Return what a model of two layers is made of, and its values; some given otherwise."""
    names = [f"model.layers.{number}.{name}" for number in (0, 1) for name in LAYERS]
    of = {f"{name}.weight": made(per, seed=seed) for seed, name in enumerate(names)}
    values = {name: one.values for name, one in of.items()}
    return of, {"model.embed_tokens.weight": RANDOM, "model.norm.weight": np.ones(260, np.float32), **values, **kept}


@pytest.mark.parametrize("per", PERS)
def test_codes_and_scales_are_byte_for_byte_what_they_were(tmp_path, per):
    of, values = layers(per)
    folder = folder_of(tmp_path / "in", values)
    done = tb.shrink(folder, tmp_path / "out")
    got = stored_in(tmp_path / "out")
    for name, one in of.items():
        assert got[name] == ("F8_E4M3", one.codes.shape, one.codes.tobytes())
        assert got[name + PERS[per]] == ("F32", one.scales.shape, one.scales.tobytes())
    assert set(got) == {*values, *(name + PERS[per] for name in of)}
    assert done.fingerprint == tb.fingerprint(folder).value == tb.fingerprint(tmp_path / "out").value
    assert tb.diff(folder, tmp_path / "out").verdict == "same values"
    assert done.saved == sum(len(raw) for _, _, raw in stored_in(folder).values()) - sum(
        len(raw) for *_, raw in got.values()
    )


@pytest.mark.parametrize("per", PERS)
def test_what_the_formats_arithmetic_makes_of_it_is_what_was_there(tmp_path, per):
    of, values = layers(per)
    tb.shrink(folder_of(tmp_path / "in", values), tmp_path / "out")
    got = stored_in(tmp_path / "out")
    meant = meaning_of(tb.open(tmp_path / "out"))
    assert not meant.not_read
    for name in of:
        codes = np.frombuffer(got[name][2], FP8).reshape(got[name][1]).astype(np.float32)
        scales = np.frombuffer(got[name + PERS[per]][2], np.float32).reshape(got[name + PERS[per]][1])
        if per == "block":
            scales = np.kron(scales, np.ones((128, 128), np.float32))[:300, :260]
        same_bits(codes * scales, values[name])
        same_bits(values_of(meant, name), values[name])


def test_shards_and_their_index(tmp_path):
    folder = tmp_path / "in"
    of = {f"{name}.weight": made("block", seed=seed) for seed, name in enumerate("ab")}
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    folder_of(folder, {})
    (folder / "model.safetensors").unlink()
    for shard, (name, one) in zip(shards, of.items(), strict=True):
        (folder / shard).write_bytes(safetensors({name: stored("F32", one.values)}))
    index = {"metadata": {"total_size": 624000}, "weight_map": dict(zip(of, shards, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = tb.shrink(folder, tmp_path / "out")
    got = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    places = {**index["weight_map"], **{f"{name}_scale_inv": shard for name, shard in index["weight_map"].items()}}
    assert got == {"metadata": {"total_size": 624000 - done.saved}, "weight_map": places}
    assert tb.fingerprint(tmp_path / "out").value == done.fingerprint
    assert not [finding for finding in tb.scan(tmp_path / "out").findings if finding.kind == "not_read"]
    assert {one.name: one.part for one in tb.open(tmp_path / "out").tensors} == {
        name: shards.index(shard) for name, shard in places.items()}  # fmt: skip


def test_the_config_says_how(tmp_path):
    expected = {
        "block": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["model.embed_tokens", "lm_head"],
        }
    }
    for per, strategy in (("row", "channel"), ("tensor", "tensor")):
        weights = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": strategy}
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
        expected[per] = {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["model.embed_tokens", "lm_head"],
        }
    for per in PERS:
        folder = folder_of(tmp_path / per, layers(per)[1], config={"a": [1], "hidden_size": 260})
        tb.shrink(folder, tmp_path / f"{per}-out")
        got = json.loads((tmp_path / f"{per}-out" / "config.json").read_text())
        assert got == {"a": [1], "hidden_size": 260, "quantization_config": expected[per]}
        assert settings_of(folder) is None


CASES = {
    "fp8-blocks": ("m.weight", "m.weight_scale_inv", 2),
    "ct-fp8-channel": ("m.weight", "m.weight_scale", 1),
    "torchao-fp8": ("0._weight_qdata", "0._weight_scale", 1),
}
"""Names of codes and scales; and how far below 448, in powers of two, the package's largest code is."""


@pytest.mark.parametrize("case", CASES)
def test_what_the_formats_own_packages_made_comes_back(tmp_path, case):
    """What Transformers, compressed-tensors and torchao dequantized gives the codes and scales that they wrote."""
    codes, scale, factor = CASES[case]
    tensors, _, expected, type = golden(case)
    tb.shrink(folder_of(tmp_path / "in", expected, type), tmp_path / "out", allow=["rounding"])
    ((_, got), (_, scales)) = sorted(stored_in(tmp_path / "out").items())
    theirs = np.frombuffer(tensors[codes][2], FP8).astype(np.float32) * np.float32(factor)
    assert got == ("F8_E4M3", tensors[codes][1], theirs.astype(FP8).tobytes())
    of_theirs = np.frombuffer(tensors[scale][2], DTYPES[tensors[scale][0]]).astype(np.float32) / np.float32(factor)
    assert scales[2] == of_theirs.tobytes()


def test_scales_that_are_powers_of_two_are_exact_in_bf16(tmp_path):
    of = made("block", power=True)
    folder = folder_of(tmp_path / "in", {"a.weight": of.values}, "BF16")
    done = tb.shrink(folder, tmp_path / "out")
    assert (done.finer, [one.to for one in done.tensors]) == (0, ["F8_E4M3"])
    assert tb.fingerprint(tmp_path / "out").value == done.fingerprint == tb.fingerprint(folder).value


@pytest.mark.parametrize("type", ["F16", "BF16"])
def test_what_was_rounded_once_more_needs_leave(tmp_path, type):
    of, values = layers("block")
    folder = folder_of(tmp_path / "in", values, type)
    kept = tb.shrink(folder, tmp_path / "out")
    assert kept.output is None
    assert "8 tensors FP8 with a scale, rounded: --allow rounding" in kept.summary
    done = tb.shrink(folder, tmp_path / "out", allow=["rounding"])
    expected = got = 0
    meant = meaning_of(tb.open(tmp_path / "out"))
    for name in of:
        theirs = values[name].astype(DTYPES[type]).astype(np.float32)
        ours = values_of(meant, name)
        assert np.array_equal(ours.astype(DTYPES[type]).astype(np.float32), theirs)
        got += np.count_nonzero(ours != theirs)
        expected += next(one.finer for one in done.tensors if one.tensor.name == name)
    assert got == expected == done.finer > 0
    assert done.fingerprint == tb.fingerprint(folder).value


def test_one_value_off_stays_and_is_an_exception_of_the_config(tmp_path):
    _, values = layers("block")
    name = "model.layers.1.mlp.down_proj"
    values[f"{name}.weight"][270, 133] += np.float32(1e-3)
    folder = folder_of(tmp_path / "in", values)
    run = CliRunner().invoke(app, ["shrink", str(folder), str(tmp_path / "out")], env={"COLUMNS": "100"})
    assert f"{name}.weight is F8_E4M3 x scale but for 1 block of 9: value {270 * 260 + 133:,} is" in run.output
    assert stored_in(tmp_path / "out")[f"{name}.weight"][0] == "F32"
    assert settings_of(tmp_path / "out")["modules_to_not_convert"] == ["model.embed_tokens", name, "lm_head"]
    assert tb.diff(folder, tmp_path / "out").verdict == "same values"


NEEDS_FOLDER = "FP8 with a scale: needs a folder with config.json"


def whys(found):
    return {one.tensor.name: one.why for one in found.tensors if one.why}


def test_what_one_config_cannot_say_stays(tmp_path):
    block, row, one = made("block").values, made("row").values, made("tensor").values
    exact = made("row", (64, 260)).codes.astype(np.float32)
    twice = np.stack([exact, exact])
    together = {f"model.layers.0.self_attn.{name}_proj.weight": block for name in "qk"}
    together["model.layers.0.self_attn.v_proj.weight"] = RANDOM
    experts = {
        f"model.layers.0.mlp.experts.{number}.{name}.weight": of
        for number, name, of in ((0, "up_proj", block), (1, "up_proj", row))
    }
    tensors = {
        "a.weight": block, "b.weight": block, "of_all.weight": one, "of_rows.weight": row, "plain.weight": exact,
        "model.gate.weight": RANDOM, "model.gate_proj.weight": block, "stacked.weight": twice,
        "model.embed_tokens.weight": exact, "lm_head.weight": block, "b.bias": block, **together, **experts,
    }  # fmt: skip
    folder = folder_of(tmp_path / "in", tensors)
    done = tb.shrink(folder, tmp_path / "out")
    changed = {one.tensor.name for one in done.changed if one.to == "F8_E4M3"}
    assert changed == {"a.weight", "b.weight", "of_all.weight", "plain.weight"}
    assert whys(done) == {
        "of_rows.weight": "FP8 with a scale per row, most have one per block",
        "model.layers.0.mlp.experts.1.up_proj.weight": "FP8 with a scale per row, most have one per block",
        "model.layers.0.mlp.experts.0.up_proj.weight": "FP8 with a scale, but loaded with "
        "model.layers.0.mlp.experts.1.up_proj",
        "model.gate_proj.weight": "FP8 with a scale, but config.json cannot tell it from model.gate",
        **dict.fromkeys(list(together)[:2], "FP8 with a scale, but loaded with model.layers.0.self_attn.v_proj"),
    }
    got = stored_in(tmp_path / "out")
    assert {name: got[name][0] for name in ("stacked.weight", "model.embed_tokens.weight")} == {
        "stacked.weight": "BF16", "model.embed_tokens.weight": "BF16"}  # fmt: skip
    assert got["plain.weight_scale_inv"] == ("F32", (1, 3), np.ones((1, 3), np.float32).tobytes())
    ignored = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")} - {
        name.removesuffix(".weight") for name in changed}  # fmt: skip
    assert set(settings_of(tmp_path / "out")["modules_to_not_convert"]) == ignored
    assert not meaning_of(tb.open(tmp_path / "out")).not_read
    assert tb.diff(folder, tmp_path / "out").verdict == "same values"


def test_where_no_config_could_say_it(tmp_path):
    values = {"a.weight": made("block").values}
    folder = folder_of(tmp_path / "in", values)
    for source in (folder / "model.safetensors", folder_of(tmp_path / "empty", values, config={})):
        done = tb.shrink(source, tmp_path / "out")
        assert (done.output, whys(done)) == (None, {"a.weight": NEEDS_FOLDER})
    config = {"quantization_config": {"quant_method": "gptq"}}
    done = tb.shrink(folder_of(tmp_path / "said", values, config=config), dry_run=True)
    assert whys(done) == {"a.weight": "FP8 with a scale: config.json says gptq already"}


def test_what_becomes_narrower_but_not_fp8_is_told(tmp_path):
    folder = folder_of(tmp_path / "in", {"a.weight": made("block", power=True).values})
    run = CliRunner().invoke(app, ["shrink", str(folder / "model.safetensors"), "--dry-run"], env={"COLUMNS": "100"})
    assert "1 F32 as BF16" in run.output
    assert f"1 tensor would be narrower still: {NEEDS_FOLDER}." in run.output


def test_fp8_without_scales_is_as_it_was_where_nothing_has_scales(tmp_path):
    exact = made("row", (64, 260)).codes.astype(np.float32)
    folder = folder_of(tmp_path / "in", {"a.weight": exact, "model.embed_tokens.weight": exact, "b.weight": RANDOM})
    tb.shrink(folder, tmp_path / "out")
    assert {name: type for name, (type, *_) in stored_in(tmp_path / "out").items()} == {
        "a.weight": "F8_E4M3", "model.embed_tokens.weight": "F8_E4M3", "b.weight": "F32"}  # fmt: skip
    assert settings_of(tmp_path / "out") is None


def test_only_what_is_selected(tmp_path):
    _, values = layers("row")
    tb.shrink(folder_of(tmp_path / "in", values), tmp_path / "out", r"layers\.1\.")
    ignored = [f"model.layers.0.{name}" for name in LAYERS]
    assert settings_of(tmp_path / "out")["ignore"] == ["model.embed_tokens", *ignored, "lm_head"]


def test_what_would_take_no_less_stays(tmp_path):
    """Two by two values in BF16 are as many bytes as their codes and a scale."""
    values = {"a.weight": np.array([[1, 1.125], [2, -3]], np.float32) * np.float32(2**-20)}
    for type, expected in (("BF16", "BF16"), ("F32", "BF16")):
        found = tb.shrink(folder_of(tmp_path / type, values, type), dry_run=True)
        assert [(one.to, one.scaled) for one in found.tensors] == [(expected, None)]


def test_names_of_scales_that_are_taken(tmp_path):
    values = {"a.weight": made("block").values, "a.weight_scale_inv": RANDOM}
    done = tb.shrink(folder_of(tmp_path / "in", values), dry_run=True)
    assert done.output is None
    assert not done.changed


def test_codes_that_stand_for_something_else_are_never_written(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "in", {"a.weight": made("block").values})
    right = module.with_scales

    def wrong(*arguments):
        plan = right(*arguments)
        plan.choices[0].scaled.scales[1, 1] *= np.float32(1 + 2**-20)
        return plan

    monkeypatch.setattr(module, "with_scales", wrong)
    with pytest.raises(VerificationFailed, match=rf"a.weight: value {128 * 260 + 128:,} is another one"):
        tb.shrink(folder, tmp_path / "out")
    monkeypatch.setattr(module, "with_scales", right)
    monkeypatch.setattr(module, "read_back", lambda weight, *_: module.plain(weight))
    with pytest.raises(VerificationFailed, match="holds other values"):
        tb.shrink(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_the_document_and_the_plan(tmp_path):
    folder = folder_of(tmp_path / "in", {"a.weight": made("row").values, "norm.weight": np.ones(4, np.float32)})
    run = CliRunner().invoke(app, ["shrink", str(folder), "--dry-run"], env={"COLUMNS": "100"})
    assert "300 scales, every bit" in run.output
    run = CliRunner().invoke(app, ["shrink", str(folder), "--dry-run", "--json"])
    row = json.loads(run.stdout)["tensors"][0]
    expected = {"to": "F8_E4M3", "scales_per": "row", "scales": 300, "why": None, "bytes_after": 300 * 260 + 1200}
    assert {key: row[key] for key in expected} == expected
