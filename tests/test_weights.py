"""What a model means, without what reads quantized checkpoints where there is none."""

import subprocess
import sys

import numpy as np

from gguf_bytes import named_tensors
from quantized_files import folder, fp8, positive, stored
from truebits.files.model import open_model
from truebits.quantizers.weights import meaning_of


def test_a_gguf_means_what_it_stores(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(named_tensors("ab"))
    model = open_model(path)
    got = meaning_of(model)
    assert got.model is model
    assert (got.quantized, got.not_read) == ({}, {})


def test_a_checkpoint_means_its_weights(tmp_path):
    tensors = {
        "norm": stored("F32", np.ones(8, np.float32)),
        "a.weight": stored("F8_E4M3", fp8(8, 8)),
        "a.weight_scale": stored("F32", positive(1)),
    }
    got = meaning_of(folder(tmp_path, tensors, {"quant_method": "fp8"}))
    assert [one.name for one in got.model.tensors] == ["norm", "a.weight"]
    assert set(got.quantized) == {"a.weight"}


def test_a_gguf_needs_no_reader_of_checkpoints(tmp_path):
    (tmp_path / "m.gguf").write_bytes(named_tensors("a"))
    program = (
        "import sys\n"
        "from truebits.files.model import open_model\n"
        "from truebits.quantizers.weights import meaning_of\n"
        f"meaning_of(open_model({str(tmp_path / 'm.gguf')!r}))\n"
        "print(*[name for name in sys.modules if name.startswith('truebits.quantizers')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "truebits.quantizers.checkpoints" not in done.stdout.split()
