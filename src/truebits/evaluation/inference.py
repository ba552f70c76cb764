"""What a child process does: load one model with llama.cpp, and answer requests about it.

llama.cpp's own functions are called, one batch at a time, with a flag for each token whose logits are
wanted. The settings are those that leave nothing to chance: no flash attention, a KV cache in F32, no GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import platform
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NamedTuple

import numpy as np

from truebits._version import __version__
from truebits.evaluation.dialogue import Reply
from truebits.evaluation.llama import LlamaError, load_llama

GGML_TYPE_F32 = 0
LOG_LEVEL_ERROR = 4
NO_VOCABULARY = 0


class LoadSettings(NamedTuple):
    """How a model is loaded.

    Attributes
    ----------
    n_ctx : int
        Tokens of context, all of which a chunk takes.
    batch : int
        Tokens decoded at a time, at most.
    threads : int
    backend : {"wheel", "native"} or None
        Whose llama.cpp; see `truebits.quantizers.libggml.find_package`.
    """

    n_ctx: int
    batch: int
    threads: int
    backend: str | None = None


class Vocabulary(NamedTuple):
    """What has to be known of a model before it is asked anything.

    Attributes
    ----------
    size : int
        Tokens.
    digest : str
        SHA-256 of all tokens' texts and kinds.
    bos : int or None
        The token that begins every text; None where the model wants none.
    trained_context : int
        Tokens of context it was trained for.
    """

    size: int
    digest: str
    bos: int | None
    trained_context: int


class Failure(NamedTuple):
    """An answer that is none.

    Attributes
    ----------
    message : str
    """

    message: str


def serve(connection: Connection, path: str, settings: LoadSettings) -> None:
    """Answer requests, each a method's name and its arguments, until nobody asks any more."""
    os.environ["GGML_NO_BACKTRACE"] = "1"  # where it aborts, one line says why
    # Threads that wait for another do not spin: where the machine has other work too, that takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    inference: Inference | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if inference is None:
                inference = Inference(connection, path, settings)
            answer = getattr(inference, method)(*arguments)
        except LlamaError as error:
            answer = Failure(str(error))
        except Exception as error:
            answer = Failure(f"{type(error).__name__}: {error}")
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


class Inference:
    """One model in llama.cpp."""

    def __init__(self, connection: Connection, path: str, settings: LoadSettings):
        self.connection = connection
        self.path = path
        self.settings = settings
        self.complaints: list[str] = []
        self.api, self.about = load_llama(settings.backend, self._on_log)
        self.model = self.context = None
        self.batch = self.api.llama_batch_init(settings.batch, 0, 1)
        self.logits = np.empty((0, 0, 0), np.float32)

    def _on_log(self, level: int, text: bytes, _: object) -> None:
        if level == LOG_LEVEL_ERROR:
            self.complaints.append(text.decode(errors="replace").strip())

    def load(self) -> float:
        """Load the model, anew if it is loaded; return the seconds it took."""
        if self.model is not None:
            self.api.llama_free(self.context)
            self.api.llama_model_free(self.model)
            self.model = self.context = None
        self.complaints.clear()
        started = time.perf_counter()
        parameters = self.api.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = self._not_null(self.api.llama_model_load_from_file(os.fsencode(self.path), parameters))
        self.context = self._not_null(self.api.llama_init_from_model(self.model, self._context_parameters()))
        seconds = time.perf_counter() - started
        self.vocab = self.api.llama_model_get_vocab(self.model)
        self.size = self.api.llama_vocab_n_tokens(self.vocab)
        if self.api.llama_model_has_encoder(self.model) or self.api.llama_vocab_type(self.vocab) == NO_VOCABULARY:
            raise LlamaError("it is not a model that continues text")
        return seconds

    def _context_parameters(self) -> Any:
        parameters = self.api.llama_context_default_params()
        parameters.n_ctx = self.settings.n_ctx
        parameters.n_batch = parameters.n_ubatch = self.settings.batch
        parameters.n_threads = parameters.n_threads_batch = self.settings.threads
        parameters.type_k = parameters.type_v = GGML_TYPE_F32
        parameters.flash_attn_type = self.api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.offload_kqv = parameters.op_offload = False
        return parameters

    def widen(self, n_ctx: int) -> None:
        """Make room for longer texts."""
        self.settings = self.settings._replace(n_ctx=n_ctx)
        self.api.llama_free(self.context)
        self.context = self._not_null(self.api.llama_init_from_model(self.model, self._context_parameters()))

    def _not_null(self, pointer: Any) -> Any:
        """Return a pointer, or raise with llama.cpp's first complaint."""
        if pointer:
            return pointer
        first = self.complaints[0] if self.complaints else "it does not say why"
        raise LlamaError(f"llama.cpp refuses it: {first.partition(': ')[2] or first}")

    def vocabulary(self) -> Vocabulary:
        """Describe the vocabulary."""
        digest = hashlib.sha256()
        for token in range(self.size):
            text = self.api.llama_vocab_get_text(self.vocab, token)
            digest.update(b"%d %d %b" % (self.api.llama_vocab_get_attr(self.vocab, token), len(text), text))
        bos = self.api.llama_vocab_bos(self.vocab) if self.api.llama_vocab_get_add_bos(self.vocab) else None
        return Vocabulary(self.size, digest.hexdigest(), bos, self.api.llama_model_n_ctx_train(self.model))

    def versions(self) -> dict[str, str]:
        """Tell what runs here."""
        return {
            **self.about,
            "truebits": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        }

    def tokenize(self, text: str, special: bool = False) -> np.ndarray:
        """Return a text's tokens, int32, BOS first if the model wants it.

        Parameters
        ----------
        special : bool
            Take special tokens' names for the tokens.
        """
        encoded = text.encode()
        count = 3 * len(encoded) + 16  # a space may become three bytes, each a token
        while True:
            tokens = np.empty(count, np.int32)
            pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            got = self.api.llama_tokenize(self.vocab, encoded, len(encoded), pointer, count, True, special)
            if got >= 0:
                return tokens[:got].copy()
            count = -got

    def prompt(self, text: str) -> tuple[np.ndarray, str]:
        """Return a prompt's tokens, through the model's chat template, and what became of that."""
        template = self.api.llama_model_chat_template(self.model, None)
        if template is None:
            return self.tokenize(text), "none"
        message = (self.api.llama_chat_message * 1)(self.api.llama_chat_message(b"user", text.encode()))
        size = 0
        while True:
            buffer = ctypes.create_string_buffer(size)
            got = self.api.llama_chat_apply_template(template, message, 1, True, buffer, size)
            if got < 0:
                return self.tokenize(text), "unknown to llama.cpp"
            if got <= size:
                return self.tokenize(buffer.raw[:got].decode(), special=True), "applied"
            size = got

    def share(self, slots: int, rows: int) -> None:
        """Take the memory that logits go to: its file descriptor follows the request."""
        descriptor = recv_handle(self.connection)
        try:
            memory = mmap.mmap(descriptor, slots * rows * self.size * 4)
        finally:
            os.close(descriptor)
        self.logits = np.frombuffer(memory, np.float32).reshape(slots, rows, self.size)

    def score(self, tokens: np.ndarray, slot: int) -> None:
        """Decode a chunk; leave the logits for the second half's tokens in the shared memory."""
        self._forget()
        first, last = len(tokens) // 2, len(tokens) - 1
        for start in range(0, len(tokens), self.settings.batch):
            part = tokens[start : start + self.settings.batch]
            at = np.arange(start, start + len(part))
            wanted = (at >= first) & (at < last)
            self._decode(part, start, wanted)
            for index in np.flatnonzero(wanted).tolist():
                self.logits[slot, start + index - first] = self._logits(index)

    def answer(self, prompt: np.ndarray, count: int) -> Reply:
        """Continue a prompt by the most likely token, each time."""
        self._forget()
        tokens: list[int] = []
        gaps: list[float] = []
        for start in range(0, len(prompt), self.settings.batch):
            part = prompt[start : start + self.settings.batch]
            self._decode(part, start, np.arange(len(part)) == len(part) - 1)
        logits = self._logits(len(part) - 1)
        while True:
            second, first = np.partition(logits, -2)[-2:]
            tokens.append(int(logits.argmax()))
            gaps.append(float(first - second))
            if len(tokens) == count or self.api.llama_vocab_is_eog(self.vocab, tokens[-1]):
                return Reply(tokens, gaps, self._text(tokens))
            self._decode(np.array(tokens[-1:]), len(prompt) + len(tokens) - 1, np.array([True]))
            logits = self._logits(0)

    def speed(self, tokens: np.ndarray) -> float:
        """Decode one token at a time; return tokens per second, the first apart."""
        self._forget()
        wanted = np.array([True])
        self._decode(tokens[:1], 0, wanted)
        started = time.perf_counter()
        for position in range(1, len(tokens)):
            self._decode(tokens[position : position + 1], position, wanted)
        self.api.llama_synchronize(self.context)
        return (len(tokens) - 1) / (time.perf_counter() - started)

    def _forget(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def _decode(self, tokens: np.ndarray, position: int, wanted: np.ndarray) -> None:
        """Decode tokens that come at a position; keep the logits after those that are `wanted`."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for index, (token, want) in enumerate(zip(tokens.tolist(), wanted.tolist(), strict=True)):
            batch.token[index] = token
            batch.pos[index] = position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = want
        code = self.api.llama_decode(self.context, batch)
        if code:
            raise LlamaError(f"llama.cpp cannot decode: its llama_decode returns {code}")

    def _logits(self, index: int) -> np.ndarray:
        """Return a view of the logits after one token of the last batch."""
        pointer = self.api.llama_get_logits_ith(self.context, index)
        if not pointer:
            raise LlamaError("it is not a model that continues text: llama.cpp gives no logits")
        return np.ctypeslib.as_array(pointer, (self.size,))

    def _text(self, tokens: list[int]) -> str:
        array = (self.api.llama_token * len(tokens))(*tokens)
        size = 0
        while True:
            buffer = ctypes.create_string_buffer(size)
            got = self.api.llama_detokenize(self.vocab, array, len(tokens), buffer, size, False, False)
            if got >= 0:
                return buffer.raw[:got].decode(errors="replace")
            size = -got
