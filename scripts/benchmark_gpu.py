"""Every kernel on a GPU: right first, then how fast, beside plain torch, `torch.compile`, scaled_dot_product_attention and
FlexAttention. `scripts.benchmark_kernels` runs it where there is a GPU."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scripts.contests import CONTESTS, Contest
from worldmodel.kernels import chosen
from worldmodel.kernels.cases import compulsory_bytes
from worldmodel.provenance import result_json, write_json

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}  # relative, against float64
REPEATS, WARM = 30, 5
MOST_COPIES = 64  # of the inputs, by which they don't stay in the cache from one call to the next


def measure_gpu(
    only: Sequence[str] | None,
    out: Path,
    command: str,
    device: str = "cuda",
    backend: str = "triton",
    contests: Sequence[Contest] = CONTESTS,
) -> int:
    """Measure, print, save `kernels_gpu.json` and `kernels_gpu.png` in `out`.

    Returns:
        the exit code: 1 where a kernel is wrong.
    """
    device = torch.device(device)
    limits = peaks(device)
    rows = []
    for contest in contests:
        if only and not any(contest.name.startswith(name) for name in only):
            continue
        for dtype in (torch.bfloat16, torch.float32):
            row = measure(contest, device, dtype, backend, limits)
            rows.append(row)
            times = "  ".join(f"{name} {ms:.3f} ms" for name, ms in row["milliseconds"].items())
            print(f"{row['name']} {row['dtype']}: error {row['error']:.1e}  {times}", flush=True)
    speedups = [row["times_as_fast_as_eager"] for row in rows if row["right"]]
    claim = "kernels on this GPU: times as fast as plain torch, forward and backward, each at the presets' shapes"
    result = result_json(
        claim, command, list(range(len(speedups))), speedups, None, rows=rows, gpu=describe(device), **limits
    )
    write_json(out / "kernels_gpu.json", result)
    plot(rows, out / "kernels_gpu.png")
    return 0 if all(row["right"] for row in rows) else 1


def measure(contest: Contest, device: torch.device, dtype: torch.dtype, backend: str, limits: dict) -> dict:
    """One contest in one format: the error against float64, milliseconds by contestant, and of ours the memory and the
    share of what the device could do."""
    torch.manual_seed(0)
    inputs = contest.inputs(device, dtype, contest.rows)
    error = relative_error(contest, inputs, backend)
    row = {
        "name": contest.name,
        "dtype": str(dtype).removeprefix("torch."),
        "error": error,
        "right": error <= TOLERANCE[dtype] and rows_are_alike(contest, device, dtype, backend),
        "milliseconds": {},
        "failed": {},
    }
    if not row["right"]:
        return row | {"times_as_fast_as_eager": 0.0}
    size = sum(x.numel() * x.element_size() for x in inputs if isinstance(x, Tensor))
    copies = [inputs] + [contest.inputs(device, dtype, contest.rows) for _ in range(copies_needed(device, size) - 1)]
    contestants = {"kernel": (contest.operation, backend), "eager": (contest.operation, "torch")}
    contestants["compiled"] = (torch.compile(contest.operation, dynamic=False), "torch")
    contestants |= {name: (function, "torch") for name, function in contest.others.items()}
    for name, (function, how) in contestants.items():
        with chosen(how):
            try:
                row["milliseconds"][name] = milliseconds(lambda x, f=function: step(contest, f, x), copies, device)
            except Exception as error:  # another's code on this device: out of memory, or no backward
                if name in ("kernel", "eager"):
                    raise
                row["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
            if name == "kernel":
                row["peak_bytes"] = peak_memory(lambda x, f=function: step(contest, f, x), inputs, device)
                if not contest.backward and device.type == "cuda":
                    row["milliseconds"]["kernel in a graph"] = graph_milliseconds(function, inputs)
    floor = floor_seconds(contest, inputs, backend, limits)
    row["of_roofline"] = 1e3 * floor / row["milliseconds"]["kernel"]
    row["times_as_fast_as_eager"] = row["milliseconds"]["eager"] / row["milliseconds"]["kernel"]
    return row


def step(contest: Contest, function: Callable, inputs: tuple) -> list[Tensor]:
    """Outputs, and the inputs' gradients where there is a backward."""
    if not contest.backward:
        with torch.no_grad():
            return _tensors(function(*inputs))
    varied = [_real(x) and place not in contest.fixed for place, x in enumerate(inputs)]
    leaves = [x.detach().requires_grad_() if needs else x for x, needs in zip(inputs, varied, strict=True)]
    outputs = _tensors(function(*leaves))
    outputs = [x for x in outputs if x.requires_grad]
    wanted = [x for x, needs in zip(leaves, varied, strict=True) if needs]
    gradients = torch.autograd.grad(outputs, wanted, [torch.ones_like(x) for x in outputs], allow_unused=True)
    return [x.detach() for x in outputs] + [x for x in gradients if x is not None]


def relative_error(contest: Contest, inputs: tuple, backend: str) -> float:
    """The largest of outputs and gradients: Frobenius norm against plain torch in float64 on the same numbers."""
    exact = tuple(x.double() if _real(x) else x for x in inputs)
    own = tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)  # caches are written to
    with chosen(backend):
        got = step(contest, contest.operation, own)
    with chosen("torch"):
        expected = step(contest, contest.operation, exact)
    return max(
        float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
        for a, b in zip(got, expected, strict=True)
    )


def rows_are_alike(contest: Contest, device: torch.device, dtype: torch.dtype, backend: str) -> bool:
    """Whether the last rows come out the same bits however many stand before them: past 2^31 numbers, where the device
    has room for them, which 32-bit offsets would get wrong."""
    few = contest.inputs(device, dtype, 1)
    largest = max(x.numel() for x in few if isinstance(x, Tensor) and x.ndim)
    if device.type == "cuda":
        rows = 2**31 // largest + 2
        room = torch.cuda.mem_get_info(device)[0]
        if 6 * rows * sum(x.numel() * x.element_size() for x in few if isinstance(x, Tensor)) > room:
            rows = contest.rows
    else:
        rows = contest.rows
    many = contest.inputs(device, dtype, rows)
    with chosen(backend), torch.no_grad():
        whole = _tensors(contest.operation(*many))
        parts = contest.inputs(device, dtype, 1)
        for part, all_rows in zip(parts, many, strict=True):
            if isinstance(part, Tensor) and part.shape != all_rows.shape:
                part.copy_(all_rows[-len(part) :])
            elif isinstance(part, Tensor):
                part.copy_(all_rows)
        alone = _tensors(contest.operation(*parts))
    return all(torch.equal(a[-len(b) :], b) for a, b in zip(whole, alone, strict=True))


def milliseconds(call: Callable, copies: list[tuple], device: torch.device) -> float:
    """The median of calls that each get other inputs than the last."""
    times = []
    for repeat in range(WARM + REPEATS):
        inputs = copies[repeat % len(copies)]
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call(inputs)
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            call(inputs)
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[WARM:])


def graph_milliseconds(function: Callable, inputs: tuple) -> float:
    """Of a replay from a CUDA graph, without the cost of launching; inputs stay in the cache."""
    with torch.no_grad():
        for _ in range(WARM):
            function(*inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function(*inputs)
    return milliseconds(lambda _: graph.replay(), [inputs], torch.device("cuda"))


def copies_needed(device: torch.device, size: int) -> int:
    """Copies of inputs of `size` bytes that together are twice the device's cache."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    return min(MOST_COPIES, max(1, -(-2 * cache // max(1, size))))


def peak_memory(call: Callable, inputs: tuple, device: torch.device) -> int | None:
    """Bytes that a call needs beyond its inputs; None on CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call(inputs)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def floor_seconds(contest: Contest, inputs: tuple, backend: str, limits: dict) -> float:
    """What the device needs at least: for every byte once, or for the products of matrices. A backward reads and writes
    what the forward did twice over, and multiplies two and a half times as much."""
    with chosen(backend), torch.no_grad():
        outputs = _tensors(contest.operation(*inputs))
    moved = compulsory_bytes([*inputs, *outputs]) * (3 if contest.backward else 1)
    flop = contest.flop * contest.rows * (3.5 if contest.backward else 1)
    return max(moved / limits["bytes_per_second"], flop / limits["flop_per_second"])


def peaks(device: torch.device) -> dict[str, float]:
    """What this device reaches in a plain copy, and in a product of large bfloat16 matrices."""
    elements, side = (2**28, 8192) if device.type == "cuda" else (2**22, 512)
    source = torch.ones(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copying = milliseconds(lambda x: target.copy_(source), [()], device)
    matrix = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    multiplying = milliseconds(lambda x: matrix @ matrix, [()], device)
    return {
        "bytes_per_second": 4e3 * elements / copying,
        "flop_per_second": 2e3 * side**3 / multiplying,
    }


def describe(device: torch.device) -> dict | None:
    """Name, driver and clocks, as nvidia-smi gives them."""
    if device.type != "cuda":
        return None
    fields = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--id={device.index or 0}", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        values = (
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip().split(", ")
        )
    except (OSError, subprocess.SubprocessError):
        return {"name": torch.cuda.get_device_name(device)}
    return dict(zip(fields.split(","), values, strict=False))


def plot(rows: list[dict], path: Path) -> None:
    """Milliseconds of every contestant, a group of bars for each operation and format."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for row in rows for name in row["milliseconds"]))
    figure, axes = pyplot.subplots(figsize=(11, 1 + 0.5 * len(rows)), layout="constrained")
    height = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        have = [(index, row["milliseconds"][name]) for index, row in enumerate(rows) if name in row["milliseconds"]]
        axes.barh([index + place * height for index, _ in have], [ms for _, ms in have], height, label=name)
    axes.set_yticks([index + 0.4 for index in range(len(rows))], [f"{row['name']} {row['dtype']}" for row in rows])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, forward and backward where there is one")
    axes.invert_yaxis()
    if names:
        axes.legend()
    figure.savefig(path)
    pyplot.close(figure)


def _tensors(outputs) -> list[Tensor]:
    return [x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if isinstance(x, Tensor)]


def _real(x) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
