"""truebits: what precision do these weights truly carry, and what happens if they carry less?"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truebits.diff import diff as diff
    from truebits.errors import ModelFileError as ModelFileError
    from truebits.errors import Refused as Refused
    from truebits.errors import TruebitsError as TruebitsError
    from truebits.errors import Unfinished as Unfinished
    from truebits.errors import UsageError as UsageError
    from truebits.errors import VerificationFailed as VerificationFailed
    from truebits.evaluate import evaluate as evaluate
    from truebits.experiment import experiment as experiment
    from truebits.fakequant import fakequant as fakequant
    from truebits.fakequant import sweep as sweep
    from truebits.files.model import Model as Model
    from truebits.files.model import open_model
    from truebits.fingerprint import fingerprint as fingerprint
    from truebits.operation import Rewrite as Rewrite
    from truebits.plan import plan as plan
    from truebits.profile import PrecisionProfile as PrecisionProfile
    from truebits.scan import Report as Report
    from truebits.scan import low_bits as low_bits
    from truebits.scan import scan as scan
    from truebits.siblings import siblings as siblings
    from truebits.synth import synth as synth
    from truebits.trace import trace as trace
    from truebits.truncate import truncate as truncate
    from truebits.undo import undo as undo
    from truebits.verify import verify as verify

    open = open_model

__version__ = "0.1.0"

_HOMES = {
    "Model": "files.model",
    "open": "files.model",
    "Report": "scan",
    "low_bits": "scan",
    "scan": "scan",
    "siblings": "siblings",
    "synth": "synth",
    "Rewrite": "operation",
    "diff": "diff",
    "evaluate": "evaluate",
    "experiment": "experiment",
    "fakequant": "fakequant",
    "fingerprint": "fingerprint",
    "plan": "plan",
    "sweep": "fakequant",
    "trace": "trace",
    "truncate": "truncate",
    "undo": "undo",
    "verify": "verify",
    "PrecisionProfile": "profile",
    "TruebitsError": "errors",
    "ModelFileError": "errors",
    "UsageError": "errors",
    "Refused": "errors",
    "Unfinished": "errors",
    "VerificationFailed": "errors",
}

__all__ = ["__version__", *_HOMES]


class _Package(ModuleType):
    """Imports a public name when it is first used, so that ``import truebits`` stays quick.

    A function may have its module's name (``truebits.scan.scan``); importing that module must not put
    the module in the function's place.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'truebits' has no attribute {name!r}")
        home = import_module(f"truebits.{_HOMES[name]}")
        value = self.__dict__[name] = getattr(home, "open_model" if name == "open" else name)
        return value

    def __dir__(self) -> list[str]:
        return __all__

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
