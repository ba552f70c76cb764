"""Where the marker of an unfinished rewrite stands."""

import pytest

from truebits.rewriting.beside import LONGEST_FILE_NAME, SUFFIX, marker_path


@pytest.mark.parametrize("name", ["model.gguf", "ü" * 100, "x" * (LONGEST_FILE_NAME - len(SUFFIX))])
def test_beside_the_file(tmp_path, name):
    assert marker_path(tmp_path / name) == tmp_path / (name + SUFFIX)


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * (LONGEST_FILE_NAME - len(SUFFIX) + 1)])
def test_long_names_have_a_marker_of_their_own(tmp_path, name):
    got = marker_path(tmp_path / name)
    got.touch()
    assert got.parent == tmp_path
    assert got.name.endswith(SUFFIX)
    assert got != marker_path(tmp_path / (name[:-1] + "y"))


def test_a_link_has_the_marker_of_its_file(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "model", tmp_path / "link"
    target.touch()
    link.symlink_to(target)
    assert marker_path(link) == marker_path(target)
