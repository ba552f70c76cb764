"""The one way from a request to a rewritten model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from quantized_files import folder, fp8, positive, stored
from traced_pair import a_gguf
from truebits.errors import Refused, UsageError, VerificationFailed
from truebits.files.model import open_model
from truebits.rewriting.marker import set_marker
from truebits.rewriting.operation import Request, Rewrite, TensorChange, carry_out, open_to_rewrite
from truebits_native.reference import Difference

CHANGE = TensorChange("a\x1b", 10, 4, "bf16", Difference(values=10, changed=4, max_abs=0.5))


def rewrite(*changes, **more):
    return Rewrite(changes, "because", **more)


def test_a_rewrite_adds_up():
    got = rewrite(CHANGE, CHANGE._replace(changed=0))
    assert (got.values, got.changed, got.summary) == (20, 4, "because")
    assert (got.difference.changed, got.difference.max_abs) == (8, 0.5)
    assert rewrite(CHANGE, CHANGE._replace(difference=None)).difference is None
    assert (rewrite().values, rewrite().changed) == (0, 0)


def test_another_number_of_changes_than_planned():
    rewrite(CHANGE).check(4)
    with pytest.raises(VerificationFailed, match="5 values were changed, the plan said 4"):
        rewrite(CHANGE).check(5)


def test_document():
    infinite = CHANGE._replace(difference=replace_max(CHANGE.difference, np.inf))
    document = json.loads(json.dumps(rewrite(CHANGE, infinite).content(), allow_nan=False))
    assert document["tensors"][0]["name"] == r"a\x1b"
    assert [one["max_abs"] for one in document["tensors"]] == [0.5, None]
    assert (document["written"], document["total"]["changed"], document["total"]["bits_per_weight"]) == (False, 8, None)


def replace_max(difference, value):
    return difference._replace(max_abs=value)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(), "give either an output file or --in-place"),
        (Request(out="x", in_place=True), "give either"),
        (Request(out="x", in_place=True, dry_run=True), "give either"),
        (Request(out="x", undo_file="u"), "--undo-file goes with --in-place"),
        (Request(out="x", allow=["all", "layout"]), "--allow all: allowed are"),
        (Request(dry_run=True), None),
        (Request(out="x"), None),
        (Request(in_place=True, undo_file="u"), None),
    ],
)
def test_a_request_that_contradicts_itself(request_, words):
    if words is None:
        request_.check()
    else:
        with pytest.raises(UsageError, match=words):
            request_.check()


class Halve:
    """Set the upper half of F32 values to zero, where it is not."""

    is_repeatable = True

    def __init__(self, model, is_repeatable=True):
        self.model, self.tensors, self.is_repeatable = model, list(model.tensors), is_repeatable

    def plan(self, progress):
        changed = sum(np.count_nonzero(words_of(self.model)) for _ in self.tensors)
        return Rewrite((TensorChange("a", 8, int(changed)),), "halved")

    def record(self):
        return {"verb": "halve"}

    def blocks(self, tensor):
        return 1

    def change(self, piece, words):
        changed = int(np.count_nonzero(words))
        words[:] = 0
        return changed

    def is_changed(self, piece, old, new):
        return not new.any()

    def check_written(self, paths):
        for path in paths:
            assert not words_of(open_model(path)).any()

    def done(self, planned):
        return planned


def words_of(model):
    with model.parts[0].map() as file:
        return np.frombuffer(file.data, np.uint32, 8, model.tensors[0].offset).copy()


@pytest.fixture
def model(tmp_path):
    return a_gguf(tmp_path / "m.gguf", a=("F32", np.arange(8, dtype=np.uint32)))


def test_a_new_file(model, tmp_path):
    steps = []
    got = carry_out(Halve(model), Request(tmp_path / "out.gguf", progress=lambda *step: steps.append(step)))
    assert (got.written, got.changed) == (True, 7)
    assert not words_of(open_model(tmp_path / "out.gguf")).any()
    assert words_of(open_model(tmp_path / "m.gguf")).any()
    assert steps[-1][0] == steps[-1][1] == model.size


def test_in_place(model, tmp_path):
    assert carry_out(Halve(model), Request(in_place=True)).written
    assert not words_of(open_model(tmp_path / "m.gguf")).any()
    assert [one.name for one in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("request_", [Request(dry_run=True), Request("out.gguf", dry_run=True)])
def test_a_dry_run_writes_nothing(model, tmp_path, monkeypatch, request_):
    monkeypatch.chdir(tmp_path)
    assert not carry_out(Halve(model), request_).written
    assert [one.name for one in tmp_path.iterdir()] == ["m.gguf"]


def test_where_nothing_changes_nothing_is_written(tmp_path):
    model = a_gguf(tmp_path / "m.gguf", a=("F32", np.zeros(8, np.uint32)))
    assert not carry_out(Halve(model), Request(tmp_path / "out.gguf")).written
    assert [one.name for one in tmp_path.iterdir()] == ["m.gguf"]


def test_what_cannot_be_run_again_needs_an_undo_file_in_place(model, tmp_path):
    with pytest.raises(UsageError, match="need --undo-file"):
        carry_out(Halve(model, False), Request(in_place=True))
    assert words_of(open_model(tmp_path / "m.gguf")).any()
    assert carry_out(Halve(model, False), Request(in_place=True, undo_file=tmp_path / "undo")).written


def test_a_plan_that_does_not_hold_leaves_nothing(model, tmp_path):
    operation = Halve(model)
    operation.plan = lambda progress: Rewrite((TensorChange("a", 8, 6),), "wrong")
    with pytest.raises(VerificationFailed, match="7 values were changed, the plan said 6"):
        carry_out(operation, Request(tmp_path / "out.gguf"))
    assert [one.name for one in tmp_path.iterdir()] == ["m.gguf"]


def test_an_output_that_is_there_is_refused(model, tmp_path):
    (tmp_path / "out.gguf").write_bytes(b"old")
    with pytest.raises(Refused):
        carry_out(Halve(model), Request(tmp_path / "out.gguf"))
    assert carry_out(Halve(model), Request(tmp_path / "out.gguf", force=True)).written


def test_an_unfinished_rewrite_is_finished_though_nothing_would_change(tmp_path):
    model = a_gguf(tmp_path / "m.gguf", a=("F32", np.zeros(8, np.uint32)))
    set_marker(tmp_path / "m.gguf", {"operation": {"verb": "other"}})
    with pytest.raises(Exception, match="another rewrite in place was left unfinished"):
        carry_out(Halve(model), Request(in_place=True))


def test_scales_are_not_rewritten(tmp_path):
    tensors = {
        "a.weight": stored("F8_E4M3", fp8(8, 16)),
        "a.weight_scale": stored("F32", positive(1)),
        "norm": stored("F32", np.ones(16, np.float32)),
    }
    model = folder(tmp_path, tensors, {"quant_method": "fp8"})
    got = open_to_rewrite(model)
    assert [one.name for one in got.tensors] == ["a.weight", "norm"]
    assert replace(got, tensors=()).parts == model.parts


def test_what_only_its_quantizer_understands_needs_a_selection(tmp_path):
    tensors = {"a.weight": stored("F8_E4M3", fp8(8, 16)), "norm": stored("F32", np.ones(16, np.float32))}
    model = folder(tmp_path, tensors, {"quant_method": "fp8"})
    with pytest.raises(UsageError, match=r"a\.weight cannot be read .*select tensors"):
        open_to_rewrite(model)
    assert len(open_to_rewrite(model, asked=True).tensors) == 2
