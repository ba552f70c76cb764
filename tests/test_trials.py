"""Several formats tried on a model, as a sequence and as data."""

import numpy as np
import pytest

import truebits as tb
from truebits import data
from truebits.rewriting.trials import Sweep, Trial


@pytest.fixture
def found(tmp_path):
    path = tb.synth(tmp_path / "m.gguf", size=1 << 16, precision="bf16")
    return path, tb.sweep(path, ["bf16", "fp8_e4m3fn"])


def test_a_sweep_is_a_sequence_of_trials(found):
    path, sweep = found
    assert isinstance(sweep, Sweep)
    same, other = sweep
    assert isinstance(same, Trial)
    assert (len(sweep), sweep[-1], sweep[:1]) == (2, other, (same,))
    assert (same.difference.changed, same.bits) == (0, 16)
    assert other.difference.changed > 0
    assert sweep.file == str(path)


def test_its_document_has_a_row_for_each_format(found):
    _, sweep = found
    document = sweep.to_dict()
    assert document["schema"] == "truebits.fakequant-sweep/1"
    assert [one["to"] for one in sweep.to_records()] == ["bf16", "fp8_e4m3fn"]
    assert np.isclose(document["formats"][1]["rms"], sweep[1].difference.rms)
    assert repr(sweep) == f"<Sweep: {sweep.file}: 2 formats tried>"


def test_of_dequantized_values_the_file_is_the_one_that_was_given():
    path = data.MODEL_Q8_0
    assert tb.sweep(path, ["int4"], "ffn", dequantize=True).file == str(path)
    assert tb.fakequant(path, select="ffn", to="int4", dequantize=True, dry_run=True).file == str(path)
