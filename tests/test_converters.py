import gguf
import pytest

from truebits.precision.converters import PLAIN, TABLE, UNDONE, Kind, is_known, shift_of, transforms_of

ARCHITECTURES = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}


def family(architecture: str) -> str:
    """Return what a projector's rows are named after."""
    return architecture.partition(":")[0]


def names_of(architecture: str) -> list[str]:
    """Return the names that gguf-py knows of an architecture's tensors, for two blocks, with every ending."""
    plain = [gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[ARCHITECTURES[family(architecture)]]]
    return [
        name.format(bid=block, xid=0) + end for name in plain for block in (0, 17) for end in ("", ".weight", ".bias")
    ]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.kind.name} {' '.join(row.architectures)}")
def test_every_row_is_about_tensors_that_exist(row):
    expected = row.architectures or tuple(ARCHITECTURES)
    assert {family(one) for one in expected} <= set(ARCHITECTURES)
    got = {a for a in expected if any(row in transforms_of(a, name) for name in names_of(a))}
    if row.architectures:
        assert got == set(expected), f"no tensor of {set(expected) - got} matches {row.names}"
    else:
        assert got
    assert ".py" in row.source
    assert (row.amount != 0) == (row.kind is Kind.ADDED)


def test_no_tensor_is_transformed_twice_in_the_same_way():
    for architecture in ARCHITECTURES:
        for name in names_of(architecture):
            kinds = [row.kind for row in transforms_of(architecture, name)]
            assert len(kinds) == len(set(kinds)), f"{architecture}: {name}: {kinds}"


def test_plain_architectures_have_no_row_of_their_own():
    for architecture, source in PLAIN.items():
        assert architecture in ARCHITECTURES
        assert ".py" in source
        assert not [row for row in TABLE if architecture in row.architectures]
        assert is_known(architecture)


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("gemma", "blk.0.attn_norm.weight", 1.0),
        ("gemma2", "blk.25.post_ffw_norm.weight", 1.0),
        ("gemma3", "blk.3.attn_q_norm.weight", 1.0),
        ("gemma3", "output_norm.weight", 1.0),
        ("gemma3", "blk.3.attn_q.weight", 0.0),
        ("gemma3", "token_embd.weight", 0.0),
        ("gemma3n", "output_norm.weight", 0.0),
        ("gemma4", "output_norm.weight", 0.0),
        ("gemma-embedding", "output_norm.weight", 1.0),
        ("nemotron", "blk.0.ffn_norm.weight", 1.0),
        ("nemotron", "blk.0.ffn_norm.bias", 0.0),
        ("nemotron_h", "blk.0.attn_norm.weight", 0.0),
        ("qwen3", "blk.0.attn_norm.weight", 0.0),
        ("qwen3next", "blk.0.attn_norm.weight", 1.0),
        ("qwen3next", "blk.0.ssm_norm.weight", 0.0),
        ("qwen35", "blk.11.attn_k_norm.weight", 1.0),
        ("qwen35moe", "blk.11.ssm_norm.weight", 0.0),
        ("qwen35", "blk.64.nextn.enorm.weight", 1.0),
        ("step35", "blk.1.ffn_norm.weight", 1.0),
        ("plamo2", "blk.1.post_attention_norm.weight", 0.2),
        ("plamo2", "blk.1.ssm_dt_norm.weight", 0.0),
        ("plamo3", "blk.1.post_ffw_norm.weight", 5**-1.5),
        ("plamo3", "blk.1.attn_q_norm.weight", 1.0),
        ("llama", "blk.0.attn_norm.weight", 0.0),
        ("no such architecture", "blk.0.attn_norm.weight", 0.0),
        (None, "blk.0.attn_norm.weight", 0.0),
    ],
)
def test_shift(architecture, name, expected):
    assert shift_of(architecture, name) == expected


def test_known():
    got = [is_known(name) for name in ("llama", "gemma4", "qwen3", "rwkv7", "no such architecture", None)]
    assert got == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("llama", "blk.0.attn_q.weight", [Kind.PERMUTED]),
        ("llama", "blk.0.attn_k.bias", [Kind.PERMUTED]),
        ("llama", "blk.0.attn_v.weight", []),
        ("llama", "blk.0.ffn_gate_exps.weight", [Kind.STACKED]),
        ("llama", "rope_freqs.weight", [Kind.MADE]),
        ("qwen2", "blk.0.attn_q.weight", []),
        ("mamba", "blk.0.ssm_a", [Kind.EXPONENTIAL]),
        ("qwen35", "blk.0.ssm_a", [Kind.EXPONENTIAL, Kind.REARRANGED]),
        ("gpt2", "blk.0.attn_qkv.weight", [Kind.TRANSPOSED]),
        ("falcon", "blk.0.attn_qkv.weight", [Kind.REARRANGED]),
        ("falcon-h1", "blk.0.attn_q.weight", [Kind.COMPUTED]),
    ],
)
def test_transforms(architecture, name, expected):
    assert [row.kind for row in transforms_of(architecture, name)] == expected


def test_what_a_row_reads_like():
    (row,) = transforms_of("gemma", "output_norm.weight")
    assert (str(row), row.kind in UNDONE) == ("adding 1", True)
    (row,) = transforms_of("falcon", "blk.0.attn_qkv.weight")
    assert (str(row), row.kind in UNDONE) == ("rearranging", True)
