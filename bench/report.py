"""The tables of docs/benchmarks.md, from pytest-benchmark's JSON: ``python bench/report.py results.json [PAGE.md]``.

Prints the tables and, given that page, puts them between its two marks. Every benchmark this knows gets
a row: those that miss their goal are shown as such, those that were not run with the reason.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from goals import GOALS, MEASURES, Goal

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
EQUALITY = {True: ", equal", False: ", **differs**", None: ""}
HEAD = ("What", "Ours", "Against", "Theirs", "Ratio (lowest to highest)", "Wanted", "Met", "Result")


def report(results: dict) -> str:
    """Return the Markdown of one run.

    Raises
    ------
    ValueError
        A benchmark has no line in `goals`.
    """
    measured = {benchmark["name"]: benchmark["extra_info"] for benchmark in results["benchmarks"]}
    unknown = sorted(set(measured) - set(GOALS))
    if unknown:
        raise ValueError(f"no goal is known for {', '.join(unknown)}: give it a line in bench/goals.py")
    absent = {name: results["not_measured"].get(name, "not run") for name in GOALS if name not in measured}
    with_goal = [name for name, goal in GOALS.items() if goal.wanted is not None]
    others = [name for name in GOALS if name not in with_goal]
    count = sum(name in measured and is_met(measured[name]) for name in with_goal)
    return "\n".join(
        [
            machine(results),
            "",
            f"{count} of {len(with_goal)} yardsticks met:",
            "",
            *table(with_goal, measured, absent),
            "",
            "For comparison, without a goal:",
            "",
            *table(others, measured, absent),
        ]
    )


def machine(results: dict) -> str:
    """Describe where and when it was measured."""
    info = results["machine_info"]
    more = info["truebits_bench"]
    processor = info["cpu"].get("brand_raw") or info["machine"]
    lines = [
        f"Measured {results['datetime'][:10]} on {processor}, {more['cores']} cores, "
        f"{more['memory'] / 2**30:.0f} GiB; {info['system']} {info['release']}, files on {more['file system']}; "
        f"Python {info['python_version']}, numba {more['numba']}, "
        f"numpy {more['numpy']}, gguf {more['gguf']}; C: {more['compiler']}.",
        "The two sides of a row ran in turn; times are medians, the ratio is the median of the rounds' ratios.",
    ]
    if results["scale"] != 1:
        lines.append(f"**Sizes are {results['scale']:.3g} times those named.**")
    return "\n".join(lines)


def table(names: list[str], measured: dict[str, dict], absent: dict[str, str]) -> list[str]:
    rows = [row(measured[name]) if name in measured else absent_row(GOALS[name], absent[name]) for name in names]
    return [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *rows)]


def row(info: dict) -> list[str]:
    measure = MEASURES[info["measure"]]
    low, high = info["spread"]
    number = measure.label.partition("}")[0] + "}"
    return [
        info["what"],
        quantity(info["ours"], measure.unit),
        info["against"],
        quantity(info["theirs"], measure.unit),
        f"{measure.label.format(info['ratio'])} ({number.format(low)} to {number.format(high)})",
        wanted(info),
        met(info),
        f"{info['result']}{EQUALITY[info['equal']]}",
    ]


def absent_row(goal: Goal, reason: str) -> list[str]:
    return [goal.what, "–", goal.against, "–", "–", wanted(goal._asdict()), "not measured", reason]


def met(info: dict) -> str:
    """Say whether a goal is met, and if not, what keeps it from being met."""
    if info["wanted"] is None:
        return "–"
    return "yes" if is_met(info) else ": ".join(filter(None, ("**no**", info["bound"])))


def is_met(info: dict) -> bool:
    return info["equal"] is not False and MEASURES[info["measure"]].met(info["ratio"], info["wanted"])


def wanted(info: dict) -> str:
    if info["wanted"] is None:
        return "–"
    measure = MEASURES[info["measure"]]
    return f"{measure.wanted} {measure.label.format(info['wanted']).removeprefix('+')}"


def quantity(value: float, unit: str) -> str:
    if unit == "MiB":
        return f"{value:.1f} MiB"
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def put_between(readme: str, tables: str) -> str:
    """Replace what stands between the two marks.

    Raises
    ------
    ValueError
        The marks are not there, once and in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"expected {BEGIN} and, after it, {END}, once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}"


def main(results: str, readme: str | None = None) -> None:
    tables = report(json.loads(Path(results).read_text()))
    print(tables)
    if readme is not None:
        path = Path(readme)
        path.write_text(put_between(path.read_text(), tables))


if __name__ == "__main__":
    main(*sys.argv[1:])
