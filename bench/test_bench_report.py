"""The report shows losses, gaps and wrong results, and refuses what it does not know."""

from __future__ import annotations

import pytest

import report
from goals import GOALS


def results(benchmarks: list[dict], not_measured: dict[str, str] | None = None) -> dict:
    more = {"memory": 2**34, "cores": 2, "file system": "ext4", "compiler": "no C compiler"}
    versions = {"numba": "0.60", "numpy": "2.0", "gguf": "0.17"}
    return {
        "datetime": "2025-11-22T10:00:00",
        "machine_info": {
            "cpu": {"brand_raw": "Some CPU"},
            "system": "Linux",
            "release": "6.1",
            "python_version": "3.11.7",
            "truebits_bench": {**more, **versions},
        },
        "benchmarks": benchmarks,
        "scale": 1.0,
        "not_measured": not_measured or {},
    }


def measured(name: str, ratio: float, equal: bool | None = True) -> dict:
    figures = {"ours": 0.024, "theirs": 0.024 * ratio, "ratio": ratio, "spread": [ratio, ratio]}
    return {
        "name": name,
        "extra_info": {**GOALS[name]._replace(bound="")._asdict(), **figures, "result": "7 of 9", "equal": equal},
    }


def row_of(tables: str, name: str) -> str:
    return next(line for line in tables.splitlines() if line.startswith(f"| {GOALS[name].what} "))


@pytest.mark.parametrize(
    ("name", "ratio", "equal", "expected"),
    [
        ("test_low_zero_count_c", 1.02, True, "| yes | 7 of 9, equal |"),
        ("test_low_zero_count_c", 0.98, True, "| **no** | 7 of 9, equal |"),
        ("test_low_zero_count_c", 1.02, False, "| **no** | 7 of 9, **differs** |"),
        ("test_low_zero_count_c", 1.02, None, "| yes | 7 of 9 |"),
        ("test_growth", 4.2, True, "| yes | 7 of 9, equal |"),
        ("test_growth", 4.4, True, "| **no** | 7 of 9, equal |"),
        ("test_small_tensors", 99.0, True, "| yes | 7 of 9, equal |"),
    ],
)
def test_met_or_not(name, ratio, equal, expected):
    assert row_of(report.report(results([measured(name, ratio, equal)])), name).endswith(expected)


def test_a_row_that_is_not_met_says_what_keeps_it():
    info = measured("test_growth", 4.4)
    info["extra_info"]["bound"] = "the disk"
    assert row_of(report.report(results([info])), "test_growth").endswith("| **no**: the disk | 7 of 9, equal |")


def test_absent_rows_say_why():
    tables = report.report(results([], {"test_profile_c": "no C compiler: cc is not installed"}))
    assert row_of(tables, "test_profile_c").endswith("| not measured | no C compiler: cc is not installed |")
    assert row_of(tables, "test_growth").endswith("| not measured | not run |")


def test_unknown_benchmark_raises():
    with pytest.raises(ValueError, match="no goal is known for test_new"):
        report.report(results([{"name": "test_new", "extra_info": {}}]))


def test_put_between_replaces_only_what_is_between():
    readme = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"
    assert report.put_between(readme, "new") == f"above\n{report.BEGIN}\nnew\n{report.END}\nbelow\n"


def test_put_between_needs_the_marks():
    with pytest.raises(ValueError, match="once each"):
        report.put_between(f"{report.END} {report.BEGIN}", "new")
