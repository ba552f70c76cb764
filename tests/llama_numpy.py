"""A Llama of our own: what a GGUF model says, in NumPy, to check other implementations against."""

from __future__ import annotations

import os

import gguf
import numpy as np
from gguf.quants import dequantize


class Llama:
    """A model of architecture ``llama`` whose tokens are bytes.

    Attributes
    ----------
    bos : int
        The token that a text begins with; `tokens` leaves it to the caller.
    context : int
        Number of tokens the model was trained for.
    weights : dict of str to ndarray
        Dequantized, by tensor name; the slowest dimension first.
    """

    def __init__(self, path: str | os.PathLike[str], dtype: type = np.float64):
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        self.weights = {
            tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(dtype) for tensor in reader.tensors
        }
        self.bos = fields["tokenizer.ggml.bos_token_id"]
        self.context = fields["llama.context_length"]
        self.blocks = fields["llama.block_count"]
        self.heads = fields["llama.attention.head_count"]
        self.kv_heads = fields["llama.attention.head_count_kv"]
        self.epsilon = fields["llama.attention.layer_norm_rms_epsilon"]
        self.rope_base = fields["llama.rope.freq_base"]
        self._token_of = [fields["tokenizer.ggml.tokens"].index(_name(byte)) for byte in range(256)]

    def tokens(self, text: str | bytes) -> list[int]:
        """Give the tokens of a text: one for each byte (of UTF-8), none at its beginning."""
        return [self._token_of[byte] for byte in (text.encode() if isinstance(text, str) else text)]

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Give, after each token, the logits of the next: shape (tokens, vocabulary)."""
        x = self.weights["token_embd.weight"][tokens]
        for i in range(self.blocks):
            x = x + self._attention(f"blk.{i}.", x)
            x = x + self._feed_forward(f"blk.{i}.", x)
        output = "output.weight" if "output.weight" in self.weights else "token_embd.weight"
        return self._linear(output, self._norm("output_norm.weight", x))

    def nll(self, text: str | bytes, context: int | None = None) -> np.ndarray:
        """Give -ln p of every byte of a text, read in pieces of `context` that each begin with `bos`."""
        tokens, context = self.tokens(text), context or self.context
        pieces = [tokens[start : start + context] for start in range(0, len(tokens), context)]
        return np.concatenate([_nll(self.logits([self.bos, *piece[:-1]]), piece) for piece in pieces])

    def perplexity(self, text: str | bytes, context: int | None = None) -> float:
        """Give the perplexity per byte of a text, read as by `nll`."""
        return float(np.exp(self.nll(text, context).mean()))

    def _attention(self, block: str, x: np.ndarray) -> np.ndarray:
        x = self._norm(f"{block}attn_norm.weight", x)
        query = self._rope(self._split(f"{block}attn_q.weight", x, self.heads))
        key = self._rope(self._split(f"{block}attn_k.weight", x, self.kv_heads))
        value = self._split(f"{block}attn_v.weight", x, self.kv_heads)
        key, value = (np.repeat(shared, self.heads // self.kv_heads, axis=0) for shared in (key, value))
        scores = query @ key.swapaxes(1, 2) / query.shape[-1] ** 0.5
        later = np.triu(np.ones(scores.shape[-2:], bool), 1)
        y = np.exp(_log_softmax(np.where(later, -np.inf, scores))) @ value
        return self._linear(f"{block}attn_output.weight", y.swapaxes(0, 1).reshape(len(x), -1))

    def _feed_forward(self, block: str, x: np.ndarray) -> np.ndarray:
        x = self._norm(f"{block}ffn_norm.weight", x)
        gate, up = self._linear(f"{block}ffn_gate.weight", x), self._linear(f"{block}ffn_up.weight", x)
        return self._linear(f"{block}ffn_down.weight", gate / (1 + np.exp(-gate)) * up)

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[name].T

    def _split(self, name: str, x: np.ndarray, heads: int) -> np.ndarray:
        """Multiply, and give the heads of the result: shape (heads, tokens, width of a head)."""
        return self._linear(name, x).reshape(len(x), heads, -1).swapaxes(0, 1)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.weights[name]

    def _rope(self, x: np.ndarray) -> np.ndarray:
        """Turn neighbours by their position's angle."""
        count, width = x.shape[1:]
        angles = np.arange(count)[:, None] * self.rope_base ** (-np.arange(0, width, 2) / width)
        even, odd, cosine, sine = x[..., 0::2], x[..., 1::2], np.cos(angles), np.sin(angles)
        turned = np.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1)
        return turned.reshape(x.shape).astype(x.dtype)


def _name(byte: int) -> str:
    """Give the name of a byte's token; llama.cpp writes a space as U+2581."""
    return "\u2581" if byte == ord(" ") else f"<0x{byte:02X}>"


def _nll(logits: np.ndarray, targets: list[int]) -> np.ndarray:
    return -_log_softmax(logits)[np.arange(len(targets)), targets]


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
