"""Writes what a run measures to metrics.jsonl, one JSON object per line, and mirrors it to Weights & Biases."""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from pathlib import Path
from typing import Any

from worldmodel.provenance import whole_file

logger = logging.getLogger(__name__)


class MetricsLogger:
    """The metrics of one run folder.

    Each line has `step` (updates), `env_steps`, `phase`, `seconds` (wall time of the run, breaks left out) and numbers.
    A line is out of the process when `log` returns; what a killed run leaves half written is dropped when the folder is
    opened again.

    Args:
        folder: the run folder; made if needed.
        wandb: `offline` (kept in `folder/wandb`, for `wandb sync`), `online` or `disabled`. A resumed run goes on
            under the same id. Without wandb, or when it fails, a warning is logged once and the run goes on.
        config: the resolved config, shown by wandb.
    """

    def __init__(self, folder: str | Path, wandb: str = "offline", config: dict[str, Any] | None = None):
        if wandb not in ("offline", "online", "disabled"):
            raise ValueError(f"logging.wandb={wandb} is not known; use offline, online or disabled")
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "metrics.jsonl"
        self._keep(lambda index, line: True)
        self._run = None if wandb == "disabled" else _start_wandb(self.folder, wandb, config or {})

    def log(self, step: int, env_steps: int, phase: str, **values: Any) -> dict[str, Any]:
        """Append one line and return it. `values` are numbers or one-element tensors, on any device (fetched together);
        what is NaN or infinite is written as null.

        Raises:
            TypeError: a value is no number; the message names it.
        """
        line = {
            "step": int(step),
            "env_steps": int(env_steps),
            "phase": phase,
            "seconds": round(self.seconds, 3),
            **{key: value if math.isfinite(value) else None for key, value in _numbers(values).items()},
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self.lines += 1
        self._mirror(line)
        return line

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, in seconds; goes on from the last line of a resumed run."""
        return self._before + time.perf_counter() - self._opened

    def truncate(self, step: int, lines: int | None = None) -> int:
        """Drop what a resumed run will measure again: every line after update `step` and, where the checkpoint
        remembers `lines` (this logger's attribute when it was written), every line after so many. Returns how many
        were dropped."""
        return self._keep(lambda index, line: line["step"] <= step and (lines is None or index < lines))

    def close(self) -> None:
        """Finish the file and wandb's run; logging afterwards is an error."""
        self._file.close()
        if self._run is not None:
            _guarded(self._run.finish, quiet=True)
            self._run = None

    def _keep(self, wanted) -> int:
        """Rewrite the file with the whole lines that are `wanted`, in one move, and open it for more."""
        if getattr(self, "_file", None) is not None:
            self._file.close()
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        found, torn = _parse(text)
        kept = [line for index, line in enumerate(found) if wanted(index, line)]
        if torn or len(kept) < len(found):
            with whole_file(self.path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        if torn:
            logger.warning("%s: dropped %d unfinished or damaged line(s)", self.path, torn)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close())
        self.lines = len(kept)
        self._before = kept[-1]["seconds"] if kept else 0.0
        self._opened = time.perf_counter()
        return len(found) - len(kept)

    def _mirror(self, line: dict[str, Any]) -> None:
        if self._run is None:
            return
        phase = line["phase"]
        numbers = {key: value for key, value in line.items() if key != "phase" and value is not None}
        if not _guarded(self._run.log, {**numbers, "phase": phase}):
            self._run = None


class Averages:
    """Means of what every update measures, between two lines of metrics. Tensors are summed where they are: nothing
    waits for the device until `pop`."""

    def __init__(self):
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Any) -> None:
        """Count one more value (a number or a one-element tensor) of each name."""
        for key, value in values.items():
            value = value.detach() if hasattr(value, "detach") else value
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + 1

    def pop(self) -> dict[str, float]:
        """The mean of each name since the last call, as floats; NaN where any value was NaN."""
        means = {key: value / self._counts[key] for key, value in _numbers(self._sums).items()}
        self._sums, self._counts = {}, {}
        return means


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, in order; a torn last line (the run may be writing it) is left out."""
    return _parse(Path(path).read_text(encoding="utf-8", errors="replace"))[0]


def _parse(text: str) -> tuple[list[dict[str, Any]], int]:
    """Whole lines, and how many were not."""
    found, torn = [], 0
    for line in text.splitlines(keepends=True):
        try:
            value = json.loads(line) if line.endswith("\n") else None
        except json.JSONDecodeError:
            value = None
        if isinstance(value, dict) and "step" in value and "seconds" in value:
            found.append(value)
        elif line.strip():
            torn += 1
    return found, torn


def _numbers(values: dict[str, Any]) -> dict[str, float | int]:
    """Plain numbers; all tensors of one device are fetched in one go."""
    tensors: dict[Any, list[str]] = {}
    plain: dict[str, float | int] = {}
    for key, value in values.items():
        if hasattr(value, "detach"):
            if value.numel() != 1:
                raise TypeError(f"metric {key!r} has shape {tuple(value.shape)}; log one number, such as its mean")
            tensors.setdefault(value.device, []).append(key)
        elif hasattr(value, "item"):
            plain[key] = value.item()
        elif isinstance(value, (bool, int, float)):
            plain[key] = value
        else:
            raise TypeError(f"metric {key!r} is a {type(value).__name__}, and only numbers can be logged")
    for keys in tensors.values():
        import torch

        fetched = torch.stack([values[key].detach().reshape(()).double() for key in keys]).tolist()
        plain.update(zip(keys, fetched, strict=True))
    return {key: plain[key] for key in values}


def _start_wandb(folder: Path, mode: str, config: dict[str, Any]):
    """wandb's run of this folder, under the id that the folder remembers; None when wandb cannot be had."""
    remembered = folder / "wandb" / "run_id"

    def start():
        import wandb

        remembered.parent.mkdir(parents=True, exist_ok=True)
        if not remembered.exists():
            remembered.write_text(uuid.uuid4().hex[:8])
        settings = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True)
        run = wandb.init(
            project="worldmodel",
            name=folder.name,
            id=remembered.read_text().strip(),
            resume="allow" if mode == "online" else None,
            dir=str(folder),
            mode=mode,
            config=config,
            settings=settings,
        )
        # A resumed run repeats steps; wandb's own counter would refuse them.
        run.define_metric("*", step_metric="step")
        return run

    return _guarded(start)


def _guarded(call, *arguments, quiet: bool = False):
    """The result of a call into wandb (True for None), or None with a warning: a run never ends for its mirror."""
    try:
        result = call(*arguments)
        return True if result is None else result
    except Exception as error:  # noqa: BLE001 (wandb raises many kinds, and none is worth a training run)
        if not quiet:
            logger.warning(
                "wandb stopped (%s: %s); metrics.jsonl goes on without it. Mend wandb, or silence this with "
                "logging.wandb=disabled",
                type(error).__name__,
                error,
            )
        return None
