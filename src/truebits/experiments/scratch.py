"""One copy of a model in which some tensors are rounded for a while, and then are what they were."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from truebits.errors import VerificationFailed
from truebits.files.mapping import MappedFile
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.numbers.rounding import Rounding
from truebits.quantizers.quantize import quantizer
from truebits.rewriting.copy import Blocks, Piece, pieces, read_pieces, single_values
from truebits.rewriting.durable import write_all
from truebits.rewriting.fakequant import measure
from truebits.rewriting.outputs import outputs
from truebits.rewriting.rules import Pairs
from truebits_native.reference import Difference, merged


class Scratch:
    """A copy of a model's files, made once.

    Parameters
    ----------
    model : Model
    folder : Path
        Where to put it.
    threads : int, optional

    Attributes
    ----------
    path : Path
        Of the first file.
    """

    def __init__(self, model: Model, folder: Path, threads: int | None):
        self.model = model
        self.threads = threads
        self.paths = outputs(model, folder / model.parts[0].path.name)
        self.path = self.paths[0]
        for part, path in zip(model.parts, self.paths, strict=True):
            shutil.copyfile(part.path, path)

    @contextmanager
    def rounded(self, pairs: Pairs) -> Iterator[Difference]:
        """Round tensors to formats; put them back afterwards, and look whether they are back.

        Parameters
        ----------
        pairs : list of (Tensor, Target)

        Yields
        ------
        Difference
            Of all their values.

        Raises
        ------
        UsageError
            A format does not apply to a tensor.
        Refused
            A NaN or Inf where values share a scale.
        VerificationFailed
            A tensor is not what it was.
        """
        quantizers = {
            tensor.name: quantizer(format, tensor, self.model.row(tensor), Rounding()) for tensor, format in pairs
        }
        tensors = [tensor for tensor, _ in pairs]
        difference = merged(
            measure(self.model, [(tensor, quantizers[tensor.name]) for tensor in tensors], self.threads).values()
        )
        try:
            for descriptor, piece, words in self._words(tensors, lambda tensor: quantizers[tensor.name].block):
                changed = words.copy()
                quantizers[piece.tensor.name].round(changed, piece.first, self.threads)
                write_all(descriptor, changed.view(np.uint8).data, piece.start)
            yield difference
        finally:
            for descriptor, piece, words in self._words(tensors):
                write_all(descriptor, words.view(np.uint8).data, piece.start)
            self._check(tensors)

    def _words(self, tensors: list[Tensor], blocks: Blocks = single_values) -> Iterator[tuple[int, Piece, np.ndarray]]:
        """Go through the model's words, each piece with the descriptor of the file that it is copied to."""
        for number in sorted({tensor.part for tensor in tensors}):
            descriptor = os.open(self.paths[number], os.O_WRONLY | os.O_CLOEXEC)
            try:
                mine = [tensor for tensor in tensors if tensor.part == number]
                for piece, words in read_pieces(self.model.parts[number], mine, blocks):
                    yield descriptor, piece, words
            finally:
                os.close(descriptor)

    def _check(self, tensors: list[Tensor]) -> None:
        for number in sorted({tensor.part for tensor in tensors}):
            with self.model.parts[number].map() as base, MappedFile(self.paths[number]) as copy:
                for piece in pieces(tensor for tensor in tensors if tensor.part == number):
                    if base.data[piece.start : piece.stop] != copy.data[piece.start : piece.stop]:
                        raise VerificationFailed(f"{self.paths[number]}: {piece.tensor.label} is not what it was")
