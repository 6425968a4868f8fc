"""Measure the kernels: `python -m scripts.benchmark_kernels [--only NAME ...] [--out FOLDER]`.

With a CUDA GPU, every operation at the shapes of the presets: first whether it is right, then its time, memory and
share of what the GPU can do, beside plain torch, `torch.compile`, scaled_dot_product_attention and FlexAttention.
Without one, it says so, and measures what runs on CPU: our torch paths beside what most would write. Ratios are of
pairs timed in turn, so that another process on the machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from scripts.benchmark import training_step, untrained_agent

COMMAND = "python -m scripts.benchmark_kernels"
PAIRS = 9
CANDIDATES, HISTORY, HORIZON = 256, 16, 5


def main() -> None:
    """Measure, print a table, save."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="operations, or of: training, planning, prefix")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON files (results)")
    arguments = parser.parse_args()

    import torch

    from worldmodel.precision import configure

    configure()
    if torch.cuda.is_available():
        from scripts.benchmark_gpu import measure_gpu

        sys.exit(measure_gpu(arguments.only, arguments.out, COMMAND))
    print("no CUDA GPU here: nothing is said about the kernels' speed. What runs on this CPU instead:")
    unknown = sorted(set(arguments.only or ()) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"without a GPU there is no {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    for name in arguments.only or MEASUREMENTS:
        for result in measure_cpu(name, arguments.out):
            met = "" if result["bar"] is None else f", bar {result['bar']}: {'met' if result['met'] else 'missed'}"
            low, high = (result["interval"][end] for end in ("low", "high"))
            print(f"{result['claim']}: {result['mean']:.2f} ({low:.2f} to {high:.2f}){met}", flush=True)


def measure_cpu(name: str, out: Path) -> Iterator[dict]:
    """The results of one measurement, saved as `kernels_cpu_<key>.json`."""
    from worldmodel.provenance import result_json, write_json

    for key, claim, fast, slow, bar in MEASUREMENTS[name]():
        pairs = timed_in_turn(fast, slow)
        ratios = [second / first for first, second in pairs]
        seconds = {"ours": statistics.median(a for a, _ in pairs), "other": statistics.median(b for _, b in pairs)}
        command = f"{COMMAND} --only {name}"
        result = result_json(claim, command, list(range(len(ratios))), ratios, bar, seconds=seconds)
        write_json(out / f"kernels_cpu_{key}.json", result)
        yield result


def timed_in_turn(first: Callable, second: Callable, pairs: int = PAIRS) -> list[tuple[float, float]]:
    """Seconds of `pairs` calls of each, one after the other, after two that do not count."""
    times = []
    for _ in range(pairs + 2):
        pair = []
        for call in (first, second):
            start = time.perf_counter()
            call()
            pair.append(time.perf_counter() - start)
        times.append(tuple(pair))
    return times[2:]


@contextmanager
def plain_float32() -> Iterator[None]:
    """The same model in float32 throughout, on `torch.nn.functional.scaled_dot_product_attention`."""
    import torch
    import torch.nn.functional as F

    from worldmodel import precision
    from worldmodel.kernels import axial_attention, block_causal_attention

    def attention(query, key, value, mask=None):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0, enable_gqa=True)

    before = torch.get_float32_matmul_precision()
    with ExitStack() as stack:
        for module in (axial_attention, block_causal_attention):
            stack.enter_context(patch.object(module, "attention", attention))
        stack.enter_context(patch.object(precision, "native_bfloat16", lambda device: False))
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def training():
    step, frames = training_step(untrained_agent("model=small", "training.window=16"))

    def plain():
        with plain_float32():
            step()

    claim = f"a training step at small, {frames} frames: times as fast as in float32 with scaled_dot_product_attention"
    yield "training", claim, step, plain, 2.5


def planning():
    import torch

    from worldmodel import imagine
    from worldmodel.precision import reduced_copy

    for size in ("tiny", "small"):
        model = reduced_copy(untrained_agent(f"model={size}", f"model.window={HISTORY + 1}").model.eval())
        with torch.no_grad():
            latents = torch.randn(1, HISTORY, 1, model.config.latent_dim)
            beliefs, cache = model.observe_window(latents, torch.zeros(1, HISTORY, 1))
            memory = model.belief.remember(cache, latents, beliefs)
        actions = torch.rand(CANDIDATES, HORIZON, 1) * 2 - 1

        @torch.no_grad()
        def shared(model=model, memory=memory, actions=actions):
            return imagine(model, memory, actions, HORIZON, CANDIDATES)

        @torch.no_grad()
        def copied(model=model, memory=memory, actions=actions):
            return imagine(model, memory.select(torch.zeros(CANDIDATES, dtype=torch.long)), actions, HORIZON)

        claim = (
            f"imagining {CANDIDATES} candidates x {HORIZON} steps at {size} from {HISTORY} frames: times as fast with a shared "
            "prefix as with the cache repeated"
        )
        yield f"planning_{size}", claim, shared, copied, 2.0


MEASUREMENTS = {"training": training, "planning": planning}

if __name__ == "__main__":
    main()
