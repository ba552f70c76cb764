"""The same values in fewer bytes: every tensor in the narrowest type that holds what it holds.

Proved three times: by counts, or block by block, before anything is written; as each piece is made, by reading it
back as values; and by the hash of all values, of the new files against that of the old ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from truebits.errors import UsageError, VerificationFailed, printable
from truebits.files.claims import FILE_TYPES
from truebits.files.gguf import Limits
from truebits.files.mapping import MappedFile
from truebits.files.model import Model, Regexes, open_local
from truebits.files.part import read_part
from truebits.files.tensor import Tensor
from truebits.files.types import BY_NAME, FLOAT_BYTES
from truebits.numbers.words import from_singles, to_singles
from truebits.precision.batches import Progress
from truebits.precision.coverage import count
from truebits.precision.hashing import TensorFingerprint, fingerprints, together
from truebits.quantizers.blocks import block_quantized, block_values
from truebits.quantizers.meaning import Meaning
from truebits.quantizers.quantized import Arrays, Quantized
from truebits.quantizers.small_floats import plain
from truebits.quantizers.upcasts import repacked, rounded
from truebits.quantizers.weights import meaning_of
from truebits.result import Result
from truebits.rewriting.fp8_folder import Plan, read_back, scale_name, with_scales
from truebits.rewriting.mended import mend_config, mend_index
from truebits.rewriting.narrowest import Choice, Rules, forget, is_kept, narrowest, own_words, singles, spans
from truebits.rewriting.operation import open_to_rewrite
from truebits.rewriting.outputs import NewFile, check_output, is_folder, new_model
from truebits.rewriting.relaid import Relaid, check_layouts, copied, gguf_head, in_layout, safetensors_head, write
from truebits.rewriting.scaled import row_spans
from truebits_native.pool import in_order

ALLOWANCES = ("rounding",)

MXFP4_MOE = 38
"""The only ``llama_ftype`` of MXFP4."""


@dataclass(frozen=True, repr=False)
class Shrunk(Result):
    """What `shrink` found and wrote.

    Attributes
    ----------
    file : str
    output : str or None
        None where nothing was written: a dry run, or nothing is to be saved.
    tensors : tuple of Choice
        The selected floating-point tensors, in file order.
    nbytes : int
        Of all tensors, before.
    fingerprint : str or None
        Of the floating-point tensors before and of what became of them; None where nothing was written. Values that
        are finer now count as what they were rounded to.
    """

    verb = "shrink"

    file: str
    output: str | None
    tensors: tuple[Choice, ...] = field(repr=False)
    nbytes: int
    fingerprint: str | None = None

    @property
    def changed(self) -> tuple[Choice, ...]:
        """The tensors that get another type."""
        return tuple(one for one in self.tensors if one.changes)

    @property
    def saved(self) -> int:
        """Bytes."""
        return sum(one.tensor.nbytes - one.nbytes for one in self.changed)

    @property
    def finer(self) -> int:
        """Values that differ from those of the file, by one rounding."""
        return sum(one.finer for one in self.changed)

    @property
    def summary(self) -> str:
        """Say it in one line."""
        kinds = Counter((one.tensor.type, one.to) for one in self.changed)
        if not kinds:
            whys = Counter(one.why for one in self.tensors if one.why)
            kept = sum(not one.wanted for one in self.tensors)
            tried = len(self.tensors) - kept - whys.total()
            why = [f"{count(number, 'tensor')} {said}" for said, number in whys.items()]
            why += [f"no type tried holds the values of {count(tried, 'tensor')}"] if tried else []
            why += [f"{count(kept, 'tensor')} not tried, for llama.cpp (--all tries them, too)"] if kept else []
            return f"nothing to save: {', '.join(why) or 'no tensor is of a floating-point type'}"
        said = ", ".join(f"{number:,} {was} as {to}" for (was, to), number in kinds.items())
        same = f"all but {self.finer:,} values the same" if self.finer else "the same values"
        return f"{said}: {same} in {100 * (1 - self.saved / self.nbytes):.1f} % of the bytes"

    def content(self) -> dict[str, Any]:
        """Return what the JSON document holds, but for its schema."""
        return {
            "file": self.file,
            "output": self.output,
            "written": self.output is not None,
            "bytes_before": self.nbytes,
            "bytes_after": self.nbytes - self.saved,
            "values_finer": self.finer,
            "fingerprint": self.fingerprint,
            "tensors": [
                {
                    "name": printable(one.tensor.name),
                    "from": one.tensor.type,
                    "to": one.to,
                    "values": one.tensor.values,
                    "blocks": one.blocks,
                    "bytes_before": one.tensor.nbytes,
                    "bytes_after": one.nbytes,
                    "values_finer": one.finer,
                    "kept_for_llama_cpp": not one.wanted,
                    "scales_per": one.scaled.per if one.scaled else None,
                    "scales": one.scaled.scales.size if one.scaled else None,
                    "why": one.why or None,
                    "almost": one.stray._asdict() if one.stray else None,
                }
                for one in self.tensors
            ],
        }


def shrink(
    source: Model | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    select: Regexes = None,
    exclude: Regexes = None,
    *,
    keep_f32: bool = True,
    allow: Iterable[str] = (),
    dry_run: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Shrunk:
    """Write a model with every tensor in the narrowest type that holds the same values.

    F64 and F32 become BF16 or F16 where each value is exact in it, in safetensors FP8, too. In GGUF a matrix that
    holds nothing but what Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, MXFP4 or NVFP4 blocks stand for becomes these blocks again; in
    a folder one that holds nothing but FP8 codes times scales becomes these, and ``config.json`` says so.
    Where nothing is to be saved nothing is written.

    Parameters
    ----------
    source : Model or path-like
    out : path-like, optional
        The new file; for a shard set the name of its first file, for a folder that of a new one. Not needed for a
        dry run.
    select, exclude : regex or regexes, optional
        Which tensors; all of type F32, F16, BF16 and F64 if not given.
    keep_f32 : bool
        In GGUF leave norms, and matrices that llama.cpp wants in F32, as they are. False is for archives.
    allow : iterable of str
        ``rounding``: in F16 and BF16 the values of most block types, and of FP8 with scales, were rounded once more.
        They become the blocks or codes all the same, which are finer then, by no more than that rounding.
    dry_run : bool
        Find and prove all of it, but write nothing.
    force : bool
        Replace `out` if it exists.
    threads, progress
        As for `scan`.

    Returns
    -------
    Shrunk

    Raises
    ------
    UsageError
        No output is given, or it is the input.
    Refused
        The output exists, or the files have bytes of no tensor, which would be lost.
    VerificationFailed
        What was written does not hold the same values; nothing is left behind.
    ModelFileError, OSError
    """
    unknown = set(allow) - set(ALLOWANCES)
    if unknown:
        raise UsageError(f"--allow {', '.join(sorted(unknown))}: allowed is {', '.join(ALLOWANCES)}")
    if out is None and not dry_run:
        raise UsageError("give an output, or --dry-run to see what would be saved")
    model = open_local(source)
    check_layouts(model)
    if out is not None:
        check_output(model, Path(out), force)
    chosen = [one for one in open_to_rewrite(model, bool(select)).select(select, exclude) if one.type in FLOAT_BYTES]
    has_fp8 = model.format == "safetensors" and not meaning_of(model).quantized
    rules = Rules(has_fp8, keep_f32, "rounding" in allow)
    plan = with_scales(model, narrowest(model, chosen, rules, threads, progress), rules, threads, progress)
    found = Shrunk(str(model.path), None, tuple(plan.choices), sum(tensor.nbytes for tensor in model.tensors))
    if out is None or dry_run or not found.changed:
        return found
    written = _write(model, Path(out), plan, force, threads, progress)
    return replace(found, output=str(out), fingerprint=written)


def _write(model: Model, out: Path, plan: Plan, force: bool, threads: int | None, progress: Progress | None) -> str:
    """Write all files of the model anew, and return the fingerprint of them, which is the old one."""
    changed = {one.tensor.name: one for one in plan.choices if one.changes}
    with ExitStack() as stack, new_model(model, out, force) as files:
        ours = [stack.enter_context(part.map()) for part in model.parts]
        relaid: list[list[Relaid]] = [[] for _ in files]
        for one in model.tensors:
            relaid[one.part] += _relaid(ours[one.part], one, changed.get(one.name), threads)
        total, done = sum(one.nbytes for of_file in relaid for one in of_file), 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(min(done, total), total)

        file_type = _file_type(model, [one for of_file in relaid for one in of_file])
        for part, file, mine in zip(model.parts, files, relaid, strict=True):
            if model.format == "gguf":
                head = gguf_head(part, mine, file_type)
            else:
                mine = in_layout(mine)
                head = safetensors_head({key: str(part.value(key)) for key in part.header.keys}, mine)
            write(file, head[0], mine, head[1], moved)
        if is_folder(model):
            places = {scale_name(one): files[one.tensor.part].path.name for one in changed.values() if one.scaled}
            mend_index([file.path for file in files], total, places)
        if plan.settings is not None:
            mend_config(files[0].path.parent, model.config, plan.settings)
        return _proved(model, files, plan, threads)


def _relaid(file: MappedFile, tensor: Tensor, choice: Choice | None, threads: int | None) -> list[Relaid]:
    """Return a tensor as the new file has it; with its scales, if it gets such."""
    if choice is None:
        return [copied(file, tensor)]
    scaled = choice.scaled
    block = BY_NAME[choice.to].values
    whole = spans(tensor.values, block) if scaled is None else row_spans(tensor)

    def pieces() -> Iterator[np.ndarray]:
        yield from in_order(lambda span: _made(file, choice, *span), whole, threads)

    made = Relaid(tensor.name, choice.to, tensor.shape, choice.nbytes, pieces)
    if scaled is None:
        return [made]
    scales = scaled.scales
    of = Relaid(scale_name(choice), "F32", scales.shape, scales.nbytes, lambda: iter([scales.reshape(-1).view("u1")]))
    return [made._replace(nbytes=scaled.values), of]


def _made(file: MappedFile, choice: Choice, first: int, count: int) -> np.ndarray:
    """Return the bytes of some values in their new type; raises `VerificationFailed` if they give back others."""
    tensor, to = choice.tensor, choice.to
    words = singles(file, tensor, first, count)
    if choice.scaled is not None:
        rows = words.reshape(-1, tensor.shape[1])
        codes, scales = choice.scaled.codes(rows, tensor.shape, first // tensor.shape[1])
        made = codes.reshape(-1)
        same = (rounded(to_singles(codes, to).view(np.float32) * scales, tensor.type) == rows).reshape(-1)
    elif choice.blocks:
        stored = tensor.type if choice.finer else "F32"
        made = repacked(words, to, stored).raw
        same = rounded(block_values(made, to), stored) == words
    else:
        made = from_singles(words, to, 1)
        same = is_kept(own_words(file, tensor, first, count), tensor.type, to)
    if not same.all():
        raise VerificationFailed(f"tensor {tensor.label}: value {first + int(same.argmin()):,} is another one in {to}")
    forget(file, tensor, first, count)
    return made if made.dtype == np.uint8 else made.view(np.uint8)


def _file_type(model: Model, relaid: Sequence[Relaid]) -> int | None:
    """Return ``general.file_type`` for what most of the new file is; None where that is what it was."""
    was = _main_type((one.type, one.shape) for one in model.tensors)
    now = _main_type((one.type, one.shape) for one in relaid)
    numbers = {name: number for number, name in FILE_TYPES.items()} | {"MXFP4": MXFP4_MOE}
    return numbers.get(now) if now != was else None


def _main_type(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Return the type that most of the matrices' values are stored in."""
    values: Counter[str] = Counter()
    for type, shape in tensors:
        values[type] += prod(shape) if len(shape) > 1 else 0
    return values.most_common(1)[0][0]


def _proved(model: Model, files: Sequence[NewFile], plan: Plan, threads: int | None) -> str:
    """Return the hash of all floating-point values, which is that of the new files' too.

    Raises
    ------
    VerificationFailed
    """
    changed = {one.tensor.name: one for one in plan.choices if one.changes and one.to not in FLOAT_BYTES}
    parts = tuple(read_part(file.opened, number, Limits(), model.format) for number, file in enumerate(files))
    written = Model(model.path, parts, tuple(tensor for part in parts for tensor in part.header.tensors))
    tensors = {tensor.name: tensor for tensor in written.tensors}
    quantized = {name: _meant(tensors, one, plan) for name, one in changed.items()}
    meant = [tensors[tensor.name] for tensor in model.tensors]
    after = {one.name: one for one in fingerprints(Meaning(written, quantized), meant, threads)}
    before: list[TensorFingerprint] = list(fingerprints(Meaning(model), model.tensors, threads))
    for one in before:
        if after[one.name].hash != one.hash:
            raise VerificationFailed(f"tensor {printable(one.name)}: what was written holds other values")
    return together(one for one in before if one.kind == "values")


def _meant(tensors: Mapping[str, Tensor], choice: Choice, plan: Plan) -> Quantized:
    """Return a tensor of the new file as what it means; values that are finer now as what they were rounded to."""
    tensor = tensors[choice.tensor.name]
    if choice.scaled is not None:
        one = read_back(tensor, tensors[scale_name(choice)], plan)
    else:
        one = block_quantized(tensor) if choice.blocks else plain(tensor)
    if not choice.finer:
        return one

    def rows(arrays: Arrays, first: int, stop: int) -> np.ndarray:
        return rounded(one.rows(arrays, first, stop), choice.tensor.type).view(np.float32)

    return replace(one, rows=rows)
