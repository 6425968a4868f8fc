"""Measure our episode store beside zarr, lance and tensordict's memory maps: `python -m scripts.benchmark_stores`.

Every store holds the same episodes (64x64 pictures, state, action, reward), is read on one core from a warm page cache,
and hands out the same thing: batches of 16 random windows of 16 frames as arrays. A library that is missing is left out:
`pip install zarr pylance tensordict` brings all three.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STEPS, STATE, ACTION = 500, 8, 6  # an episode of a Gymnasium locomotion task
KINDS = 20                        # different episodes, made beforehand and written again and again
WINDOW, BATCH = 16, 16            # frames a window, windows a batch
SECONDS = 2.0                     # measured per seed and store, in seconds of the core
RESULT = Path(__file__).parents[1] / "results" / "episode_store.json"
COMMAND = "python -m scripts.benchmark_stores"


@functools.cache
def episode(number: int) -> dict[str, np.ndarray]:
    """Frames as a renderer gives them, smooth ground that moves by and sharp edges, so that compression has its
    chance."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[0:64, 0:64]
    ground = np.stack([90 + y, 120 + y // 2 + 8 * ((x // 8 + y // 8) % 2), 200 - y], axis=-1).astype(np.uint8)
    image = np.stack([np.roll(ground, step, axis=1) for step in range(STEPS + 1)])
    for step, (row, column) in enumerate(random.integers(0, 48, (STEPS + 1, 2))):
        image[step, row:row + 16, column:column + 6] = random.integers(0, 256, 3, dtype=np.uint8)
        image[step, 0, 0] = number, step % 256, step // 256  # which frame this is, to check what comes back
    return {"image": image, "state": random.normal(size=(STEPS + 1, STATE)).astype(np.float32),
            "action": random.uniform(-1, 1, (STEPS, ACTION)).astype(np.float32),
            "reward": random.normal(size=STEPS).astype(np.float32)}


def as_rows(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same number of rows for every key: actions and rewards end in a row of zeros."""
    return {key: array if len(array) == STEPS + 1 else np.concatenate([array, np.zeros_like(array[:1])])
            for key, array in values.items()}


SHAPES = {"image": ((64, 64, 3), np.uint8), "state": ((STATE,), np.float32), "action": ((ACTION,), np.float32),
          "reward": ((), np.float32)}


@dataclass
class Candidate:
    """A store under test. `sampler(opened, seed)` gives batches: key to array `[BATCH, WINDOW, ...]`."""

    name: str
    write: Callable[[Path, int], None]
    open: Callable[[Path], object]
    sampler: Callable[[object, np.random.Generator], Iterator[dict]]
    lacks: str  # of what the store has to do, what would be left to write around it


def random_starts(random: np.random.Generator, episodes: int) -> np.ndarray:
    return random.integers(0, episodes, BATCH) * (STEPS + 1) + random.integers(0, STEPS + 2 - WINDOW, BATCH)


# Ours


def write_ours(folder: Path, episodes: int) -> None:
    from worldmodel.data import EpisodeStore
    from worldmodel.interface import Interface

    interface = Interface(cameras={"image": (64, 64, 3)}, state_dim=STATE, action_dim=ACTION)
    with EpisodeStore.create(folder, interface) as store:
        for number in range(episodes):
            store.append({**episode(number % KINDS), "terminated": False, "truncated": True})


def open_ours(folder: Path):
    from worldmodel.data import EpisodeStore

    return EpisodeStore.open(folder)


def sample_ours(store, random: np.random.Generator) -> Iterator[dict]:
    """The same work as the others: windows of four arrays, gathered."""
    columns = store.layout.columns
    while True:
        maps, first = store.locate(random.integers(0, len(store), BATCH))
        rows = first + random.integers(0, STEPS + 2 - WINDOW, BATCH)
        image = np.empty((BATCH, WINDOW, 64, 64, 3), np.uint8)
        values = np.empty((BATCH, WINDOW, *store.layout.shapes["values"]), np.float32)
        for window, (arrays, row) in enumerate(zip(maps, rows.tolist(), strict=True)):
            image[window] = arrays["image"][row:row + WINDOW]
            values[window] = arrays["values"][row:row + WINDOW]
        yield {"image": image, **{key: np.ascontiguousarray(values[..., columns[key]]) for key in columns}}


def sample_ours_for_training(store, random: np.random.Generator) -> Iterator[dict]:
    """What training calls: the ten tensors of WindowSampler."""
    from worldmodel.data import WindowSampler

    sampler = WindowSampler(store, WINDOW - 1, BATCH, seed=int(random.integers(2**31)))
    while True:
        yield sampler.sample()


# zarr


def zarr_candidate(name: str, **compression) -> Candidate:
    import zarr

    def write(folder: Path, episodes: int) -> None:
        group = zarr.create_group(folder)
        arrays = {key: group.create_array(key, shape=(0, *shape), chunks=(WINDOW, *shape), dtype=dtype, **compression)
                  for key, (shape, dtype) in SHAPES.items()}
        for number in range(episodes):
            for key, array in as_rows(episode(number % KINDS)).items():
                arrays[key].append(array)

    def sample(group, random: np.random.Generator) -> Iterator[dict]:
        arrays = {key: group[key] for key in SHAPES}
        episodes = arrays["reward"].shape[0] // (STEPS + 1)
        while True:
            starts = random_starts(random, episodes)
            yield {key: np.stack([array[start:start + WINDOW] for start in starts]) for key, array in arrays.items()}

    return Candidate(name, write, lambda folder: zarr.open_group(folder, mode="r"), sample,
                     "no transaction over several arrays, no episodes, no checksums unless a codec is added")


# lance


def lance_candidate(name: str) -> Candidate:
    import lance
    import pyarrow as pa

    def kind(shape: tuple, dtype: type) -> pa.DataType:
        scalar = pa.from_numpy_dtype(dtype)
        return pa.list_(scalar, int(np.prod(shape))) if shape else scalar

    schema = pa.schema([(key, kind(*spec)) for key, spec in SHAPES.items()])

    def batches(episodes: int) -> Iterator[pa.RecordBatch]:
        for number in range(episodes):
            columns = []
            for array in as_rows(episode(number % KINDS)).values():
                flat = pa.array(array.reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))
                               if array.ndim > 1 else flat)
            yield pa.record_batch(columns, schema=schema)

    def write(folder: Path, episodes: int) -> None:
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches(episodes)), str(folder))

    def sample(dataset, random: np.random.Generator) -> Iterator[dict]:
        episodes = dataset.count_rows() // (STEPS + 1)
        while True:
            starts = random_starts(random, episodes)
            table = dataset.take((starts[:, None] + np.arange(WINDOW)).reshape(-1))
            batch = {}
            for key, (shape, _) in SHAPES.items():
                column = table[key].combine_chunks()
                flat = (column.flatten() if shape else column).to_numpy()
                batch[key] = flat.reshape(BATCH, WINDOW, *shape)
            yield batch

    return Candidate(name, write, lambda folder: lance.dataset(str(folder)), sample,
                     "no episodes; a commit per episode makes a fragment per episode")


# tensordict


def tensordict_candidate(name: str) -> Candidate:
    import torch
    from tensordict import TensorDict

    def write(folder: Path, episodes: int) -> None:
        rows = episodes * (STEPS + 1)
        one = TensorDict({key: torch.zeros(1, *shape, dtype=getattr(torch, np.dtype(dtype).name))
                          for key, (shape, dtype) in SHAPES.items()}, batch_size=[1])
        data = one.expand(rows).memmap_like(folder)
        for number in range(episodes):
            start = number * (STEPS + 1)
            data[start:start + STEPS + 1] = TensorDict(
                {key: torch.from_numpy(array) for key, array in as_rows(episode(number % KINDS)).items()}, [STEPS + 1])

    def sample(data, random: np.random.Generator) -> Iterator[dict]:
        episodes = len(data) // (STEPS + 1)
        tensors = {key: data[key].as_subclass(torch.Tensor) for key in SHAPES}
        while True:  # one index_select per key is the fastest of the seven ways that were tried
            rows = torch.from_numpy((random_starts(random, episodes)[:, None] + np.arange(WINDOW)).reshape(-1))
            yield {key: tensor.index_select(0, rows).view(BATCH, WINDOW, *tensor.shape[1:])
                   for key, tensor in tensors.items()}

    return Candidate(name, write, TensorDict.load_memmap, sample,
                     "its size is fixed when it is made: no appending, no episodes, nothing about crashes or damage")


def candidates() -> tuple[list[Candidate], list[str]]:
    """Every store that is installed, ours first, and the names of the packages that are missing."""
    found = [Candidate("ours", write_ours, open_ours, sample_ours, "nothing"),
             Candidate("ours, sampler", write_ours, open_ours, sample_ours_for_training, "nothing")]
    missing = []
    for package, makers in {
        "zarr": (lambda: zarr_candidate("zarr, zstd"), lambda: zarr_candidate("zarr, raw", compressors=None)),
        "pylance": (lambda: lance_candidate("lance"),),
        "tensordict": (lambda: tensordict_candidate("tensordict"),),
    }.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
            continue
        found += [make() for make in makers]
    return found, missing


def check(batch: dict) -> None:
    """Raise where a batch is not made of windows of consecutive frames of one episode."""
    image = np.asarray(batch["image"])
    mark = image[:, :, 0, 0].astype(int)
    step = mark[..., 1] + 256 * mark[..., 2]
    if image.shape != (BATCH, WINDOW, 64, 64, 3) or (np.diff(step) != 1).any() or np.ptp(mark[..., 0], axis=1).any():
        raise AssertionError("a batch has wrong frames")


def measure(candidate: Candidate, folder: Path, episodes: int, seeds: list[int]) -> dict:
    """Write, open and sample one store. Rates are per second of the core, so that other jobs on the machine matter
    little; writing and opening are in seconds of the clock, because they wait for the disk."""
    start = time.perf_counter()
    candidate.write(folder, episodes)
    write_seconds = time.perf_counter() - start
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    start = time.perf_counter()
    opened = candidate.open(folder)
    open_ms = 1e3 * (time.perf_counter() - start)
    start = time.process_time()
    for _, batch in zip(range(2 * episodes), candidate.sampler(opened, np.random.default_rng(0)), strict=False):
        check(batch)  # and warm: pages, maps, checksums
    first = 2 * episodes * BATCH / (time.process_time() - start)
    rates = []
    for seed in seeds:
        sampler = candidate.sampler(opened, np.random.default_rng(seed))
        next(sampler)
        count, start = 0, time.process_time()
        while time.process_time() - start < SECONDS:
            next(sampler)
            count += BATCH
        rates.append(count / (time.process_time() - start))
    return {"write_seconds": round(write_seconds, 2), "disk_mb": round(disk / 1e6, 1), "open_ms": round(open_ms, 2),
            "first_windows_per_second": round(first), "windows_per_second": [round(rate) for rate in rates],
            "left_to_write": candidate.lacks}


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                            cwd=Path(__file__).parent)
    return answer.stdout.strip() if answer.returncode == 0 else "none"


def main() -> None:
    """Measure every store that is installed, print a table, and write results/episode_store.json if all are."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=120, help="episodes of 500 steps; 120 are 0.74 GB")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions of the random reads")
    parser.add_argument("--folder", default=None, help="where to put the stores; the system's temporary folder if unset")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    seeds = list(range(1, options.seeds + 1))
    for number in range(KINDS):
        episode(number)  # making them is not part of writing them
    stores, missing = candidates()
    figures = {}
    print(f"{'store':<14}{'write s':>9}{'MB':>9}{'open ms':>9}{'first windows/s':>17}{'windows/s':>11}")
    for candidate in stores:
        root = Path(tempfile.mkdtemp(prefix="stores-", dir=options.folder))
        try:
            figures[candidate.name] = result = measure(candidate, root / "store", options.episodes, seeds)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        print(f"{candidate.name:<14}{result['write_seconds']:>9.1f}{result['disk_mb']:>9.0f}{result['open_ms']:>9.1f}"
              f"{result['first_windows_per_second']:>17.0f}{np.mean(result['windows_per_second']):>11.0f}")
    if missing:
        print(f"not installed, so nothing is written to results/: pip install {' '.join(missing)}")
        return
    others = {name: np.array(result["windows_per_second"]) for name, result in figures.items() if not name.startswith("ours")}
    best = max(others, key=lambda name: others[name].mean())
    ratios = np.array(figures["ours"]["windows_per_second"]) / others[best].mean()
    half = 1.96 * ratios.std(ddof=1) / np.sqrt(len(ratios))
    RESULT.write_text(json.dumps({
        "claim": f"random windows of {WINDOW} frames of 64x64 come from our episode store as fast as from the fastest of "
                 "zarr, lance and tensordict's memory maps (ratio of windows per second of one core, warm cache)",
        "command": COMMAND, "machine": machine(), "commit": commit(),
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "torch", "zarr", "pylance",
                                                                         "tensordict")},
        "seeds": seeds, "values": [round(float(ratio), 3) for ratio in ratios], "fastest_other": best,
        "mean": round(float(ratios.mean()), 3),
        "interval": [round(float(ratios.mean() - half), 3), round(float(ratios.mean() + half), 3)],
        "bar": 1.0, "met": bool(ratios.mean() >= 1.0), "episodes": options.episodes, "stores": figures,
    }, indent=1) + "\n")
    print(f"ours / {best}: {ratios.mean():.2f}, written to results/{RESULT.name}")


if __name__ == "__main__":
    main()
