"""What every result can be turned into: a JSON document, a data frame, an Arrow table, a table in a notebook."""

from __future__ import annotations

from importlib import import_module
from math import isfinite
from typing import Any, ClassVar

from truebits.errors import MissingExtra


class Result:
    """Base of all results: frozen dataclasses, which say in `content` what their document holds.

    Attributes
    ----------
    verb : str
        Of the document's schema, ``truebits.<verb>/1``.
    rows_of_document : str
        Key of the document's list that tables are made of.
    """

    verb: ClassVar[str]
    rows_of_document: ClassVar[str] = "tensors"

    def content(self) -> dict[str, Any]:
        """Return what the document holds, but for its schema."""
        raise NotImplementedError

    @property
    def summary(self) -> str:
        """The result in one short line."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document; null (None) for NaN and Inf, which JSON does not have."""
        document: dict[str, Any] = finite({"schema": f"truebits.{self.verb}/1", **self.content()})
        return document

    def to_records(self) -> list[dict[str, Any]]:
        """Return a flat dict per row of the document's table; keys of inner objects are joined with a dot."""
        return [_flat(row) for row in self.to_dict()[self.rows_of_document]]

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`.

        Raises
        ------
        MissingExtra
            pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtra("A data frame", "pandas") from None
        return pandas.DataFrame(self.to_records())

    def to_arrow(self) -> Any:
        """Return the table as a `pyarrow.Table`.

        Raises
        ------
        MissingExtra
            pyarrow is not installed.
        """
        try:
            import pyarrow
        except ImportError:
            raise MissingExtra("An Arrow table", "arrow") from None
        return pyarrow.Table.from_pylist(self.to_records())

    def plot(self, of: str | None = None) -> Any:
        """Draw the result: a heat map of layer and tensor, or what tells more.

        Parameters
        ----------
        of : str, optional
            Which figure; the first that there is, if not given. A wrong one is answered with those that there are.

        Returns
        -------
        matplotlib.figure.Figure
            Which notebooks show; ``figure.savefig("picture.png")`` keeps it.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        UsageError
            There is nothing to draw.
        """
        # found by name, as data frames find what plots them: what draws results stands above them
        return import_module("truebits.report.plot").figure(self, of)

    def _repr_html_(self) -> str:
        """Show in a notebook what the result comes to, and the first rows of its table; names are escaped."""
        return import_module("truebits.report.notebook").html(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary}>"


def finite(value: Any) -> Any:
    """Return a document's value with null for NaN and Inf, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = value
    return flat
