"""Several GGUFs of one model, from different sources: which tensors differ, and what each went through.

The first is what the others are compared with: bytes first, then values, whatever type these are stored in.
Where they differ, it is tried whether one side is the other, rounded, or both are of one tensor, quantized twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import truebits_native as native
from truebits.comparing.sides import Side
from truebits.errors import UsageError, printable
from truebits.files.model import Model, Regexes, open_gguf
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.lineage.kin import Kin, Relation, Sibling, Siblings, TensorKin
from truebits.lineage.relation import relation
from truebits.precision.batches import Progress, stepper
from truebits.precision.converters import Kind, transforms_of
from truebits.precision.coverage import Coverage
from truebits.precision.scan import scan
from truebits.precision.undone import Change, change_of


def siblings(
    models: Iterable[Model | str | os.PathLike[str]],
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Siblings:
    """Compare several GGUFs of one model with the first of them.

    Parameters
    ----------
    models : iterable of Model or path-like
        Two or more.
    select, exclude : regex or regexes, optional
        Which tensors of each.
    threads, progress
        As for `scan`.

    Returns
    -------
    Siblings

    Raises
    ------
    UsageError
        There are less than two, or one is no GGUF.
    SelectionError, ModelFileError, OSError
    """
    opened = [open_gguf(model, remote=True) for model in models]
    if len(opened) < 2:
        raise UsageError("there is nothing to compare: give two models or more")
    chosen = [{tensor.name: tensor for tensor in model.select(select, exclude)} for model in opened]
    native.expect_work("rounding", sum(tensor.values for tensor in chosen[0].values()))
    tensors = tuple(_kins(opened, chosen, threads, progress))
    differs = [any(one.relations[number].kin is not Kin.SAME for one in tensors) for number in range(len(opened) - 1)]
    members = tuple(
        Sibling(
            str(model.path),
            scan(model, select, exclude, blocks=False, threads=threads).origins() if is_telling and _plain(own) else {},
        )
        for model, own, is_telling in zip(opened, chosen, (any(differs), *differs), strict=True)
    )
    return Siblings(members, tensors)


def _plain(tensors: dict[str, Tensor]) -> bool:
    return any(tensor.type in FLOAT_BYTES for tensor in tensors.values())


def _kins(
    models: Sequence[Model], chosen: Sequence[dict[str, Tensor]], threads: int | None, progress: Progress | None
) -> Iterator[TensorKin]:
    """Compare tensor after tensor."""
    architecture = models[0].architecture
    step = stepper(progress, sum(tensor.nbytes for tensor in chosen[0].values()))
    for name in dict.fromkeys(name for tensors in chosen for name in tensors):
        found = [_found(model, tensors, name) for model, tensors in zip(models, chosen, strict=True)]
        change = change_of(architecture, name)
        is_made = any(row.kind is Kind.MADE for row in transforms_of(architecture, name))
        first, *others = zip(models, found, strict=True)
        relations = tuple(_relation(first, other, is_made, change, threads) for other in others)
        tensor = next(tensors[name] for tensors in chosen if name in tensors)
        types = tuple(one.type if one else None for one in found)
        yield TensorKin(printable(name), types, relations, tensor.values, _coverage(tensor, relations))
        step(found[0].nbytes if found[0] else 0)


def _found(model: Model, tensors: dict[str, Tensor], name: str) -> Tensor | None:
    """Return a model's tensor; for an output that it lacks, the embedding, which is the output then, too."""
    found = tensors.get(name)
    if found is None and name == "output.weight":
        found = next((tensor for tensor in model.tensors if tensor.name == "token_embd.weight"), None)
    return found


def _relation(
    ours: tuple[Model, Tensor | None],
    theirs: tuple[Model, Tensor | None],
    is_made: bool,
    change: Change | None,
    threads: int | None,
) -> Relation:
    """Tell what a model's tensor is to the first model's."""
    (one, first), (two, other) = ours, theirs
    if first is None or other is None:
        if is_made:
            return Relation(Kin.MADE)
        return Relation(Kin.ABSENT if first else Kin.EXTRA if other else Kin.SAME)
    if first.shape != other.shape:
        return Relation(Kin.OTHER_SHAPE)
    with one.map({first.part}) as left, two.map({other.part}) as right:
        return relation(Side(first, left), Side(other, right), change, threads)


def _coverage(tensor: Tensor, relations: Sequence[Relation]) -> Coverage:
    return Coverage.merge(
        Coverage.of_tensor(tensor, one.detail if one.kin is Kin.UNCOMPARED else None) for one in relations
    )
