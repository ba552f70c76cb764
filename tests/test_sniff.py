"""What a file is by how it starts, and what it looks like that is none of ours."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest

from truebits import errors
from truebits.files.model import open_model
from truebits.files.sniff import format_of


def test_empty_file(refused):
    refused(b"", errors.EmptyFile, "E_EMPTY", 0, 0, 24)


@pytest.mark.parametrize(
    ("head", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\r\n <html lang=en>", "HTML"),
        (b"<head><title>404</title>", "HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b"<Error><Code>NoSuchKey</Code></Error>", "XML"),
        (b'{"error":"Repository not found"}', "JSON"),
        (b'{"err": {"a": 1}}', "JSON"),
        (b' [{"error": 1}]', "JSON"),
        (b"\x1f\x8b\x08\x00\x00", "gzip"),
        (b"PK\x03\x04\x14\x00", "TorchScript"),
        (b"\x7fELF\x02\x01", "executable"),
        (b"MZqFpD='\n", "llamafile"),
        (b"tjgg\x03\0\0\0", "old GGML"),
        (b"ggjt\x03\0\0\0", "old GGML"),
        (b"lmgg\x20\0\0\0", "old GGML"),
        (b"fmgg\x01\0\0\0", "old GGML"),
        (b"algg\x01\0\0\0", "old GGML"),
        (b"lmgg" + bytes(44), "whisper.cpp"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\0", "NumPy array"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json"', "ollama:NAME"),
        (b"\xef\xbb\xbfGGUF", "byte-order mark"),
        (bytes(3), "unfinished download"),
        (bytes(5000), "unfinished download"),
        (b"RIFF", "47 47 55 46"),
        (b"RIFF", "52 49 46 46"),
        (b"G", "47"),
    ],
)
def test_not_gguf_says_what_it_looks_like(refused, head, hint):
    refused(head, errors.NotGGUF, "E_NOT_GGUF", 0, hint)


def test_onnx_by_its_name(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(errors.NotGGUF, match=r"ONNX model.*exported from"):
        open_model(path)


def pickled(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"weight": [1.0]}, 2))
    return path


def zipped(path: Path, name: str = "archive/data.pkl") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, pickle.dumps({}, 2))
    return path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.safetensors", "x"])
@pytest.mark.parametrize("write", [pickled, zipped])
def test_pickles_are_refused_with_a_way_to_convert_them(tmp_path, name, write):
    with pytest.raises(errors.PickleRefused) as caught:
        open_model(write(tmp_path / name))
    got = caught.value
    assert (got.code, got.exit_code) == ("E_PICKLE", 3)
    assert "\n" not in str(got)
    assert "never loaded" in got.message
    assert "weights_only=True" in got.message
    command = got.message.split("python -c ")[1].split('"')[1]
    compile(command, "command", "exec")
    assert got.message.endswith(f"{name} {Path(name).with_suffix('.safetensors')}")


def test_a_checkpoint_zip_of_any_inside_is_refused_by_its_name(tmp_path):
    with pytest.raises(errors.PickleRefused):
        open_model(zipped(tmp_path / "model.pt", "something/else"))
    with pytest.raises(errors.NotGGUF, match="zip"):
        open_model(zipped(tmp_path / "model.zip", "something/else"))


def test_a_pickle_is_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "loaded"),)

    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(errors.PickleRefused):
        open_model(path)
    assert not (tmp_path / "loaded").exists()


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (b"GGUF", "m.safetensors", "gguf"),
        (b"\x08\0\0\0\0\0\0\0{", "m.gguf", "safetensors"),
        (b"\x08\0\0\0\0\0\0\0x", "m.safetensors", errors.NotSafetensors),
        (b"\xff" * 8 + b"{", "m.safetensors", "safetensors"),
        (b"\1", "m.safetensors", "safetensors"),
        (b"", "m.safetensors", errors.EmptyFile),
        (b" \n{", "i.json", "index"),
        (b"{", "i.txt", errors.NotGGUF),
        (b"[", "i.json", errors.NotGGUF),
        (b"FUGG", "m", errors.BigEndian),
        (b"\x80\x02}.", "m", errors.PickleRefused),
        (b"\x80\x06}.", "m", errors.NotGGUF),
        (b"PK\x03\x04", "m.pt", errors.PickleRefused),
        (b"PK\x03\x04", "m.zip", errors.NotGGUF),
    ],
)
def test_format_of(head, name, expected):
    if isinstance(expected, str):
        assert format_of(head, Path(name)) == expected
    else:
        with pytest.raises(errors.ModelFileError) as caught:
            format_of(head, Path(name))
        assert type(caught.value) is expected
