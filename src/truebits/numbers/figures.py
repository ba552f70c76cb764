"""The error figures of a difference, by their names in JSON documents."""

from __future__ import annotations

from typing import Any

from truebits.result import finite
from truebits_native.reference import Difference


def error_figures(of: Difference | None) -> dict[str, Any]:
    """Return error figures; infinite ones are None: ``saturated`` and ``changed`` tell which.

    All are None where nothing was measured.
    """
    if of is None:
        return dict.fromkeys(error_figures(Difference()))
    figures = {"max_abs": of.max_abs, "max_rel": of.max_rel, "squared_error": of.squared_error, "rms": of.rms}
    figures |= {"mse": of.mse, "squares": of.squares, "snr_db": of.snr_db, "cosine": of.cosine}
    return {"flushed": of.flushed, "saturated": of.saturated, "max_ulp": of.max_ulp, **finite(figures)}
