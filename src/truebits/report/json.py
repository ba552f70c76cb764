"""One JSON document per command, with stable keys and a schema name.

ASCII only: control characters and bytes that are not UTF-8 come out escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from truebits.errors import printable
from truebits.files.model import Model
from truebits.files.tensor import Tensor
from truebits.precision.counting import TensorPrecision
from truebits.precision.origin import origin_of
from truebits.precision.profile import PrecisionProfile
from truebits.precision.report import Report
from truebits.report.table import Table
from truebits_native.reference import Difference

if TYPE_CHECKING:
    from truebits.comparing.diff import Diff
    from truebits.comparing.fingerprint import Fingerprint
    from truebits.comparing.measure import Place
    from truebits.comparing.verify import Verification
    from truebits.evaluation.evaluate import Evaluation
    from truebits.experiments.experiment import Candidate, Experiment
    from truebits.lineage.kin import Siblings
    from truebits.lineage.rank import Ranking
    from truebits.lineage.traces import Trace
    from truebits.rewriting.fakequant import Trial
    from truebits.rewriting.operation import Rewrite


def document(verb: str, content: dict[str, Any]) -> str:
    """Return a document of schema ``truebits.<verb>/1``."""
    whole = {"schema": f"truebits.{verb}/1", **content}
    try:
        return json.dumps(whole, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(whole))


def _finite(value: Any) -> Any:
    """Return a document's value with null for NaN and Inf, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def scan(report: Report) -> str:
    groups = [
        {"name": printable(name), "type": members[0].stored, **_answers(members)}
        for name, members in report.members().items()
    ]
    return document(
        "scan",
        {
            **_about(report.model),
            "tensors": [
                {
                    **_named(one.tensor),
                    **_answers([one]),
                    "exceptions": _exceptions(report, one),
                    "made_from": _made_from(report, name),
                    "rows": report.rows[name].to_dict() if report.rows and name in report.rows else None,
                }
                for name, one in report.tensors.items()
            ],
            "blocks": [
                {**_named(one.tensor), **one.answers(), "made_from": asdict(one.made_from)}
                for one in report.blocks.values()
            ],
            "groups": groups,
            "total": _total(report),
            "totals": {type: of.answers() for type, of in report.totals().items()},
            "origins": {type: asdict(origin) for type, origin in report.origins().items()},
            "coverage": report.coverage.to_dict(),
            "findings": [finding.to_dict() for finding in report.findings],
        },
    )


def low_bits(model: Model, bits: int, counts: dict[str, int]) -> str:
    tensors = [tensor for tensor in model.tensors if tensor.name in counts]
    total = {"values": sum(tensor.values for tensor in tensors), "low_zero": {str(bits): sum(counts.values())}}
    rows = [{**_named(tensor), "low_zero": {str(bits): counts[tensor.name]}} for tensor in tensors]
    return document("scan-low-bits", {**_about(model), "bits": bits, "tensors": rows, "total": total})


def bits_view(model: Model, name: str, bits: int, table: Table) -> str:
    rows = [
        dict(zip(("index", "value", "hex", "sign", "exponent", "mantissa"), row, strict=True)) for row in table.rows
    ]
    return document("scan-bits-view", {**_about(model), "tensor": name, "bits": bits, "samples": rows})


def fingerprint(found: Fingerprint) -> str:
    """Return the manifest; names stand as they are, and not as they are printed, so that they can be found again."""
    from truebits.comparing.fingerprint import ALGORITHM

    content = {
        "file": found.file,
        "algorithm": ALGORITHM,
        "fingerprint": found.value,
        "whole": found.whole,
        "tensors": [tensor._asdict() for tensor in found.tensors],
        "coverage": found.coverage.to_dict(),
    }
    return document("fingerprint", content)


def verification(found: Verification, manifest: str) -> str:
    checks = [{**check._asdict(), "name": printable(check.name)} for check in found.checks]
    about = {"file": found.file, "manifest": manifest, "same": found.is_same}
    about |= {"verdict": found.verdict, "coverage": found.coverage.to_dict()}
    return document("verify", {**about, "counts": found.counts, "tensors": checks})


def rewrite(verb: str, source: str, output: str | None, result: Rewrite) -> str:
    return document(
        verb,
        {
            "file": source,
            "output": output,
            "bits": result.bits,
            "values": result.values,
            "changed": result.changed,
            "written": result.written,
            "reason": result.reason,
            "tensors": [
                {"name": printable(change.name), "values": change.values, "changed": change.changed}
                for change in result.tensors
            ],
        },
    )


def fakequant(source: str, output: str | None, result: Rewrite, bits: float | None) -> str:
    total = {"values": result.values, "changed": result.changed, **_errors(result.difference), "bits_per_weight": bits}
    tensors = [
        {
            "name": printable(change.name),
            "to": change.to,
            "values": change.values,
            "changed": change.changed,
            **_errors(change.difference),
        }
        for change in result.tensors
    ]
    about = {"file": source, "output": output, "written": result.written, "reason": result.reason}
    return document("fakequant", {**about, "tensors": tensors, "total": total})


def sweep(source: str, found: Sequence[Trial]) -> str:
    rows = [
        {
            "to": trial.to,
            "bits_per_weight": trial.bits,
            "problem": trial.problem,
            "values": of.values if (of := trial.difference) else None,
            "changed": of.changed if of else None,
            **_errors(of),
        }
        for trial in found
    ]
    return document("fakequant-sweep", {"file": source, "formats": rows})


def diff(found: Diff, failed: Sequence[str]) -> str:
    tensors = [
        {
            "name": tensor.name,
            "types": tensor.types,
            "shapes": tensor.shapes,
            "values": tensor.values,
            "changed": tensor.changed,
            "same": tensor.is_same,
            "problem": tensor.problem,
            **_errors(tensor.difference),
            "first": _place(tensor.first),
            "worst": _place(tensor.worst),
        }
        for tensor in found.tensors
    ]
    return document(
        "diff",
        {
            "a": found.a,
            "b": found.b,
            "same": found.is_same,
            "verdict": found.verdict,
            "coverage": found.coverage.to_dict(),
            "failed": list(failed),
            "only_a": found.only_a,
            "only_b": found.only_b,
            "metadata": [key._asdict() for key in found.metadata],
            "tensors": tensors,
            "total": {"values": found.values, "changed": found.changed, **_errors(found.total)},
        },
    )


def trace(found: Trace) -> str:
    tensors = [
        {
            "name": one.name,
            "type": one.type,
            "sources": one.sources,
            "source_type": one.source_type,
            "values": one.values,
            "verdict": str(one.verdict),
            "detail": one.detail,
            "transforms": one.transforms,
            "changed": one.changed,
            "differing": one.differing,
            "first": _place(one.first),
            "relative_error": one.error,
            "rows_left_out": one.left_out,
        }
        for one in found.tensors
    ]
    return document(
        "trace",
        {
            "gguf": found.gguf,
            "source": found.source,
            "architecture": found.architecture,
            "architecture_known": found.is_known,
            "faithful": found.is_faithful,
            "conclusion": found.conclusion,
            "counts": {str(verdict): count for verdict, count in found.counts.items()},
            "tensors": tensors,
            "verified": found.is_verified,
            "coverage": found.coverage.to_dict(),
            "unmatched": found.unmatched,
            "left_out": [one._asdict() for one in found.left_out],
        },
    )


def rank(found: Ranking) -> str:
    models = [
        {
            "file": one.path,
            "bits_per_weight": one.bits_per_weight,
            "error": _finite(one.error),
            "worst": one.worst.name if one.worst else None,
            "groups": {name: _finite(error) for name, error in one.groups.items()},
            "coverage": one.coverage.to_dict(),
            "tensors": [
                {
                    "name": tensor.name,
                    "type": tensor.type,
                    "source": tensor.source,
                    "error": _finite(tensor.error.relative) if tensor.error else None,
                    "not_compared": tensor.why,
                    "renamed": tensor.is_renamed,
                }
                for tensor in one.tensors
            ],
        }
        for one in found.models
    ]
    verified = found.is_verified
    return document(
        "rank", {"source": found.source, "conclusion": found.conclusion, "verified": verified, "models": models}
    )


def siblings(found: Siblings) -> str:
    models = [
        {
            "file": one.path,
            "origins": {type: asdict(origin) for type, origin in one.origins.items()},
            "conclusion": found.conclusion(number) if number else None,
        }
        for number, one in enumerate(found.models)
    ]
    tensors = [
        {
            "name": one.name,
            "types": one.types,
            "values": one.values,
            "relations": [{"kin": str(relation.kin), "detail": relation.detail} for relation in one.relations],
        }
        for one in found.tensors
    ]
    return document(
        "trace-siblings",
        {
            "explained": found.is_explained,
            "verified": found.is_verified,
            "coverage": found.coverage.to_dict(),
            "models": models,
            "tensors": tensors,
        },
    )


def evaluation(found: Evaluation) -> str:
    return document("eval", _evaluation(found))


def _evaluation(found: Evaluation) -> dict[str, Any]:
    return {**asdict(found), "has_effect": found.has_effect}


def experiment(done: Experiment) -> str:
    from truebits.report.experiment import conclusion

    plan, total = done.plan, done.diff.total if done.diff else None
    return document(
        "experiment",
        {
            "model": done.model,
            "operation": done.operation,
            "types": done.types,
            "plan": {"values": plan.values, "changed": plan.changed, "reason": plan.reason},
            "proved_without_effect": done.is_proved,
            "changed_when_done_again": done.again,
            "candidate": done.candidate,
            "difference": {"changed": done.diff.changed, **_errors(total)} if done.diff else None,
            "evaluation": _evaluation(done.evaluation) if done.evaluation else None,
            "conclusion": conclusion(done),
            "coverage": done.coverage.to_dict(),
        },
    )


def comparisons(model: str, found: Sequence[Candidate]) -> str:
    rows = [
        {
            "to": one.to,
            "bits_per_weight": one.bits,
            "changed": one.plan.changed,
            **_errors(one.plan.difference),
            "evaluation": _evaluation(one.evaluation),
        }
        for one in found
    ]
    return document("experiment-sweep", {"model": model, "formats": rows})


def _exceptions(report: Report, one: TensorPrecision) -> list[dict[str, Any]]:
    """The first values that the format of most of a tensor does not hold."""
    return [{"at": at, "word": word} for at, word in report.exceptions(one.tensor.name)]


def _place(place: Place | None) -> dict[str, Any] | None:
    if place is None:
        return None
    return {
        key: None if isinstance(value, float) and not isfinite(value) else value
        for key, value in place._asdict().items()
    }


def _errors(of: Difference | None) -> dict[str, Any]:
    """Error figures; infinite ones are null, as JSON has no Inf: ``saturated`` and ``changed`` tell which.

    All are null where nothing was measured.
    """
    if of is None:
        return dict.fromkeys(_errors(Difference()))
    figures = {"max_abs": of.max_abs, "max_rel": of.max_rel, "squared_error": of.squared_error, "rms": of.rms}
    figures |= {"mse": of.mse, "squares": of.squares, "snr_db": of.snr_db, "cosine": of.cosine}
    finite = {key: figure if isfinite(figure) else None for key, figure in figures.items()}
    return {"flushed": of.flushed, "saturated": of.saturated, "max_ulp": of.max_ulp, **finite}


def _about(model: Model) -> dict[str, Any]:
    return {
        "file": str(model.path),
        "format": model.format,
        "size": model.size,
        "parts": len(model.parts),
        "types": model.types,
    }


def _named(tensor: Tensor) -> dict[str, Any]:
    return {"name": printable(tensor.name), "type": tensor.type, "shape": tensor.shape, "values": tensor.values}


def _answers(members: Sequence[PrecisionProfile]) -> dict[str, Any]:
    profile = PrecisionProfile.merge(members)
    return {
        **profile.answers(),
        "mantissa_bits": {"100": profile.mantissa_bits(), "99.9": profile.mantissa_bits(0.999)},
        "exponent_range": profile.exponent_range,
        "exponent_entropy": profile.exponent_entropy,
        "bytes_saved": sum(one.bytes_saved for one in members),
        "origin": asdict(origin_of(members)),
    }


def _made_from(report: Report, name: str) -> dict[str, Any] | None:
    """What a matrix's values were dequantized from; None where that was not asked, or it is no matrix."""
    return asdict(report.made_from[name]) if name in report.made_from else None


def _total(report: Report) -> dict[str, Any]:
    """Add the answers of all storage types up. ``low_zero`` is of each type's own words: see ``totals``."""
    total: dict[str, Any] = {"tensors": len(report), "values": 0, "low_zero": {}, "fits": {}}
    for profile in report.totals().values():
        for key, count in profile.answers().items():
            if isinstance(count, dict):
                for name, number in count.items():
                    total[key][name] = total[key].get(name, 0) + number
            else:
                total[key] = total.get(key, 0) + count
    total["bytes_saved"] = sum(profile.bytes_saved for profile in report.tensors.values())
    return total
