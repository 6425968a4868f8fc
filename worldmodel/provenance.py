"""Where a number comes from: commit, versions, machine, and the interval around it; written as JSON that is whole or
absent."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

DEPENDENCIES = (
    "torch", "triton", "numpy", "gymnasium", "mujoco", "dm_control", "einops", "hydra-core", "lightning-fabric",
    "safetensors", "imageio-ffmpeg", "pillow", "wandb", "transformers", "peft", "open_clip_torch",
)  # fmt: skip
RESAMPLES = 10_000  # of the bootstrap: the interval's ends then move by under 2 % of its width from seed to seed


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Version of Python, of this package and of every dependency that is installed; imports none of them. Read once per
    process: every checkpoint tells them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("worldmodel", *DEPENDENCIES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def commit() -> dict[str, Any]:
    """`{"hash": str, "dirty": bool}` of the checkout that this package runs from; both None without git or outside a
    checkout, and where the package lies in somebody else's repository. What runs write under results/ makes nothing
    dirty. Read once per process: what runs is what was there at the start."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
        return {"hash": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return {"hash": None, "dirty": None}


def machine() -> dict[str, Any]:
    """What the work runs on: `system`, `cpu`, `cores` that this process may use, `memory_gb`, torch's `threads`,
    `bf16_native` (does the CPU multiply bfloat16 itself), `gpus`."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gb": _memory_gb(),
        "threads": torch.get_num_threads(),
        "bf16_native": _bf16_native(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of `values` and the bootstrap percentile interval of that mean, as `(mean, low, high)`; the resampling has a
    fixed seed, so the same values give the same interval. Below two values there is no interval: its ends are NaN.
    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    _check_confidence(confidence)
    values = np.asarray(values, np.float64)
    if not len(values):
        return math.nan, math.nan, math.nan
    if len(values) == 1:
        return float(values[0]), math.nan, math.nan
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values[draws].mean(1), [tail, 1.0 - tail])
    return float(values.mean()), float(low), float(high)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """Rate of success and its Wilson score interval, as `(rate, low, high)`; unlike the normal interval it stays in
    [0, 1] and keeps a width at 0 and 1. Source: Wilson, "Probable inference", 1927, equation for p."""
    from statistics import NormalDist

    _check_confidence(confidence)
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials: successes must lie between 0 and the trials")
    if trials == 0:
        return math.nan, math.nan, math.nan
    z, rate = NormalDist().inv_cdf(0.5 + confidence / 2.0), successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return rate, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def result_json(
    claim: str,
    command: str,
    seeds: Sequence[int],
    values: Sequence[float],
    bar: float | None,
    *,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    **more: Any,
) -> dict[str, Any]:
    """One claim of `results/`: `{claim, command, machine, commit, versions, seeds, values, mean, interval, bar, met}`.

    Args:
        claim: one sentence with its unit, such as "cartpole swing-up from pixels, return after 20 minutes".
        command: what a stranger types to get the file again.
        seeds: of the runs or episodes behind `values`.
        bar: what the mean has to reach (or stay under, where not `higher_is_better`); None for a figure without one.
        more: further entries, put after the others.
    """
    mean, low, high = mean_interval(values, confidence)
    met = None if bar is None else bool(mean >= bar if higher_is_better else mean <= bar)
    return {
        "claim": claim,
        "command": command,
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
        "seeds": list(seeds),
        "values": list(values),
        "mean": mean,
        "interval": {"confidence": confidence, "low": low, "high": high},
        "bar": bar,
        "higher_is_better": higher_is_better,
        "met": met,
        **more,
    }


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numbers of numpy and torch become Python's, NaN and infinities None, paths text.

    Raises:
        TypeError: something inside has no JSON form; the message gives its place.
    """
    return _plain(value, "value")


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON, whole or not at all, and return the path."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well, and vanishes when it does not. The bytes are on
    disk before the move, so a crash or a full disk leaves the old file, or none. Makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: encoders choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any, place: str) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(entry, f"{place}.{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{place}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's and torch's scalars and arrays
        return _plain(value.tolist(), place)
    raise TypeError(f"{place} is of type {type(value).__name__}, which has no JSON form")


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"eval.confidence lies between 0 and 1, and is {confidence}; 0.95 is the usual choice")


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _bf16_native() -> bool:
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)
