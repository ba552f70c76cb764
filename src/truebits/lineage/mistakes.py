"""Mistakes that people make with the scales of quantized checkpoints: done again, to be recognized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from truebits.comparing.sides import QuantizedSide
from truebits.files.mapping import Files
from truebits.files.tensor import Tensor
from truebits.lineage.comparison import Suspect
from truebits.lineage.matching import Pair
from truebits.lineage.names import block_of
from truebits.lineage.source import Expected
from truebits.quantizers.quantized import Arrays, Quantized, Stored

SCALE = "scale"


class ScalesLeftOut(Stored):
    """Scales as if each were 1."""

    def singles(self, words: np.ndarray) -> np.ndarray:
        return np.ones_like(super().singles(words))


class ScalesInverted(Stored):
    """Scales as if each were its reciprocal."""

    def singles(self, words: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            inverse: np.ndarray = 1 / super().singles(words)
        return inverse


KINDS = ((ScalesLeftOut, "its scale is left out"), (ScalesInverted, "its scale is inverted"))


def suspects(pair: Pair, quantized: Mapping[str, Quantized], files: Files) -> Iterator[Suspect]:
    """Yield what a tensor would be with each mistake, where all its sources are quantized."""
    own = [quantized[tensor.name] for tensor in pair.sources if tensor.name in quantized]
    if len(own) < len(pair.sources) or not all(SCALE in one.sources for one in own):
        return
    for kind, text in KINDS:
        yield Suspect(text, _expected([_changed(one, kind, files) for one in own], pair, files))
    if len(own) == 1:
        for name, scale in _neighbours(own[0], quantized):
            other = replace(own[0], sources={**own[0].sources, SCALE: scale})
            yield Suspect(f"with the scale of {name}", _expected([other], pair, files))


def _expected(own: Sequence[Quantized], pair: Pair, files: Files) -> Expected:
    return Expected([QuantizedSide(one.as_stored or one, files) for one in own], pair)


def _changed(of: Quantized, kind: type[Stored], files: Files) -> Quantized:
    """Read the scale otherwise."""
    of = of.as_stored or of
    scale = of.sources[SCALE]

    def rows(arrays: Arrays, start: int, stop: int) -> np.ndarray:
        return of.rows({**arrays, SCALE: kind(files[scale.part], scale)}, start, stop)

    return replace(of, rows=rows)


def _neighbours(of: Quantized, quantized: Mapping[str, Quantized]) -> Iterator[tuple[str, Tensor]]:
    """Yield the scales of the same shape in the same block."""
    own = of.sources[SCALE]
    for name, other in quantized.items():
        scale = other.sources.get(SCALE)
        is_like = scale is not None and (scale.type, scale.shape) == (own.type, own.shape) and scale.name != own.name
        if scale is not None and is_like and block_of(name) == block_of(of.tensor.name):
            yield other.tensor.label, scale
