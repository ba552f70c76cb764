"""The binding to llama.cpp: the only place that knows which package it comes from.

llama-cpp-python brings the layouts of llama.cpp's structs with the build they belong to. The wheel brings
libraries alone, and C tells nobody when a struct changes: so its defaults are read into memory filled two
ways, which shows where a struct ends and what stands in it, before anything is passed to it.
"""

from __future__ import annotations

import ctypes
import platform
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from types import SimpleNamespace
from typing import Any

from truebits.quantizers.libggml import PACKAGES, Package, find_package, installed_version, library

NEED = "evaluating with llama.cpp"
KNOWN = "0.2.0"
"""Version of the wheel, pinned by the extra, that is laid out as below."""

_LOGS: list[Any] = []
"""Callbacks, of which llama.cpp keeps no reference of its own."""

ROOM = 1024
"""Bytes, several times what the largest struct takes."""


class LlamaError(Exception):
    """llama.cpp says no."""


class ModelParameters(Structure):
    """``llama_model_params``."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParameters(Structure):
    """``llama_context_params``."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class TokenBatch(Structure):
    """``llama_batch``, which has no defaults, and has been the same since 2023."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


class ChatMessage(Structure):
    """``llama_chat_message``."""

    _fields_ = (("role", c_char_p), ("content", c_char_p))


DEFAULTS = {
    "llama_model_default_params": ModelParameters(
        n_gpu_layers=-1, split_mode=1, load_mode=-1, lazy_mode=1, use_extra_bufts=True
    ),
    "llama_context_default_params": ContextParameters(
        n_ctx=512,
        n_batch=2048,
        n_ubatch=512,
        n_seq_max=1,
        n_outputs_max_per_seq=1,
        n_threads=4,
        n_threads_batch=4,
        rope_scaling_type=-1,
        pooling_type=-1,
        attention_type=-1,
        flash_attn_type=-1,
        yarn_ext_factor=-1,
        yarn_attn_factor=-1,
        yarn_beta_fast=-1,
        yarn_beta_slow=-1,
        defrag_thold=-1,
        type_k=1,
        type_v=1,
        offload_kqv=True,
        no_perf=True,
        op_offload=True,
        swa_full=True,
    ),
}
"""What llama.cpp fills the structs with, in the layout that is known."""

LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
TEXT = (c_void_p, POINTER(c_int32), c_int32)

FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_batch_init": (TokenBatch, (c_int32, c_int32, c_int32)),
    "llama_chat_apply_template": (
        c_int32,
        (c_char_p, POINTER(ChatMessage), c_size_t, c_bool, c_char_p, c_int32),
    ),
    "llama_decode": (c_int32, (c_void_p, TokenBatch)),
    "llama_detokenize": (c_int32, (*TEXT, c_char_p, c_int32, c_bool, c_bool)),
    "llama_free": (None, (c_void_p,)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParameters)),
    "llama_log_set": (None, (LOG_CALLBACK, c_void_p)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_model_chat_template": (c_char_p, (c_void_p, c_char_p)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_has_encoder": (c_bool, (c_void_p,)),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParameters)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_print_system_info": (c_char_p, ()),
    "llama_synchronize": (None, (c_void_p,)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_get_attr": (c_int, (c_void_p, c_int32)),
    "llama_vocab_get_text": (c_char_p, (c_void_p, c_int32)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_type": (c_int, (c_void_p,)),
}
"""Result and arguments of each function that is called."""


def require_llama(backend: str | None = None) -> Package:
    """Return the package that `load_llama` would load, without loading it.

    Raises
    ------
    MissingExtra
    UsageError
    """
    return find_package(backend, NEED)


def load_llama(backend: str | None, on_log: Any) -> tuple[Any, dict[str, str]]:
    """Load llama.cpp.

    Parameters
    ----------
    backend : {"wheel", "native"} or None
        As for `find_package`.
    on_log : callable
        Called with (level, text, None) for what it says; nothing else is printed.

    Returns
    -------
    api : object
        llama.cpp's functions and structs under the names that `llama_cpp` has for them.
    about : dict
        Backend, version, CPU features.

    Raises
    ------
    MissingExtra
    LlamaError
        The wheel's structs are not laid out as they are known.
    """
    package = require_llama(backend)
    api = _native() if package == PACKAGES["native"] else _wheel(package)
    log = api.llama_log_callback(on_log)
    _LOGS.append(log)
    api.llama_log_set(log, None)
    if package == PACKAGES["wheel"]:
        api.load_cpu()
    api.llama_backend_init()
    features = api.llama_print_system_info().decode().strip(" |")
    return api, {"backend": package.name, "backend_version": installed_version(package), "cpu_features": features}


def _native() -> Any:
    import llama_cpp

    return llama_cpp


def _wheel(package: Package) -> Any:
    """Give the wheel's library the interface that `llama_cpp` has."""
    llama = ctypes.CDLL(str(library(package, "llama")))
    api = SimpleNamespace(
        llama_batch=TokenBatch,
        llama_chat_message=ChatMessage,
        llama_log_callback=LOG_CALLBACK,
        llama_token=c_int32,
        LLAMA_FLASH_ATTN_TYPE_DISABLED=0,
        load_cpu=lambda: _load_cpu(package),
    )
    for name, expected in DEFAULTS.items():
        problem = layout_problem(getattr(llama, name), expected)
        if problem:
            raise LlamaError(
                f"{package.name} {installed_version(package)}: {name} {problem}; "
                f"{KNOWN} works: pip install 'truebits[{package.extra}]'"
            )
        setattr(api, name, _prototype(llama, name, type(expected), ()))
    for name, (result, arguments) in FUNCTIONS.items():
        setattr(api, name, _prototype(llama, name, result, arguments))
    return api


def _prototype(llama: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    function = llama[name]  # a new one each time: reading the defaults gave the attribute another prototype
    function.restype, function.argtypes = result, arguments
    return function


def _load_cpu(package: Package) -> None:
    """Load what computes on the CPU, which the wheel keeps apart, and nothing that would compute elsewhere."""
    load = _prototype(ctypes.CDLL(str(library(package, "ggml"))), "ggml_backend_load", c_void_p, (c_char_p,))
    if not load(str(library(package, "ggml-cpu")).encode()):
        raise LlamaError(f"{package.name}: its library for the CPU cannot be loaded")


def layout_problem(function: Any, expected: Structure) -> str | None:
    """Say what is wrong with the layout of a struct that a function returns, None where nothing is.

    Parameters
    ----------
    function : ctypes function
        ``llama_..._default_params``.
    expected : Structure
        What it is to return.
    """
    size = ctypes.sizeof(expected)
    if platform.machine() not in ("x86_64", "AMD64"):  # elsewhere no argument says where a struct is returned
        function.restype = type(expected)
        return _value_problem(bytes(function()), expected)
    function.restype, function.argtypes = None, (c_void_p,)
    found = []
    for fill in (0x00, 0xFF):
        memory = ctypes.create_string_buffer(bytes([fill]) * ROOM, ROOM)
        function(memory)
        found.append(memory.raw)
    written = [index for index in range(ROOM) if found[0][index] == found[1][index]]
    if not written or max(written) >= size or not _own_bytes(expected) <= set(written):
        return f"fills other bytes than the {size} that are known"
    return _value_problem(found[0][:size], expected)


def _value_problem(found: bytes, expected: Structure) -> str | None:
    for name, *_ in expected._fields_:
        field = getattr(type(expected), name)
        place = slice(field.offset, field.offset + field.size)
        if found[place] != bytes(expected)[place]:
            return f"has another default where {name} is known to be"
    return None


def _own_bytes(structure: Structure) -> set[int]:
    """Return the places of a struct's fields, without what pads them."""
    fields = (getattr(type(structure), name) for name, *_ in structure._fields_)
    return {place for field in fields for place in range(field.offset, field.offset + field.size)}
