"""Checkpoints: safetensors and JSON, written in one move; never pickle."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another shape; the message says which file and what to do."""


def save_checkpoint(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    meta: dict,
    keep: int = 2,
) -> Path:
    """Write `folder` (`<run>/checkpoints/<step>`) whole or not at all, and point `last` at it.

    Args:
        modules: weights and buffers, one safetensors file each, with the module's `metadata` (of strings) if it has any.
        optimizers: their state, one safetensors file each.
        meta: JSON: config, interface, counters, versions.
        keep: older checkpoints beyond so many are removed, unless `best` points at one.

    Raises:
        OSError: the disk is full; earlier checkpoints are as they were.
    """
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, module in modules.items():
            tensors = {k: v.detach().contiguous() for k, v in module.state_dict().items()}
            save_file(tensors, temporary / f"{name}.safetensors", metadata=getattr(module, "metadata", None))
        groups = {}
        for name, optimizer in optimizers.items():
            state = optimizer.state_dict()
            tensors = {
                f"{index}.{key}": torch.as_tensor(value).detach().contiguous()
                for index, entry in state["state"].items()
                for key, value in entry.items()
            }
            save_file(tensors, temporary / f"{name}.optimizer.safetensors")
            groups[name] = state["param_groups"]
        meta = {"format": FORMAT, **meta, "optimizers": groups}
        (temporary / "checkpoint.json").write_text(json.dumps(meta, indent=1))
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    point(parent / "last", folder)
    _prune(parent, keep)
    return folder


def point(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to its neighbour `target`, in one move; a text file with the name where the
    system has no links."""
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target.name)
    except OSError:
        temporary.write_text(target.name)
    os.replace(temporary, link)


def follow(path: Path) -> Path | None:
    """The folder that `last` or `best` points at, or None."""
    if path.is_file():
        path = path.parent / path.read_text().strip()
    return path.resolve() if path.is_dir() else None


def _prune(parent: Path, keep: int) -> None:
    protected = {follow(parent / name) for name in ("last", "best")}
    steps = sorted((p for p in parent.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))
    for old in steps[:-keep]:
        if old.resolve() not in protected:
            shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder meant by a checkpoint, a run folder (its best, else its last) or a link.

    Raises:
        CheckpointError: there is none; the message lists those nearby.
    """
    path = Path(path)
    for candidate in (path, path / "checkpoints" / "best", path / "checkpoints" / "last"):
        found = follow(candidate)
        if found and (found / "checkpoint.json").exists():
            return found
    near = path if path.is_dir() else path.parent
    known = sorted(str(p.parent) for p in near.glob("**/checkpoint.json"))[:8] if near.is_dir() else []
    hint = f"; checkpoints nearby: {', '.join(known)}" if known else "; `worldmodel train` makes one"
    raise CheckpointError(f"no checkpoint at {path}{hint}")


def read_meta(folder: Path) -> dict:
    """The JSON part of a checkpoint.

    Raises:
        CheckpointError: it is damaged or from a newer version.
    """
    try:
        meta = json.loads((folder / "checkpoint.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{folder}/checkpoint.json cannot be read ({error}): use an earlier checkpoint"
        ) from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {meta.get('format')}, this version reads {FORMAT}: "
            f"install the version that wrote it ({meta.get('versions', {}).get('worldmodel', 'unknown')})"
        )
    return meta


def load_module(folder: Path, name: str, module: nn.Module) -> None:
    """Read one module's weights in place.

    Raises:
        CheckpointError: the file is damaged, or a tensor is missing, unknown or of another shape; the message names it.
    """
    stored = _load(folder / f"{name}.safetensors")
    wanted = module.state_dict()
    wrong = [f"{k} is missing" for k in wanted if k not in stored] + [
        f"{k} is unknown" for k in stored if k not in wanted
    ]
    wrong += [
        f"{k} is {tuple(stored[k].shape)} and should be {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in stored and stored[k].shape != v.shape
    ]
    if wrong:
        raise CheckpointError(f"{folder}/{name}.safetensors does not fit this model: {'; '.join(wrong[:5])}")
    module.load_state_dict(stored)


def load_optimizer(folder: Path, name: str, optimizer: torch.optim.Optimizer) -> None:
    """Read one optimizer's state in place."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _load(folder / f"{name}.optimizer.safetensors").items():
        index, entry = key.split(".", 1)
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": read_meta(folder)["optimizers"][name]})
    for parameter, entries in optimizer.state.items():
        for entry, value in entries.items():
            if (
                value.shape == parameter.shape
            ):  # in the parameter's own memory format, which fused kernels take for granted
                entries[entry] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own errors for damage, OSError for absence
        raise CheckpointError(f"{path} cannot be read ({error}): use an earlier checkpoint") from error
