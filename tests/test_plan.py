"""What a rewrite would change, said beforehand."""

import pytest

import truebits as tb
from models import write
from truebits.errors import SelectionError, UsageError
from words import finite_words


@pytest.fixture
def path(tmp_path):
    tensors = {"norm": finite_words("F32", 300, 1), "up": finite_words("F32", 320, 2), "half": finite_words("F16", 64)}
    return write(tmp_path / "model.gguf", {name: (f"F{8 * words.itemsize}", words) for name, words in tensors.items()})


@pytest.mark.parametrize(
    "asked", [{"bits": 16}, {"bits": 1}, {"to": "bf16"}, {"to": "fp8_e4m3fn"}, {"to": "int8:tensor"}]
)
@pytest.mark.parametrize("select", [None, "norm"])
def test_a_plan_is_what_the_rewrite_does(path, tmp_path, asked, select):
    before = path.read_bytes()
    planned = tb.plan(path, select, **asked)
    assert (path.read_bytes(), planned.written) == (before, False)
    rewrite = tb.truncate if "bits" in asked else tb.fakequant
    done = rewrite(path, tmp_path / "out.gguf", select=select, **asked)
    assert done.written
    assert [(one.name, one.values, one.changed) for one in planned.tensors] == [
        (one.name, one.values, one.changed) for one in done.tensors
    ]


def test_rules_alone_are_enough(path):
    assert [one.name for one in tb.plan(path, rules=["norm=bf16"]).tensors] == ["norm"]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({}, UsageError, "plan either a cut of low bits .* or a format"),
        ({"bits": 16, "to": "bf16"}, UsageError, "plan either"),
        ({"bits": 16, "rules": ["norm=bf16"]}, UsageError, "plan either"),
        ({"bits": 0}, UsageError, "bits is 0"),
        ({"to": "nobodys"}, UsageError, "no format is called"),
        ({"bits": 16, "select": "absent"}, SelectionError, "absent"),
    ],
)
def test_what_makes_no_sense(path, asked, error, words):
    with pytest.raises(error, match=words):
        tb.plan(path, **asked)
