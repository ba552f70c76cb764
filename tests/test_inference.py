"""What a child process does: requests answered, and llama.cpp's answers of any length."""

import ctypes
from multiprocessing import Pipe
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from truebits.evaluation import inference
from truebits.evaluation.inference import LOG_LEVEL_ERROR, Failure, Inference, LoadSettings, serve
from truebits.evaluation.llama import LlamaError


def loaded(**api):
    """Return an inference that has a llama.cpp of these functions."""
    one = object.__new__(Inference)
    one.api, one.model, one.vocab, one.complaints = SimpleNamespace(**api), object(), object(), []
    one.settings, one.size = LoadSettings(8, 4, 1), 5
    return one


class Answering:
    """What is loaded in the place of a model."""

    def __init__(self, connection, path, settings):
        if path == "refused":
            raise LlamaError("llama.cpp refuses it")

    def double(self, number):
        return 2 * number

    def fail(self):
        raise KeyError("x")


def asked(monkeypatch, path, *requests):
    monkeypatch.setattr(inference, "Inference", Answering)
    ours, theirs = Pipe()
    thread = Thread(target=serve, args=(theirs, path, LoadSettings(8, 8, 1)))
    thread.start()
    answers = []
    for request in requests:
        ours.send(request)
        answers.append(ours.recv())
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
    return answers


def test_requests_are_answered_until_nobody_asks(monkeypatch):
    got = asked(monkeypatch, "m", ("double", (2,)), ("fail", ()), ("nobodys", ()), ("double", (3,)))
    assert (got[0], got[1], got[3]) == (4, Failure("KeyError: 'x'"), 6)
    assert got[2].message.startswith("AttributeError")


def test_a_model_that_is_refused_says_so_each_time(monkeypatch):
    refusal = Failure("llama.cpp refuses it")
    assert asked(monkeypatch, "refused", ("load", ()), ("load", ())) == [refusal, refusal]


@pytest.mark.parametrize("count", [0, 1, 16, 1_000])
def test_texts_of_more_tokens_than_expected(count):
    sizes = []

    def tokenize(vocab, text, length, pointer, size, add, special):
        sizes.append(size)
        if size < count:
            return -count
        for at in range(count):
            pointer[at] = at
        return count

    got = loaded(llama_tokenize=tokenize).tokenize("ü")
    assert got.tolist() == list(range(count))
    assert len(sizes) == (2 if count > 22 else 1)


@pytest.mark.parametrize(
    ("template", "formatted", "expected"),
    [(None, None, "none"), (b"t", -1, "unknown to llama.cpp"), (b"t", b"<user>why?", "applied")],
)
def test_prompts_go_through_the_template(template, formatted, expected):
    def apply(template, message, count, add, buffer, size):
        if isinstance(formatted, int):
            return formatted
        if size >= len(formatted):
            ctypes.memmove(buffer, formatted, len(formatted))
        return len(formatted)

    one = loaded(
        llama_model_chat_template=lambda *_: template,
        llama_chat_apply_template=apply,
        llama_chat_message=type(
            "Message", (ctypes.Structure,), {"_fields_": [("role", ctypes.c_char_p), ("content", ctypes.c_char_p)]}
        ),
    )
    one.tokenize = lambda text, special=False: (text, special)
    (text, special), said = one.prompt("why?")
    assert said == expected
    assert (text, special) == (("<user>why?", True) if expected == "applied" else ("why?", False))


def test_texts_of_tokens_are_as_long_as_they_are():
    def detokenize(vocab, tokens, count, buffer, size, remove, unparse):
        text = b"\xc3\xbc\xff" * count
        if size < len(text):
            return -len(text)
        ctypes.memmove(buffer, text, len(text))
        return len(text)

    one = loaded(llama_detokenize=detokenize, llama_token=ctypes.c_int32)
    assert one._text([1, 2]) == "ü�ü�"


@pytest.mark.parametrize(
    ("complaints", "words"),
    [
        ([], "it does not say why"),
        ([b"llama_model_load: unknown architecture"], "unknown architecture"),
        ([b"plain"], "plain"),
    ],
)
def test_refusals_have_the_first_complaint(complaints, words):
    one = loaded()
    one._on_log(2, b"a warning", None)
    for text in (*complaints, *([b"later: another"] if complaints else [])):
        one._on_log(LOG_LEVEL_ERROR, text, None)
    with pytest.raises(LlamaError, match=f"llama.cpp refuses it: {words}"):
        one._not_null(None)
    assert one._not_null(7) == 7


class Batch(SimpleNamespace):
    def __init__(self, size):
        fields = {name: [None] * size for name in ("token", "pos", "n_seq_id", "logits")}
        super().__init__(n_tokens=0, seq_id=[[None] for _ in range(size)], **fields)


def scored(tokens, batch):
    """Score a chunk; return what was decoded: (token, position, wanted)."""
    decoded, logits = [], np.zeros((1, len(tokens) - 1 - len(tokens) // 2, 5), np.float32)

    def decode(context, of):
        decoded.append(list(zip(of.token, of.pos, of.logits, strict=True))[: of.n_tokens])
        return 0

    one = loaded(llama_decode=decode, llama_memory_clear=lambda *_: None, llama_get_memory=lambda *_: None)
    one.context, one.batch, one.logits = None, Batch(batch), logits
    one.settings = LoadSettings(len(tokens), batch, 1)
    one._logits = lambda index: np.full(5, decoded[-1][index][0], np.float32)
    one.score(np.array(tokens), 0)
    return [each for part in decoded for each in part], logits[0, :, 0].tolist()


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_second_half_of_a_chunk_is_scored(batch):
    tokens = [10, 11, 12, 13, 14, 15, 16, 17]
    decoded, rows = scored(tokens, batch)
    assert [(token, position) for token, position, _ in decoded] == list(zip(tokens, range(8), strict=True))
    assert [token for token, _, wanted in decoded if wanted] == [14, 15, 16]
    assert rows == [14, 15, 16]


def test_what_llama_cpp_cannot_decode():
    one = loaded(llama_decode=lambda *_: 3)
    one.context, one.batch = None, Batch(4)
    with pytest.raises(LlamaError, match="its llama_decode returns 3"):
        one._decode(np.array([1]), 0, np.array([True]))
    one = loaded(llama_get_logits_ith=lambda *_: None)
    one.context = None
    with pytest.raises(LlamaError, match="gives no logits"):
        one._logits(0)
