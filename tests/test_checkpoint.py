"""A checkpoint as Hugging Face keeps it: folder, index, config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_bytes import gguf as gguf_bytes
from gguf_bytes import tensor
from safetensors_bytes import part_of
from truebits import errors
from truebits.errors import ModelFileError
from truebits.files.model import open_model


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two files and their index."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(part_of("a", "b"))
    (folder / "model-00002-of-00002.safetensors").write_bytes(part_of("c"))
    write_index(folder, {"c": 2, "a": 1, "b": 1})
    return folder


def write_index(folder: Path, places: dict[str, int | str], **more: object) -> Path:
    files = {
        name: place if isinstance(place, str) else f"model-{place:05d}-of-00002.safetensors"
        for name, place in places.items()
    }
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 12}, "weight_map": files, **more}))
    return path


def names_and_parts(model) -> list[tuple[str, int]]:
    return [(tensor.name, tensor.part) for tensor in model.tensors]


def test_a_diffusers_pipeline_names_its_models(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for part in ("vae", "transformer", "scheduler"):
        (tmp_path / part).mkdir()
    for part in ("vae", "transformer"):
        (tmp_path / part / "diffusion_pytorch_model.safetensors").write_bytes(part_of("a"))
    with pytest.raises(IsADirectoryError, match="open one of its models, transformer, vae"):
        open_model(tmp_path)
    assert len(open_model(tmp_path / "vae").tensors) == 1


def test_folder_with_an_index(folder):
    for path in (folder, folder / "model.safetensors.index.json"):
        model = open_model(path)
        assert names_and_parts(model) == [("a", 0), ("b", 0), ("c", 1)]
        assert [part.path.name[6:11] for part in model.parts] == ["00001", "00002"]
        assert (model.path, model.format) == (path, "safetensors")


def test_one_shard_is_opened_alone(folder):
    model = open_model(folder / "model-00002-of-00002.safetensors")
    assert names_and_parts(model) == [("c", 0)]


def test_folder_without_an_index(folder):
    (folder / "model.safetensors.index.json").unlink()
    (folder / "README.md").touch()
    assert names_and_parts(open_model(folder)) == [("a", 0), ("b", 0), ("c", 1)]


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors"])
def test_folder_of_one_file(tmp_path, name):
    (tmp_path / name).write_bytes(part_of("a"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}.")
    assert names_and_parts(open_model(tmp_path)) == [("a", 0)]


def test_model_stands_before_other_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(part_of("a"))
    (tmp_path / "consolidated.safetensors").write_bytes(part_of("b"))
    assert names_and_parts(open_model(tmp_path)) == [("a", 0)]


def test_index_of_another_name(folder):
    (folder / "model.safetensors.index.json").rename(folder / "diffusion.safetensors.index.json")
    assert len(open_model(folder).tensors) == 3


def test_folder_of_links_as_the_hub_caches_it(folder, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    folder.rename(blobs)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(blobs.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert len(open_model(snapshot).tensors) == 3
    assert len(open_model(snapshot / "model.safetensors.index.json").tensors) == 3


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", "", "a\\b.safetensors", "a\0b", "./a"],
)
def test_an_index_never_leads_out_of_its_folder(folder, name):
    (folder / "sub").mkdir()
    for place in (folder.parent / "a.safetensors", folder / "sub" / "a.safetensors"):
        place.write_bytes(part_of("c"))
    path = write_index(folder, {"a": 1, "b": 1, "c": name})
    with pytest.raises(errors.BadIndex, match="plain file name") as caught:
        open_model(folder)
    assert caught.value.offset == path.read_bytes().index(b'"c"')


@pytest.mark.parametrize(
    ("places", "error", "words"),
    [
        ({"a": 1, "b": 1, "c": 1}, errors.BadIndex, "tensor c should be in model-00001.*no such tensor"),
        ({"a": 1, "b": 2, "c": 2}, errors.BadIndex, "tensor b should be in model-00002.*it is in model-00001"),
        ({"a": 1, "b": 1, "c": 2, "d": 2}, errors.BadIndex, "tensor d should be in.*no such tensor"),
        ({"a": 1, "b": 1, "c": 3}, errors.BadShardSet, "model-00003-of-00002.safetensors is missing"),
        ({"a": 1, "b": 1, "c": "model.gguf"}, errors.BadShardSet, "gguf among safetensors"),
        ({"a": 1, "b": 1, "c": "model.safetensors.index.json"}, errors.BadShardSet, "index among safetensors"),
        ({}, errors.BadIndex, "no weight_map"),
    ],
)
def test_index_that_is_wrong(folder, places, error, words):
    (folder / "model.gguf").write_bytes(gguf_bytes([], [tensor(b"c")], bytes(32)))
    write_index(folder, places)
    with pytest.raises(error, match=words) as caught:
        open_model(folder)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_an_index_that_leaves_tensors_out_is_only_odd(folder):
    """Biases of some GPTQ checkpoints: loaders pass over them, and nothing is wrong with the others."""
    write_index(folder, {"b": 1, "c": 2})
    model = open_model(folder)
    assert names_and_parts(model) == [("a", 0), ("b", 0), ("c", 1)]
    got = [[(found.error.code, found.message, found.stops_writing) for found in part.findings] for part in model.parts]
    assert got == [[("E_INDEX", "model.safetensors.index.json does not name tensor a", False)], []]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"{", errors.BadJson),
        (b'{"metadata":{}}', errors.BadIndex),
        (b'{"weight_map":[]}', errors.BadIndex),
        (b'{"weight_map":{"a":1}}', errors.BadIndex),
        (b'{"weight_map":{"a":"x","a":"x"}}', errors.DuplicateTensor),
        (b'{"weight_map":{},"weight_map":{}}', errors.DuplicateKey),
        (b'{"metadata":NaN}', errors.BadJson),
        (b'{"metadata":[1,2.5e-3,-0,true,false,null,{"a":[]},"x",01]}', errors.BadJson),
        (b'{"metadata":[1,2.5e-3,-0,true,false,null,{"a":[]},"x"]}', errors.BadIndex),
        (b'{"metadata":' + b"[" * 100_000, errors.LimitExceeded),
        (b'{"metadata":' + b'{"a":' * 100_000, errors.LimitExceeded),
        (b'{"metadata":[' + b"0," * 70_000 + b'0],"weight_map":{}}', errors.LimitExceeded),
        (b'{"weight_map":{"\xff":"x"}}', errors.BadText),
        (b"[]", errors.NotGGUF),
        (b"\xef\xbb\xbf{}", errors.NotGGUF),
        (b"", errors.EmptyFile),
    ],
)
def test_index_that_is_damaged(folder, text, error):
    (folder / "model.safetensors.index.json").write_bytes(text)
    for path in (folder, folder / "model.safetensors.index.json"):
        with pytest.raises(ModelFileError) as caught:
            open_model(path)
        assert type(caught.value) in (error, errors.BadJson)
        assert 0 <= caught.value.offset <= len(text)
    assert type(caught.value) is error


def test_an_index_of_too_many_tensors_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("truebits.files.json_tokens.MOST_MEMBERS", 3)
    assert len(open_model(folder).tensors) == 3
    write_index(folder, {"a": 1, "b": 1, "c": 2, "d": 2})
    with pytest.raises(errors.LimitExceeded, match="more than 3 members"):
        open_model(folder)


def test_an_index_that_is_huge(folder):
    with (folder / "model.safetensors.index.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.LimitExceeded, match="the limit is 100000000"):
        open_model(folder)


def test_a_tensor_in_two_files(folder):
    (folder / "model-00002-of-00002.safetensors").write_bytes(part_of("c", "a"))
    with pytest.raises(errors.DuplicateTensor, match="00001-of-00002"):
        open_model(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(errors.BadShardSet, match=r"1 of 2 .*model-00001-of-00002.safetensors"):
        open_model(folder)


def test_a_shard_count_is_not_believed(tmp_path):
    (tmp_path / "model-00001-of-99999.safetensors").write_bytes(part_of("a"))
    with pytest.raises(errors.BadShardSet, match="99998 of 99999 "):
        open_model(tmp_path)


def test_several_checkpoints_in_one_folder(folder):
    (folder / "model.safetensors.index.json").unlink()
    (folder / "other.safetensors").write_bytes(part_of("z"))
    with pytest.raises(errors.BadShardSet, match="open one of them"):
        open_model(folder)


def test_folder_of_pickles(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}.")
    with pytest.raises(errors.PickleRefused, match=r"pytorch_model\.bin"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"), [("model.gguf", "give the file itself, model.gguf"), ("x", "no safetensors")]
)
def test_folder_without_a_checkpoint(tmp_path, name, words):
    (tmp_path / name).touch()
    with pytest.raises(IsADirectoryError, match=words):
        open_model(tmp_path)


def test_a_part_that_is_not_a_file(folder):
    path = folder / "model-00002-of-00002.safetensors"
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        open_model(folder)


def test_config(folder):
    assert open_model(folder).config == {}
    config = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 32, "time_step_limit": [0.0, float("inf")]}
    (folder / "config.json").write_text(json.dumps(config))
    assert open_model(folder).config == config
    assert open_model(folder / "model-00001-of-00002.safetensors").config == config


def test_a_gguf_has_no_config(tmp_path):
    (tmp_path / "config.json").write_text("{}}")
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes())
    assert open_model(path).config == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "found list"),
        (b"null", "found NoneType"),
        (b'{"a":\xff}', "not JSON"),
        (b"[" * 1_000_000, "nested too deep"),
        (b'{"a":' * 1_000_000, "nested too deep"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_config_that_is_wrong(folder, text, words):
    (folder / "config.json").write_bytes(text)
    model = open_model(folder)
    with pytest.raises(errors.BadConfig, match=words) as caught:
        _ = model.config
    assert (caught.value.code, caught.value.exit_code) == ("E_CONFIG", 3)
    assert str(caught.value).isprintable()


def test_config_that_is_huge(folder):
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(errors.LimitExceeded):
        _ = open_model(folder).config
