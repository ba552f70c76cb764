"""The commands show and verify."""

from __future__ import annotations

import json

import truebits as tb
from running import run


def test_show_json(full):
    document = json.loads(run("show", full, "--json").stdout)
    assert document["schema"] == "truebits.show/1"
    assert document["architecture"] == "llama"
    expected = [(tensor.name, tensor.type, list(tensor.shape), tensor.offset) for tensor in tb.open(full).tensors]
    got = [(one["name"], one["type"], one["shape"], one["offset"]) for one in document["tensors"]]
    assert got == expected
