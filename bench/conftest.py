"""What the benchmarks work on, made once, removed afterwards; and what the JSON says of the machine.

Sizes are multiplied by TRUEBITS_BENCH_SCALE: 1 unless given, 1/1024 where timing is disabled, so that
`make test` runs every benchmark once. Files are written to TRUEBITS_BENCH_DIR, or the temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from ctypes import CDLL
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import yardstick

GIB = 1 << 30
MORE_TENSORS = 10_000
NOT_MEASURED: dict[str, str] = {}
"""Why a benchmark was skipped, by name."""


def scale_of(config: pytest.Config) -> float:
    measuring = config.getoption("benchmark_enable") or not config.getoption("benchmark_disable")
    return float(os.environ.get("TRUEBITS_BENCH_SCALE", 1 if measuring else 1 / 1024))


def parent_folder() -> str:
    return os.environ.get("TRUEBITS_BENCH_DIR", tempfile.gettempdir())


@pytest.fixture(scope="session")
def scale(pytestconfig: pytest.Config) -> float:
    return scale_of(pytestconfig)


@pytest.fixture(scope="session")
def words(scale: float) -> np.ndarray:
    """1 GiB of F32 words with full precision."""
    generator = np.random.Generator(np.random.SFC64(1))
    return generator.standard_normal(int(GIB * scale) // 4, dtype=np.float32).view(np.uint32)


@pytest.fixture(scope="session")
def threads() -> int:
    """How many threads the kernels run on, compiled and loaded."""
    import truebits_native
    from truebits_native.reference import Grid

    for work in truebits_native.dispatch.WORK:
        truebits_native.expect_work(work, 1 << 40)
    some = np.zeros(truebits_native.dispatch.LOADED_WORDS, np.uint32)
    truebits_native.low_zero_count(some, 16)
    truebits_native.profile(some)
    truebits_native.truncate(some, 16)
    truebits_native.compare(some, some)
    for measured in (False, True):
        truebits_native.round_floats(some, Grid(7, -126, 1.0, 1.0, 1.0, 7), measured=measured)
    return truebits_native.pool.cores()


@pytest.fixture(scope="session")
def library() -> CDLL:
    """The C loops; skips where they cannot be compiled."""
    compiled, about = yardstick.compile_yardstick()
    if compiled is None:
        pytest.skip(about)
    return compiled


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="truebits-bench-", dir=parent_folder()) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def two_gib(folder: Path, scale: float) -> Path:
    return make(folder / "2.gguf", 2 * GIB * scale)


@pytest.fixture(scope="module")
def eight_gib(folder: Path, scale: float) -> Path:
    return make(folder / "8.gguf", 8 * GIB * scale)


@pytest.fixture(scope="module")
def many_tensors(folder: Path, two_gib: Path, scale: float) -> Path:
    """As many bytes as `two_gib`, in 10,000 more tensors."""
    import truebits

    count = len(truebits.open(two_gib).tensors) + max(1, round(MORE_TENSORS * scale))
    return make(folder / "many.gguf", 2 * GIB * scale, tensors=count)


@pytest.fixture(scope="module")
def cold_file(folder: Path, scale: float) -> Path:
    """A file of its own for the cold runs: how a file was last read decides how it is cached."""
    return make(folder / "cold.gguf", GIB * scale)


@pytest.fixture(scope="module")
def tinyllama(folder: Path) -> Path:
    import truebits

    return truebits.synth(folder / "tinyllama.gguf", like="tinyllama")


def make(path: Path, size: float, tensors: int | None = None) -> Path:
    """Write a test model, or skip where it does not fit: on the disk, and in memory to stay warm."""
    import truebits

    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    room = min(shutil.disk_usage(path.parent).free, 1024 * int(available.split()[1]))
    if room < 1.25 * size:
        pytest.skip(f"no room for a file of {size / GIB:.3g} GiB on disk and in memory")
    return truebits.synth(path, size=int(size), tensors=tensors)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        name = report.nodeid.rpartition("::")[2]
        NOT_MEASURED[name] = report.longrepr[2].removeprefix("Skipped: ")


def pytest_benchmark_update_machine_info(machine_info: dict) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", parent_folder()], capture_output=True, text=True, check=True)
    machine_info["truebits_bench"] = {
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "cores": len(os.sched_getaffinity(0)),
        "file system": kind.stdout.strip(),
        "compiler": yardstick.compile_yardstick()[1],
        **{package: version(package) for package in ("numba", "numpy", "gguf")},
    }


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict) -> None:
    output_json["scale"] = scale_of(config)
    output_json["not_measured"] = NOT_MEASURED
