"""One file of a model, its header read."""

import os

import pytest

from gguf_bytes import STRING, U8, U32, alignment, array, key_value, named_tensors, scalar, string, tensor
from gguf_bytes import gguf as gguf_bytes
from safetensors_bytes import safetensors
from truebits import errors
from truebits.files import mapping
from truebits.files.gguf import Limits
from truebits.files.mapping import FileChanged, MappedFile
from truebits.files.part import read_part
from truebits.files.tensor import Oddity

KEYS = [key_value(b"name", STRING, string(b"abc")), key_value(b"list", 9, array(U8, [b"\1", b"\2"])), alignment(32)]


@pytest.fixture
def part(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(named_tensors(["a", "b"], KEYS))
    return read_part(path, 0, Limits(), "gguf")


def test_values_of_its_metadata(part):
    assert (part.value("name"), part.value("general.alignment")) == ("abc", 32)
    assert (part.value("list"), part.value("absent")) == (None, None)
    assert part.elements("list") == [1, 2]
    assert (part.elements("name"), part.elements("absent")) == (["abc"], [])
    contents = part.path.read_bytes()
    assert contents[part.key_offset("name") :].startswith(string(b"abc"))
    assert part.key_offset("absent") == 0
    with part.map() as file:
        assert part.raw_value(file.data, "name") == (STRING, string(b"abc"))
        assert part.raw_value(file.data, "general.alignment") == (U32, scalar(U32, 32))
        assert part.raw_value(file.data, "list") == (9, array(U8, [b"\1", b"\2"]))


def test_text_of_both_formats_compares_alike(tmp_path, part):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"a": ("F32", (1,), bytes(4))}, {"name": "abc"}))
    other = read_part(path, 0, Limits(), "safetensors")
    with part.map() as one, other.map() as two:
        assert part.raw_value(one.data, "name") == other.raw_value(two.data, "name")


def test_the_number_of_a_part_is_its_tensors(part):
    assert {tensor.part for tensor in read_part(part.path, 3, Limits(), "gguf").header.tensors} == {3}


def test_a_copy_has_the_same_header_and_another_identity(part, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(part.path.read_bytes())
    got = part.at(copy)
    assert got.path == copy
    assert got.header.tensors == part.header.tensors
    with got.map() as file:
        assert file.data[:] == copy.read_bytes()
    os.utime(copy, ns=(0, 0))
    with pytest.raises(FileChanged):
        got.map()


@pytest.mark.parametrize(("stops", "expected"), [(True, errors.OddLayout), (False, None)])
def test_what_stops_a_writer(part, stops, expected):
    part.check_layout()
    odd = part.with_finding(Oddity(errors.OddLayout, 7, "odd", stops))
    assert part.with_finding(None) is part
    assert len(odd.findings) == 1
    if expected:
        with pytest.raises(expected, match="at byte 7: odd"):
            odd.check_layout()
    else:
        odd.check_layout()


def test_a_model_has_files_of_one_format(part):
    with pytest.raises(errors.BadShardSet, match="a file of format gguf among safetensors files"):
        read_part(part.path, 0, Limits(), "safetensors")


class Growing(MappedFile):
    """A file of which little is there at first, as one behind a URL."""

    there = 300
    grown = 0

    @property
    def known(self):
        return min(self.there, self.identity.size)

    def grow(self):
        self.there *= 2
        self.grown += 1


@pytest.fixture
def long_header(tmp_path, monkeypatch):
    path = tmp_path / "long.gguf"
    infos = [tensor(b"%060d" % number, offset=32 * number) for number in range(50)]
    path.write_bytes(gguf_bytes([], infos, bytes(32 * 50)))
    monkeypatch.setitem(mapping.REMOTE, path, Growing)
    return path


def test_as_much_of_a_remote_file_is_asked_for_as_its_header_takes(long_header):
    got = read_part(long_header, 0, Limits(), "gguf")
    assert len(got.header.tensors) == 50
    with got.map() as file:
        assert file.grown == 0


def test_no_more_than_the_limit_is_asked_for(long_header, monkeypatch):
    grown = []
    monkeypatch.setattr(Growing, "grow", lambda file: (grown.append(file), setattr(file, "there", 2 * file.there)))
    with pytest.raises(errors.LimitExceeded):
        read_part(long_header, 0, Limits(max_header_bytes=1000), "gguf")
    assert len(grown) == 2
