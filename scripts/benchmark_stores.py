"""Measure our episode store beside zarr, lance and tensordict's memory maps: `python -m scripts.benchmark_stores`.

Every store holds the same episodes (64x64 pictures, state, action, reward), is read on one core from a warm page cache,
and hands out the same thing: batches of 16 random windows of 16 frames as arrays. A library that is missing is left out:
`pip install zarr pylance tensordict` brings all three. What each would leave us to write: zarr, one transaction over
several arrays and the checks; lance, episodes whose commits don't each become a fragment; tensordict, appending itself
(its size is fixed when it is made) and everything about crashes and damage.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STEPS, STATE, ACTION = 500, 8, 6  # an episode of a Gymnasium locomotion task
KINDS = 20  # different episodes, made beforehand and written again and again
WINDOW, BATCH = 16, 16  # frames a window, windows a batch
SECONDS = 2.0  # measured per seed and store, in seconds of the core
AS_FAST = 0.9  # the ratio that counts as "as fast": within a tenth
PACKAGES = {"zarr": "zarr", "lance": "pylance", "tensordict": "tensordict"}
FLOATS = {"state": ((STATE,), np.float32), "action": ((ACTION,), np.float32), "reward": ((), np.float32)}
SHAPES = {"image": ((64, 64, 3), np.uint8), **FLOATS}
RESULT = Path(__file__).parents[1] / "results" / "episode_store.json"
COMMAND = "python -m scripts.benchmark_stores"


@functools.cache
def episode(kind: int) -> dict[str, np.ndarray]:
    """Rows of one episode, 501 for every key. Frames are as a renderer gives them, smooth ground that moves by and sharp
    edges, so that compression has its chance."""
    random = np.random.default_rng(kind)
    y, x = np.mgrid[0:64, 0:64]
    ground = np.stack([90 + y, 120 + y // 2 + 8 * ((x // 8 + y // 8) % 2), 200 - y], axis=-1).astype(np.uint8)
    image = np.stack([np.roll(ground, step, axis=1) for step in range(STEPS + 1)])
    for step, (row, column) in enumerate(random.integers(0, 48, (STEPS + 1, 2))):
        image[step, row : row + 16, column : column + 6] = random.integers(0, 256, 3, dtype=np.uint8)
        image[step, 0, 0] = kind, step % 256, step // 256  # which frame this is, to check what comes back
    return {"image": image} | {
        key: random.uniform(-1, 1, (STEPS + 1, *shape)).astype(dtype) for key, (shape, dtype) in FLOATS.items()
    }


def episodes_of(count: int) -> Iterator[dict[str, np.ndarray]]:
    return (episode(number % KINDS) for number in range(count))


@dataclass
class Candidate:
    """A store under test. `sampler(opened, seed)` gives batches: key to array `[BATCH, WINDOW, ...]`."""

    name: str
    write: Callable[[Path, int], None]
    open: Callable[[Path], object]
    sampler: Callable[[object, np.random.Generator], Iterator[dict]]


def random_starts(random: np.random.Generator, episodes: int) -> np.ndarray:
    return random.integers(0, episodes, BATCH) * (STEPS + 1) + random.integers(0, STEPS + 2 - WINDOW, BATCH)


def our_candidates() -> list[Candidate]:
    from worldmodel.data import EpisodeStore, WindowSampler
    from worldmodel.interface import Interface

    def write(folder: Path, episodes: int) -> None:
        interface = Interface(cameras={"image": (64, 64, 3)}, state_dim=STATE, action_dim=ACTION)
        with EpisodeStore.create(folder, interface) as store:
            for rows in episodes_of(episodes):
                ends = {"terminated": False, "truncated": True}
                store.append({**rows, "action": rows["action"][:-1], "reward": rows["reward"][:-1], **ends})

    def gather(store: EpisodeStore, random: np.random.Generator) -> Iterator[dict]:
        """The same work as the others: windows of four arrays."""
        columns = store.layout.columns
        while True:
            maps, first = store.locate(random.integers(0, len(store), BATCH))
            rows = first + random.integers(0, STEPS + 2 - WINDOW, BATCH)
            image = np.empty((BATCH, WINDOW, 64, 64, 3), np.uint8)
            values = np.empty((BATCH, WINDOW, *store.layout.shapes["values"]), np.float32)
            for window, (arrays, row) in enumerate(zip(maps, rows.tolist(), strict=True)):
                image[window] = arrays["image"][row : row + WINDOW]
                values[window] = arrays["values"][row : row + WINDOW]
            yield {"image": image, **{key: np.ascontiguousarray(values[..., columns[key]]) for key in columns}}

    def train(store: EpisodeStore, random: np.random.Generator) -> Iterator[dict]:
        """What training calls: all tensors of WindowSampler."""
        sampler = WindowSampler(store, WINDOW - 1, BATCH, seed=int(random.integers(2**31)))
        while True:
            yield sampler.sample()

    return [
        Candidate("ours", write, EpisodeStore.open, gather),
        Candidate("ours, sampler", write, EpisodeStore.open, train),
    ]


def zarr_candidate(name: str, **compression) -> Candidate:
    import zarr

    def write(folder: Path, episodes: int) -> None:
        group = zarr.create_group(folder)
        arrays = {
            key: group.create_array(key, shape=(0, *shape), chunks=(WINDOW, *shape), dtype=dtype, **compression)
            for key, (shape, dtype) in SHAPES.items()
        }
        for rows in episodes_of(episodes):
            for key, array in rows.items():
                arrays[key].append(array)

    def sample(group, random: np.random.Generator) -> Iterator[dict]:
        arrays = {key: group[key] for key in SHAPES}
        episodes = arrays["reward"].shape[0] // (STEPS + 1)
        while True:
            starts = random_starts(random, episodes)
            yield {key: np.stack([array[start : start + WINDOW] for start in starts]) for key, array in arrays.items()}

    return Candidate(name, write, lambda folder: zarr.open_group(folder, mode="r"), sample)


def lance_candidate() -> Candidate:
    import lance
    import pyarrow as pa

    width = {key: int(np.prod(shape)) for key, (shape, _) in SHAPES.items()}
    kinds = {key: pa.list_(pa.from_numpy_dtype(dtype), width[key]) for key, (_, dtype) in SHAPES.items()}
    schema = pa.schema(kinds)

    def batches(episodes: int) -> Iterator[pa.RecordBatch]:
        for rows in episodes_of(episodes):
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(rows[key].reshape(-1)), width[key]) for key in kinds]
            yield pa.record_batch(columns, schema=schema)

    def write(folder: Path, episodes: int) -> None:
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches(episodes)), str(folder))

    def sample(dataset, random: np.random.Generator) -> Iterator[dict]:
        episodes = dataset.count_rows() // (STEPS + 1)
        while True:
            starts = random_starts(random, episodes)
            table = dataset.take((starts[:, None] + np.arange(WINDOW)).reshape(-1))
            yield {
                key: table[key].combine_chunks().flatten().to_numpy().reshape(BATCH, WINDOW, *shape)
                for key, (shape, _) in SHAPES.items()
            }

    return Candidate("lance", write, lambda folder: lance.dataset(str(folder)), sample)


def tensordict_candidate() -> Candidate:
    import torch
    from tensordict import TensorDict

    def write(folder: Path, episodes: int) -> None:
        one = {key: torch.from_numpy(np.zeros((1, *shape), dtype)) for key, (shape, dtype) in SHAPES.items()}
        data = TensorDict(one, [1]).expand(episodes * (STEPS + 1)).memmap_like(folder)
        for number, rows in enumerate(episodes_of(episodes)):
            start = number * (STEPS + 1)
            for key, array in rows.items():
                data[key][start : start + STEPS + 1] = torch.from_numpy(array)

    def sample(data, random: np.random.Generator) -> Iterator[dict]:
        episodes = len(data) // (STEPS + 1)
        tensors = {key: data[key].as_subclass(torch.Tensor) for key in SHAPES}
        while True:  # one index_select per key is the fastest of the seven ways that were tried
            rows = torch.from_numpy((random_starts(random, episodes)[:, None] + np.arange(WINDOW)).reshape(-1))
            yield {
                key: tensor.index_select(0, rows).view(BATCH, WINDOW, *tensor.shape[1:])
                for key, tensor in tensors.items()
            }

    return Candidate("tensordict", write, TensorDict.load_memmap, sample)


def candidates() -> tuple[list[Candidate], list[str]]:
    """Every store that is installed, ours first, and the names of the packages that are missing."""
    makers = {
        "zarr": lambda: [zarr_candidate("zarr, zstd"), zarr_candidate("zarr, raw", compressors=None)],
        "lance": lambda: [lance_candidate()],
        "tensordict": lambda: [tensordict_candidate()],
    }
    found = our_candidates()
    here = [module for module in makers if importlib.util.find_spec(module)]
    for module in here:
        found += makers[module]()
    return found, [PACKAGES[module] for module in makers if module not in here]


def check(batch: dict) -> None:
    """Raise where a batch is not made of windows of consecutive frames of one episode."""
    image = np.asarray(batch["image"])
    mark = image[:, :, 0, 0].astype(int)
    step = mark[..., 1] + 256 * mark[..., 2]
    if image.shape != (BATCH, WINDOW, 64, 64, 3) or (np.diff(step) != 1).any() or np.ptp(mark[..., 0], axis=1).any():
        raise AssertionError("a batch has wrong frames")


def prepare(candidate: Candidate, folder: Path, episodes: int) -> tuple[dict, object]:
    """Write and open one store, in seconds of the clock because both wait for the disk, and read it for the first time,
    which warms the cache and, in ours, checks the checksums."""
    start = time.perf_counter()
    candidate.write(folder, episodes)
    write_seconds = time.perf_counter() - start
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    start = time.perf_counter()
    opened = candidate.open(folder)
    open_ms = 1e3 * (time.perf_counter() - start)
    sampler = candidate.sampler(opened, np.random.default_rng(0))
    start = time.process_time()
    for _ in range(2 * episodes):
        check(next(sampler))
    first = 2 * episodes * BATCH / (time.process_time() - start)
    return {
        "write_seconds": round(write_seconds, 2),
        "disk_mb": round(disk / 1e6, 1),
        "open_ms": round(open_ms, 2),
        "first_windows_per_second": round(first),
        "windows_per_second": [],
    }, opened


def windows_per_second(candidate: Candidate, opened: object, seed: int) -> float:
    """Random windows per second of the core, so that other jobs on the machine matter little."""
    sampler = candidate.sampler(opened, np.random.default_rng(seed))
    next(sampler)
    count, start = 0, time.process_time()
    while time.process_time() - start < SECONDS:
        next(sampler)
        count += BATCH
    return count / (time.process_time() - start)


def main() -> None:
    """Measure every store that is installed, print a table, and write `RESULT` if all are."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=120, help="episodes of 500 steps; 120 are 0.74 GB")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions of the random reads")
    parser.add_argument("--folder", default=None, help="where to put the stores; by default where the system puts such")
    options = parser.parse_args()
    import torch

    from worldmodel.provenance import result_json, write_json

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    seeds = list(range(1, options.seeds + 1))
    for number in range(KINDS):
        episode(number)  # making them is not part of writing them
    stores, missing = candidates()
    figures, opened = {}, {}
    root = Path(tempfile.mkdtemp(prefix="stores-", dir=options.folder))
    try:
        for number, store in enumerate(stores):
            figures[store.name], opened[store.name] = prepare(store, root / str(number), options.episodes)
        for seed in seeds:  # in turn, so that whatever else the machine does meets all of them
            for store in stores:
                rate = windows_per_second(store, opened[store.name], seed)
                figures[store.name]["windows_per_second"].append(round(rate))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{'store':<14}{'write s':>9}{'MB':>9}{'open ms':>9}{'first windows/s':>17}{'windows/s':>11}")
    for name, result in figures.items():
        print(
            f"{name:<14}{result['write_seconds']:>9.1f}{result['disk_mb']:>9.0f}{result['open_ms']:>9.1f}"
            f"{result['first_windows_per_second']:>17}{np.mean(result['windows_per_second']):>11.0f}"
        )
    if missing:
        print(f"not installed, so nothing is written to results/: pip install {' '.join(missing)}")
        return
    rates = {name: np.array(result["windows_per_second"]) for name, result in figures.items()}
    best = max((name for name in rates if not name.startswith("ours")), key=lambda name: rates[name].mean())
    ratios = rates["ours"] / rates[best]
    claim = (
        "our episode store is as fast (within a tenth) as the fastest of zarr, lance and tensordict's memory maps: ratio of "
        f"random windows of {WINDOW} frames of 64x64 per second of one core, warm cache"
    )
    values = [round(float(ratio), 3) for ratio in ratios]
    tested = {package: importlib.metadata.version(package) for package in PACKAGES.values()}
    more = {"fastest_other": best, "stores_versions": tested, "episodes": options.episodes, "stores": figures}
    write_json(RESULT, result_json(claim, COMMAND, seeds, values, AS_FAST, **more))
    print(f"ours / {best}: {ratios.mean():.2f}, written to results/{RESULT.name}")


if __name__ == "__main__":
    main()
