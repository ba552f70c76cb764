"""What a name spells: a format of the catalogue, any eXmY, or an integer with its options."""

from __future__ import annotations

import re
from typing import Any

from truebits.errors import UsageError
from truebits.numbers.formats import BLOCK_TYPES, CATALOGUE, SHARED, Format, Integer, Target

ALIASES = {
    **{"f16": "fp16", "fp32": "f32", "fp64": "f64", "bfloat16": "bf16", "float16": "fp16", "float32": "f32"},
    **{name.removeprefix(prefix): name for name in CATALOGUE for prefix in ("fp8_", "fp6_", "fp4_") if prefix in name},
    "fp4": "fp4_e2m1fn",
}

LARGEST_BLOCK = 1 << 16

_CUSTOM = re.compile(r"e([2-8])m(\d+)", re.ASCII)
_INTEGER = re.compile(r"int(\d{1,2})", re.ASCII)
_BLOCK = re.compile(r"block(\d{1,6})", re.ASCII)


def find(name: str) -> Format:
    """Return the format called `name`: one of the catalogue, or any ``eXmY``.

    An ``eXmY`` has X exponent bits (2 to 8), Y mantissa bits (0 to 23), the IEEE bias
    ``2**(X - 1) - 1``, Inf, and NaN if Y is not 0.

    Raises
    ------
    UsageError
        No such format; names the nearest ones.
    """
    key = ALIASES.get(name.lower(), name.lower())
    if key in CATALOGUE:
        return CATALOGUE[key]
    match = _CUSTOM.fullmatch(key)
    if match and int(match[2]) <= 23:
        exponent_bits, mantissa_bits = int(match[1]), int(match[2])
        bias = (1 << (exponent_bits - 1)) - 1
        return Format(key, exponent_bits, mantissa_bits, bias, "ieee", "IEEE 754 style, by its widths")
    raise _unknown(name, [*CATALOGUE, *ALIASES])


def title_of(name: str) -> str:
    """Return a format's name as sentences have it: ``FP8 E4M3FN``."""
    return name.upper().replace("FP8_", "FP8 ")


def target(name: str) -> Target:
    """Return what `name` spells: a format of `find`, or one whose values share scales.

    ``intN`` (N from 2 to 16) takes options after colons: ``block32`` (the default; any number),
    ``row`` or ``tensor``: what has a scale; ``affine``; ``mse``. As in ``int4:block128:affine``.

    Raises
    ------
    UsageError
        No such format, or an option that it does not have.
    """
    key, *options = name.lower().split(":")
    match = _INTEGER.fullmatch(key)
    if match and 2 <= int(match[1]) <= 16:
        return _integer(int(match[1]), options)
    found: Target | None = SHARED.get(key) or BLOCK_TYPES.get(key)
    if found is None:
        try:
            found = find(key)
        except UsageError:
            raise _unknown(key, [*CATALOGUE, *ALIASES, *SHARED, *BLOCK_TYPES, "int8", "int4"]) from None
    if options:
        raise UsageError(f"{key} has no option {options[0]!r}: only intN has any")
    return found


def _integer(bits: int, options: list[str]) -> Integer:
    values: dict[str, Any] = {}
    for option in options:
        match = _BLOCK.fullmatch(option)
        if match and 1 < int(match[1]) <= LARGEST_BLOCK:
            new = {"per": "block", "block": int(match[1])}
        elif option in ("row", "tensor"):
            new = {"per": option}
        elif option in ("affine", "mse"):
            new = {option: True}
        else:
            raise UsageError(
                f"int{bits} has no option {option!r}: there are blockN (N from 2 to {LARGEST_BLOCK}), "
                "row, tensor, affine, mse"
            )
        if values.keys() & new.keys():
            raise UsageError(f"int{bits}: {option!r} says a second time what was said before")
        values |= new
    return Integer(bits, **values)


MEANT = {
    "fp8": "there are two: fp8_e4m3fn, which weights are usually stored in, and fp8_e5m2",
    "fp6": "there are two: fp6_e2m3fn and fp6_e3m2fn",
}
"""Names that somebody may mean something by, and what."""

_RECIPE = re.compile(r"(i?q\d_k)_([sml])", re.ASCII)


def _unknown(name: str, known: list[str]) -> UsageError:
    if name.lower() in MEANT:
        return UsageError(f"{name} is not one format: {MEANT[name.lower()]}")
    if recipe := _RECIPE.fullmatch(name.lower()):
        return UsageError(
            f"{name} is llama.cpp's recipe for a whole model, a type for each tensor; a format is {recipe[1]}: "
            f"--to {recipe[1]} for all, or --rule REGEX=FORMAT for some"
        )
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), known, 3, 0.3) or list(CATALOGUE)
    return UsageError(f"no format is called {name!r}; did you mean {', '.join(near)}? (or eXmY, as e5m7)")
