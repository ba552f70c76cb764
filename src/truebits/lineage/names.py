"""Hugging Face names of tensors, and the GGUF names that converters give them.

gguf-py's maps give the GGUF name of a Hugging Face name. They have one entry for every block of a model:
here a map of one block serves for all, so that a file's block count costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache

PREFIXES = (
    ("", ""),
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.", ""),
    ("model.text_model.", "model."),
    ("text_model.", ""),
    ("model.", ""),
    ("", "model."),
    ("transformer.", ""),
    ("bert.", ""),
    ("roberta.", ""),
    ("distilbert.", ""),
    ("ernie.", "model."),
    ("thinker.model.", "model."),
    ("visual.", ""),
    ("model.visual.", "visual."),
)
"""What converters replace at the start of a name before they look it up: multimodal models have one more level."""

SPELLINGS = (
    (r"\.dt_bias$", ".dt_proj.bias"),
    (r"\.dt_bias$", ".dt.bias"),
    (r"\.([A-Za-z]+_norm|q|k)_weight$", r".\1.weight"),
    (r"e_score_correction_bias$", "e_score_correction.bias"),
    (r"\.expert_bias$", ".expert_bias.bias"),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"_proj_bias$", "_proj.bias"),
    (r"_weight$", ".weight"),
    (r"^(model\.)?(layers\.\d+\.)block_sparse_moe\.experts\.", r"\2feed_forward.experts."),
    (r"^(model\.layers\.\d+\.)feed_forward\.experts\.", r"\1mlp.experts."),
    (r"^(model\.layers\.\d+\.)mlp\.moe_statics\.", r"\1mlp.moe_statics."),
    (r"^backbone(\.layers\.\d+\.)mixer\.experts\.", r"model\1mlp.experts."),
)
"""What they spell otherwise: llama.py, mamba.py, plamo.py, jamba.py, nemotron.py, base.py, bert.py, gpt_oss.py."""

SUFFIXES = ("", ".weight", ".bias")
"""What they add to the name of a parameter that is no module's weight, where the GGUF has it so."""

NUMBERED = re.compile(r"\.(experts|norms|altup_projections|altup_unembed_projections)\.(\d{1,6})(?=\.)")

ADAPTED = re.compile(r"(?:base_model\.model\.)?(.+?)\.lora_(?:embedding_)?([AB])(?:\.\w+)?(?:\.weight)?")
"""Halves of a low-rank change, as PEFT names them; GGUF has the name of what they change, and ``.lora_a``."""

PREDICTING = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}
"""Modules of the layer that predicts a further token, and how they are called in a layer: ``qwen.py``."""


class Names:
    """gguf-py's map for one architecture.

    Parameters
    ----------
    architecture : str
    layers : int
        How many there are before those that predict further tokens, which have names of their own.

    """

    def __init__(self, architecture: str, layers: int = 0):
        import gguf

        known = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
        self.own: dict[str, str] = {}
        if architecture in known:
            # A class of its own: gguf-py changes the class's map for Arctic, and so all maps made later.
            blocks = {"block_mappings_cfg": dict(gguf.TensorNameMap.block_mappings_cfg)}
            made = type("NameMap", (gguf.TensorNameMap,), blocks)(known[architecture], 1)
            self.own = {key: name for key, (_, name) in made.mapping.items()}
        self.others = _all_names()
        self.layers = layers

    def find(self, name: str, known: Collection[str]) -> tuple[str | None, int]:
        """Return the GGUF name of a Hugging Face name, and the expert's number; None if there is none.

        Of several readings, one that the GGUF has (`known`) is taken.
        """
        if adapter := ADAPTED.fullmatch(name):
            suffix = f".lora_{adapter[2].lower()}"
            stems = {other.removesuffix(suffix) for other in known if other.endswith(suffix)}
            found, number = self.find(f"{adapter[1]}.weight", stems)
            return found and found + suffix, number
        number = 0
        name = self._in_a_layer(name)
        if re.search(r"\.experts\.\w+_proj$", name):  # parameters, not modules
            name += ".weight"
        if numbered := NUMBERED.search(name):
            number = int(numbered[2])
            name = name[: numbered.start()] + f".{numbered[1]}" + name[numbered.end() :]
            name = name.replace(".norms.", ".")
        first = None
        for found, is_own in self._readings(name):
            for suffix in SUFFIXES:
                if found + suffix in known:
                    return found + suffix, number
            first = first or (found if is_own else None)
        return first, number

    def _in_a_layer(self, name: str) -> str:
        """Rename what predicts a further token as the converter does: the layer after the last."""
        at = re.fullmatch(r"(?:model\.)?mtp\.(?:layers\.(\d{1,4})\.)?(.*)", name)
        if not at:
            return name
        module, _, rest = at[2].partition(".")
        if at[1] is None and module not in PREDICTING:
            return name
        of = f"model.layers.{self.layers + int(at[1] or 0)}."
        return f"{of}{at[2]}" if at[1] else f"{of}{PREDICTING[module]}.{rest}"

    def _readings(self, name: str) -> Iterator[tuple[str, bool]]:
        """Yield GGUF names, and whether they are of this architecture: first all that are."""
        spelled = []
        for start, instead in PREFIXES:
            if name.startswith(start):
                plain = instead + name.removeprefix(start)
                spelled += [plain, *(re.sub(regex, by, plain) for regex, by in SPELLINGS)]
        for spelling in dict.fromkeys(spelled):
            if (found := _mapped(spelling, self.own)) is not None:
                yield found, True
        for spelling in dict.fromkeys(spelled):
            for others in self.others:
                if (found := _mapped(spelling, others)) is not None:
                    yield found, False


@cache
def _all_names() -> tuple[dict[str, str], ...]:
    """Return gguf-py's names of all architectures, for those that it does not know, or not all tensors of.

    What has several meanings has one in each map.
    """
    import gguf

    maps: list[dict[str, str]] = [{}]
    every = {**gguf.TensorNameMap.mappings_cfg, **gguf.TensorNameMap.block_mappings_cfg}
    for tensor, keys in every.items():
        name = gguf.TENSOR_NAMES[tensor].format(bid=0)
        for key in keys:
            hf = key.format(bid=0)
            at = next((one for one in maps if hf not in one), None)
            if at is None:
                maps.append(at := {})
            at[hf] = name
    return tuple(maps)


def _mapped(name: str, names: Mapping[str, str]) -> str | None:
    """Look a name up as if it were of block 0, and give the block back."""
    direct = _with_suffix(name, names)
    words = name.split(".")
    at = next((i for i, word in enumerate(words) if is_number(word)), None)
    if at is None:
        return direct
    found = _with_suffix(".".join([*words[:at], "0", *words[at + 1 :]]), names)
    if found is None:
        return direct
    return re.sub(r"(^|\.)blk\.0\.", rf"\1blk.{int(words[at])}.", found)


def _with_suffix(name: str, names: Mapping[str, str]) -> str | None:
    for suffix in ("", ".weight", ".bias"):
        if name.endswith(suffix) and (found := names.get(name.removesuffix(suffix))) is not None:
            return found + suffix
    return None


def block_of(name: str) -> int | None:
    """Return the first number in a tensor's name, which is its block."""
    return next((int(word) for word in name.split(".") if is_number(word)), None)


def is_number(word: str) -> bool:
    return word.isdecimal() and len(word) < 10


LEFT_OUT = (
    (r".*(\.attention\.(masked_)?bias|\.attn\.(masked_)?bias|rotary(_pos)?_emb\.inv_freq)", "a table that is computed"),
    (r".*embeddings\.position_ids", "a table that is computed"),
    (r"(.*\.)?rotary_emb\..*", "a table that is computed"),
    (r".*\.mlp\.act_fn\.(alpha_[np]|beta|eps)", "kept as metadata"),
    (r".*\.(input|k|v|activation)_scale|.*_activation_scale", "a scale of activations"),
)
"""Tensors that no converter writes, and why: ``ModelBase.prepare_tensors``, ``bert.py``, GPT-2's masks."""

ENCODERS = re.compile(r"(bert\.|roberta\.)?(pooler\.dense\.|cls\.(predictions|seq_relationship)|lm_head\.|vocab_).*")
"""What only other tasks of an encoder need: ``bert.py``."""

OTHER_SENSES = re.compile(
    r"(mlp|vit\.|vpm\.|siglip2\.|merger\.|resampler\.)|.*(visual\.|vision[._]|audio[._]|talker\.|projector\.|"
    r"connector\.|token2wav\.|code2wav\.|image_newline|patch_embed|patch_merger\.|mm_projector).*"
)
"""What a GGUF of the text model leaves to that of the projector: ``TextModel.filter_tensors``."""


def why_left_out(name: str, architecture: str) -> str | None:
    """Say why a tensor of a checkpoint has no place in any GGUF; None if it should have one."""
    for regex, why in LEFT_OUT:
        if re.fullmatch(regex, name):
            return why
    if architecture == "clip":
        return "of the language model" if not OTHER_SENSES.fullmatch(name) else None
    if "bert" in architecture and ENCODERS.fullmatch(name):
        return "of a head for another task"
    if OTHER_SENSES.fullmatch(name):
        return "of another modality"
    return None
