"""truebits: what precision do these weights truly carry, and what happens if they carry less?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from truebits._version import __version__

if TYPE_CHECKING:
    from truebits.comparing.diff import Diff as Diff
    from truebits.comparing.diff import diff as diff
    from truebits.comparing.fingerprint import Fingerprint as Fingerprint
    from truebits.comparing.fingerprint import fingerprint as fingerprint
    from truebits.comparing.verify import Verification as Verification
    from truebits.comparing.verify import verify as verify
    from truebits.errors import ModelFileError as ModelFileError
    from truebits.errors import Refused as Refused
    from truebits.errors import TruebitsError as TruebitsError
    from truebits.errors import Unfinished as Unfinished
    from truebits.errors import UsageError as UsageError
    from truebits.errors import VerificationFailed as VerificationFailed
    from truebits.evaluation.evaluate import Evaluation as Evaluation
    from truebits.evaluation.evaluate import evaluate as evaluate
    from truebits.experiments.experiment import Experiment as Experiment
    from truebits.experiments.experiment import experiment as experiment
    from truebits.experiments.synth import synth as synth
    from truebits.files.model import Model as Model
    from truebits.files.model import open_model
    from truebits.lineage.kin import Siblings as Siblings
    from truebits.lineage.siblings import siblings as siblings
    from truebits.lineage.trace import trace as trace
    from truebits.lineage.traces import Trace as Trace
    from truebits.precision.blocks import BlockPrecision as BlockPrecision
    from truebits.precision.counting import TensorPrecision as TensorPrecision
    from truebits.precision.counting import low_bits as low_bits
    from truebits.precision.coverage import Coverage as Coverage
    from truebits.precision.findings import Finding as Finding
    from truebits.precision.gate import Gate as Gate
    from truebits.precision.gate import check as check
    from truebits.precision.origin import Origin as Origin
    from truebits.precision.profile import PrecisionProfile as PrecisionProfile
    from truebits.precision.scan import Report as Report
    from truebits.precision.scan import scan as scan
    from truebits.rewriting.fakequant import fakequant as fakequant
    from truebits.rewriting.fakequant import sweep as sweep
    from truebits.rewriting.operation import Rewrite as Rewrite
    from truebits.rewriting.plan import plan as plan
    from truebits.rewriting.truncate import truncate as truncate
    from truebits.rewriting.undo import undo as undo

    open = open_model

_HOMES = {
    "Model": "files.model",
    "open": "files.model",
    "Report": "precision.scan",
    "low_bits": "precision.counting",
    "scan": "precision.scan",
    "TensorPrecision": "precision.counting",
    "PrecisionProfile": "precision.profile",
    "BlockPrecision": "precision.blocks",
    "Coverage": "precision.coverage",
    "Finding": "precision.findings",
    "Gate": "precision.gate",
    "check": "precision.gate",
    "Origin": "precision.origin",
    "Rewrite": "rewriting.operation",
    "plan": "rewriting.plan",
    "truncate": "rewriting.truncate",
    "fakequant": "rewriting.fakequant",
    "sweep": "rewriting.fakequant",
    "undo": "rewriting.undo",
    "diff": "comparing.diff",
    "Diff": "comparing.diff",
    "fingerprint": "comparing.fingerprint",
    "Fingerprint": "comparing.fingerprint",
    "verify": "comparing.verify",
    "Verification": "comparing.verify",
    "trace": "lineage.trace",
    "Trace": "lineage.traces",
    "siblings": "lineage.siblings",
    "Siblings": "lineage.kin",
    "evaluate": "evaluation.evaluate",
    "Evaluation": "evaluation.evaluate",
    "experiment": "experiments.experiment",
    "Experiment": "experiments.experiment",
    "synth": "experiments.synth",
    "TruebitsError": "errors",
    "ModelFileError": "errors",
    "UsageError": "errors",
    "Refused": "errors",
    "Unfinished": "errors",
    "VerificationFailed": "errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import truebits`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'truebits' has no attribute {name!r}")
    home = import_module(f"truebits.{_HOMES[name]}")
    value = globals()[name] = getattr(home, "open_model" if name == "open" else name)
    return value


def __dir__() -> list[str]:
    return __all__
