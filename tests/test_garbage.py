"""The garbage collector put off."""

import gc

import pytest

from truebits.files.garbage import uncollected


@uncollected()
def failing(seen):
    seen.append(gc.isenabled())
    raise KeyError


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_meanwhile(enabled):
    seen = []
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError):
            failing(seen)
        assert (seen, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable()
