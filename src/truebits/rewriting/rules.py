"""Which tensor is rounded to which format: ``REGEX=FORMAT``, the first that matches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from truebits.errors import SelectionError, UsageError, printable
from truebits.files.model import Model, Regexes, pattern
from truebits.files.tensor import Tensor
from truebits.files.types import FLOAT_BYTES
from truebits.numbers.formats import GgmlType, Target
from truebits.numbers.spelling import target
from truebits.precision.coverage import count
from truebits.precision.symptoms import is_matrix
from truebits.quantizers.blocks import has_values

KEEP = "keep"
"""In place of a format: the tensor stays as it is."""

LARGEST_FILE = 1 << 20
"""Bytes of a rules file: more is not one."""

Pairs = list[tuple[Tensor, Target]]


class Assignment(NamedTuple):
    """Which tensors are to be rounded, and which are left though nobody asked for that.

    Attributes
    ----------
    pairs : list of (Tensor, Target)
        Tensors of plain floating-point types, in file order.
    left : tuple of Tensor
        Norms and biases, which llama.cpp leaves when it quantizes to a block type.
    """

    pairs: Pairs
    left: tuple[Tensor, ...] = ()


class Rule(NamedTuple):
    """Tensors whose name `regex` is found in are rounded to `format`, or kept."""

    regex: str
    format: str

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read ``REGEX=FORMAT``; the last ``=`` counts.

        Raises
        ------
        UsageError
        """
        regex, equals, format = (part.strip() for part in text.rpartition("="))
        if not (regex and equals and format):
            raise UsageError(f"a rule is REGEX=FORMAT or REGEX={KEEP}, not {printable(text)!r}")
        if format.lower() != KEEP:
            target(format)
        pattern(regex)
        return cls(regex, format.lower())


def read_rules(path: str | os.PathLike[str]) -> list[Rule]:
    """Read a file of one rule per line; empty lines and those that begin with ``#`` say nothing.

    Raises
    ------
    UsageError
        With the number of the line.
    """
    path, rules = Path(path), []
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{path} is larger than {LARGEST_FILE} bytes: not a file of rules")
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                rules.append(Rule.parse(line))
            except UsageError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
    return rules


def assign(model: Model, to: str | None, rules: Iterable[Rule | str], select: Regexes, exclude: Regexes) -> Assignment:
    """Give each tensor that is to be rounded its format.

    Parameters
    ----------
    model : Model
    to : str, optional
        For tensors that no rule matches; they are kept if it is not given. A block type of ggml leaves tensors of one
        dimension: only a rule gives it to these.
    rules : iterable of Rule or str
    select, exclude : regex or regexes, optional

    Returns
    -------
    Assignment

    Raises
    ------
    UsageError
        No format is given, a rule matches nothing, or one asks for a tensor that is not of such a type.
    """
    parsed = [rule if isinstance(rule, Rule) else Rule.parse(rule) for rule in rules]
    if to is None and not parsed:
        raise UsageError("give a format: --to FORMAT, or --rule REGEX=FORMAT")
    default = target(to) if to is not None else None
    chosen = model.select(select, exclude)
    regexes = [pattern(rule.regex) for rule in parsed]
    used, pairs, left = set(), [], []
    for tensor in chosen:
        number = next((i for i, regex in enumerate(regexes) if regex.search(tensor.name)), None)
        used.add(number)
        format = default if number is None else _of(parsed[number])
        if format is None:
            continue
        if tensor.type in FLOAT_BYTES:
            if number is None and is_left(tensor, format):
                left.append(tensor)
            else:
                pairs.append((tensor, format))
        elif number is not None or select:
            raise _refusal(tensor)
    for number, rule in enumerate(parsed):
        if number not in used:
            raise SelectionError(_unused(rule, chosen))
    if not pairs:
        raise SelectionError(only_left(chosen, default.name) if left and default else _nothing(chosen))
    return Assignment(pairs, tuple(left))


def _of(rule: Rule) -> Target | None:
    return None if rule.format == KEEP else target(rule.format)


def _refusal(tensor: Tensor) -> SelectionError:
    kind = "holds whole numbers" if tensor.type.startswith("I") and tensor.type[1:].isdigit() else "is block-quantized"
    return SelectionError(
        f"{tensor.label} {kind} ({tensor.type}): it has no values of its own to round, and other scales would be "
        "another quantization; exclude it (-L), keep it (--rule 'REGEX=keep', first), or start from an unquantized file"
    )


def _unused(rule: Rule, chosen: tuple[Tensor, ...]) -> str:
    text = f"--rule {printable(rule.regex)}={rule.format}"
    if any(pattern(rule.regex).search(tensor.name) for tensor in chosen):
        return f"{text} is never reached: rules before it take every tensor that it matches"
    names = ", ".join(tensor.label for tensor in chosen[:3])
    return f"{text} matches none of the {len(chosen)} tensors; their names look like: {names}"


def is_left(tensor: Tensor, format: Target) -> bool:
    """Tell whether a format leaves a tensor that no rule names: llama.cpp quantizes no norms and biases."""
    return isinstance(format, GgmlType) and not is_matrix(tensor)


def only_left(selected: Sequence[Tensor], format: str) -> str:
    """Say why nothing is rounded where a format leaves all tensors that have values of their own."""
    left = [tensor for tensor in selected if tensor.type in FLOAT_BYTES]
    have = f" and {count(len(left) - 1, 'other')} have" if left[1:] else " has"
    told = (
        f"{left[0].label}{have} one dimension, which {format} leaves as llama.cpp does; --rule 'REGEX={format}' rounds "
        "what it names all the same"
    )
    quantized = sum(has_values(tensor.type) for tensor in selected)
    return told + (f", --dequantize makes values of {count(quantized, 'quantized tensor')} first" if quantized else "")


def _nothing(chosen: tuple[Tensor, ...]) -> str:
    others = ", ".join(sorted({tensor.type for tensor in chosen if tensor.type not in FLOAT_BYTES}))
    if others:
        return f"no F32, F16, BF16 or F64 tensor is selected, only {others}: they have no values of their own to round"
    return "every tensor is kept: nothing is to be rounded"


def saved_bits(model: Model, pairs: Pairs) -> int:
    """Return how many bits formats take less than the tensors' storage types, shared scales counted."""
    return sum(
        8 * tensor.nbytes - int(format.stored_bits(tensor.values, model.row(tensor))) for tensor, format in pairs
    )


def bits_per_weight(model: Model, pairs: Pairs) -> float | None:
    """Return the bits per weight of a whole model of which some tensors take what their formats take.

    None where it has no weight.
    """
    stored = 8 * sum(tensor.nbytes for part in model.parts for tensor in part.header.tensors)
    return (stored - saved_bits(model, pairs)) / model.values if model.values else None
