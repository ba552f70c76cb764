"""The commands show and verify."""

from __future__ import annotations

import json

import pytest

import truebits as tb


def test_show_json(truebits, full):
    document = json.loads(truebits("show", full, "--json").stdout)
    assert document["schema"] == "truebits.show/1"
    assert document["architecture"] == "llama"
    expected = [(tensor.name, tensor.type, list(tensor.shape), tensor.offset) for tensor in tb.open(full).tensors]
    got = [(one["name"], one["type"], one["shape"], one["offset"]) for one in document["tensors"]]
    assert got == expected


@pytest.mark.parametrize("style", ["text", "md", "csv"])
def test_show_in_every_style(truebits, full, style):
    code, told, complaint = truebits("show", full, "-o", style)
    assert (code, complaint) == (0, "")
    assert "F32" in told
    assert ("full.gguf" in told or "truebits" in told) or style != "text"
    names = truebits("show", full, "-l", "norm", "-o", style)[1]
    assert "blk.0.attn_norm.weight" in names
    assert "ffn_up" not in names


def test_show_without_a_model_lists_those_of_this_machine(truebits, tmp_path, monkeypatch):
    for name in ("OLLAMA_MODELS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert truebits("show")[1].startswith("No model of Ollama, the Hugging Face cache")
    assert json.loads(truebits("show", "--json")[1]) == {"schema": "truebits.stores/1", "models": []}


def test_verify_and_its_exit_codes(truebits, full, exact, tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(truebits("scan", full, "--fingerprint", "--json")[1])
    assert truebits("verify", full, manifest)[0] == 0
    assert truebits("verify", exact, manifest)[0] == 1
    code, told, _ = truebits("verify", exact, manifest, "--json")
    document = json.loads(told)
    assert (code, document["verdict"], document["manifest"]) == (1, "different", str(manifest))
    assert truebits("verify", full, full)[0] == 3
