"""The one table of how formats name what they store."""

import pytest

from quantized_files import GOLDEN, cases, golden
from truebits.files.types import BY_NAME
from truebits.quantizers.forms import FORMS


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.title)
def test_a_form_is_whole(form):
    assert set(form.types) <= set(BY_NAME)
    assert set(form.needed) <= set(form.others)
    assert all(ending.startswith((".", "_", "-")) for endings in form.others.values() for ending in endings)
    assert callable(form.build)
    assert len(form.methods) == len(set(form.methods)) > 0


def test_no_two_forms_look_the_same():
    """Whatever two forms could claim, the one that needs more tensors is told by them."""
    seen = {}
    for form in FORMS:
        for type in form.types:
            key = form.ending, type, tuple(sorted(form.others[role] for role in form.needed))
            assert key not in seen or set(form.methods) != set(seen[key].methods)
            seen[key] = form


@pytest.mark.parametrize("case", cases(""))
def test_every_stored_name_of_a_package_is_that_of_a_form(case):
    tensors, *_ = golden(case)
    endings = {form.ending for form in FORMS} | {one for form in FORMS for of in form.others.values() for one in of}
    for name in tensors:
        assert any(name.endswith(ending.lstrip("-")) for ending in endings if ending), name


def test_packages_of_every_method_are_at_hand():
    tested = {golden(path.stem)[1].get("quant_method", "mlx") for path in GOLDEN.glob("*.safetensors")}
    assert tested >= {"gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "mxfp4", "modelopt", "hqq", "torchao"}
