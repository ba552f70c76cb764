"""truebits: what precision do these weights truly carry, and what happens if they carry less?"""

import sys as _sys

if _sys.byteorder != "little":
    raise ImportError("truebits maps files, which are little-endian: it does not run on a big-endian machine")


from importlib import import_module

from truebits._version import __version__

TYPE_CHECKING = False  # type checkers take it for True; the import of typing costs most of the 15 ms
if TYPE_CHECKING:
    from typing import Any

    from truebits.comparing.diff import Diff as Diff
    from truebits.comparing.diff import TensorDiff as TensorDiff
    from truebits.comparing.diff import diff as diff
    from truebits.comparing.fingerprint import Fingerprint as Fingerprint
    from truebits.comparing.fingerprint import fingerprint as fingerprint
    from truebits.comparing.measure import Place as Place
    from truebits.comparing.verify import Verification as Verification
    from truebits.comparing.verify import verify as verify
    from truebits.errors import EvaluationFailed as EvaluationFailed
    from truebits.errors import MissingExtra as MissingExtra
    from truebits.errors import ModelFileError as ModelFileError
    from truebits.errors import NeedsGGUF as NeedsGGUF
    from truebits.errors import NotTheSource as NotTheSource
    from truebits.errors import Refused as Refused
    from truebits.errors import SelectionError as SelectionError
    from truebits.errors import TruebitsError as TruebitsError
    from truebits.errors import Unfinished as Unfinished
    from truebits.errors import UsageError as UsageError
    from truebits.errors import VerificationFailed as VerificationFailed
    from truebits.evaluation.evaluate import Evaluation as Evaluation
    from truebits.evaluation.evaluate import evaluate as evaluate
    from truebits.experiments.experiment import Candidate as Candidate
    from truebits.experiments.experiment import Experiment as Experiment
    from truebits.experiments.experiment import ExperimentSweep as ExperimentSweep
    from truebits.experiments.experiment import experiment as experiment
    from truebits.experiments.experiment import sweep_experiment as sweep_experiment
    from truebits.experiments.recipe import Recipe as Recipe
    from truebits.experiments.recipe import recipe as recipe
    from truebits.experiments.sensitivity import Effect as Effect
    from truebits.experiments.sensitivity import Sensitivity as Sensitivity
    from truebits.experiments.sensitivity import sensitivity as sensitivity
    from truebits.experiments.synth import synth as synth
    from truebits.files.model import Model as Model
    from truebits.files.model import open_model
    from truebits.files.tensor import Tensor as Tensor
    from truebits.lineage.kin import Siblings as Siblings
    from truebits.lineage.rank import rank as rank
    from truebits.lineage.ranking import Ranking as Ranking
    from truebits.lineage.siblings import siblings as siblings
    from truebits.lineage.trace import trace as trace
    from truebits.lineage.traces import TensorTrace as TensorTrace
    from truebits.lineage.traces import Trace as Trace
    from truebits.numbers.rounding import Rounding as Rounding
    from truebits.precision.blocks import BlockPrecision as BlockPrecision
    from truebits.precision.blocks import BlockProfile as BlockProfile
    from truebits.precision.counting import TensorPrecision as TensorPrecision
    from truebits.precision.counting import low_bits as low_bits
    from truebits.precision.coverage import Coverage as Coverage
    from truebits.precision.coverage import NotRead as NotRead
    from truebits.precision.findings import Finding as Finding
    from truebits.precision.gate import Gate as Gate
    from truebits.precision.gate import check as check
    from truebits.precision.origin import Origin as Origin
    from truebits.precision.profile import PrecisionProfile as PrecisionProfile
    from truebits.precision.report import Report as Report
    from truebits.precision.scan import scan as scan
    from truebits.report.progress import progress_bar as progress_bar
    from truebits.rewriting.dequantize import Dequantized as Dequantized
    from truebits.rewriting.dequantize import dequantize as dequantize
    from truebits.rewriting.fakequant import fakequant as fakequant
    from truebits.rewriting.operation import Rewrite as Rewrite
    from truebits.rewriting.plan import plan as plan
    from truebits.rewriting.shrink import Shrunk as Shrunk
    from truebits.rewriting.shrink import shrink as shrink
    from truebits.rewriting.trials import Sweep as Sweep
    from truebits.rewriting.trials import Trial as Trial
    from truebits.rewriting.trials import sweep as sweep
    from truebits.rewriting.truncate import truncate as truncate
    from truebits.rewriting.undo import undo as undo
    from truebits.surveying.answers import Survey as Survey
    from truebits.surveying.answers import read_survey as read_survey
    from truebits.surveying.survey import survey as survey

    open = open_model

_NAMES = {
    "files.model": ("Model", "open"),
    "files.tensor": ("Tensor",),
    "numbers.rounding": ("Rounding",),
    "precision.scan": ("scan",),
    "precision.report": ("Report",),
    "precision.counting": ("low_bits", "TensorPrecision"),
    "precision.profile": ("PrecisionProfile",),
    "precision.blocks": ("BlockPrecision", "BlockProfile"),
    "precision.coverage": ("Coverage", "NotRead"),
    "precision.findings": ("Finding",),
    "precision.gate": ("check", "Gate"),
    "precision.origin": ("Origin",),
    "rewriting.operation": ("Rewrite",),
    "rewriting.plan": ("plan",),
    "rewriting.truncate": ("truncate",),
    "rewriting.fakequant": ("fakequant",),
    "rewriting.trials": ("sweep", "Sweep", "Trial"),
    "rewriting.dequantize": ("dequantize", "Dequantized"),
    "rewriting.shrink": ("shrink", "Shrunk"),
    "rewriting.undo": ("undo",),
    "comparing.diff": ("diff", "Diff", "TensorDiff"),
    "comparing.measure": ("Place",),
    "comparing.fingerprint": ("fingerprint", "Fingerprint"),
    "comparing.verify": ("verify", "Verification"),
    "lineage.trace": ("trace",),
    "lineage.traces": ("Trace", "TensorTrace"),
    "lineage.rank": ("rank",),
    "lineage.ranking": ("Ranking",),
    "lineage.siblings": ("siblings",),
    "lineage.kin": ("Siblings",),
    "evaluation.evaluate": ("evaluate", "Evaluation"),
    "experiments.experiment": ("experiment", "Experiment", "sweep_experiment", "ExperimentSweep", "Candidate"),
    "experiments.sensitivity": ("sensitivity", "Sensitivity", "Effect"),
    "experiments.recipe": ("recipe", "Recipe"),
    "experiments.synth": ("synth",),
    "surveying.survey": ("survey",),
    "surveying.answers": ("Survey", "read_survey"),
    "report.progress": ("progress_bar",),
    "errors": (
        *("TruebitsError", "UsageError", "SelectionError", "NeedsGGUF", "NotTheSource", "MissingExtra"),
        *("ModelFileError", "Refused", "Unfinished", "VerificationFailed", "EvaluationFailed"),
    ),
}
"""Public names, by the module that they stand in."""

_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> "Any":
    """Import a public name when it is first used, so that ``import truebits`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'truebits' has no attribute {name!r}")
    home = import_module(f"truebits.{_HOMES[name]}")
    value = globals()[name] = getattr(home, "open_model" if name == "open" else name)
    return value


def __dir__() -> list[str]:
    return __all__
