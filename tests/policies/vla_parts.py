"""Tiny policies and demonstrations for the tests of policies/vla."""

from __future__ import annotations

import numpy as np
import torch
from tiny_encoder import make_tiny_encoder

from policies.vla import VLAAgent
from policies.vla.chunks import Chunks
from policies.vla.statistics import Statistics
from worldmodel import Interface
from worldmodel.data import EpisodeStore

SIZE = 32
PUSH, HANG = "push the red cube to the green zone", "the pole hangs down"
INTERFACE = Interface(cameras={"image": (SIZE, SIZE, 3)}, state_dim=3, action_dim=2, fps=50.0)
SMALL = {"chunk": 4, "width": 48, "layers": 1, "heads": 2, "kv_heads": 2, "decoder_layers": 1, "channels": [8, 16, 32], "words": 10}  # fmt: skip


def config(encoder, head: str = "flow", **more) -> dict:
    """What `worldmodel imitate` composes, as small as it goes."""
    return {
        "vla": {**SMALL, "head": head, **more},
        "vision_language": {"name": str(encoder), "patch_tokens": 4, "batch_size": 64},
        "optimizer": {"learning_rate": 3e-3, "warmup": 5, "final_rate": 0.1, "weight_decay": 0.0, "clip": 1.0},
        "logging": {"wandb": "disabled", "every": 5, "checkpoint_minutes": 60},
        "data": None, "instruction": None, "successful": True, "updates": 10, "batch_size": 8, "average_rate": 1.0,
        "validate_every": 1000, "captions_weight": 0.0, "captions_batch": 4, "captions_pictures": 8, "seed": 0,
    }  # fmt: skip


def make_store(folder, lengths=(5, 9, 3, 7), instructions=None, failed=()) -> EpisodeStore:
    """Episodes whose actions tell where they are: `[episode / 10, step / 100]`; so do the pictures' first two channels."""
    store = EpisodeStore.create(folder, INTERFACE, {})
    rng = np.random.default_rng(0)
    for episode, length in enumerate(lengths):
        steps = np.arange(length + 1)
        image = np.zeros((length + 1, SIZE, SIZE, 3), np.uint8)
        image[..., 0], image[..., 1] = episode, steps[:, None, None]
        action = np.stack([np.full(length, episode / 10), steps[:-1] / 100], 1).astype(np.float32)
        said = PUSH if instructions is None else instructions[episode]
        store.append(
            {
                "image": image,
                "state": rng.normal(size=(length + 1, 3)).astype(np.float32),
                "action": action,
                "reward": np.zeros(length, np.float32),
                "terminated": False,
                "truncated": True,
                "info": {"success": episode not in failed, **({} if said is None else {"instruction": said})},
            }
        )
    return store


def statistics() -> Statistics:
    """Of actions that fill [-1, 1] and states of unit variance."""
    flat = {"mean": [0.0], "std": [0.5], "q01": [-1.0], "q99": [1.0], "low": [-1.0], "high": [1.0]}
    actions = {key: value * INTERFACE.action_dim for key, value in flat.items()}
    states = {key: value * INTERFACE.state_dim for key, value in flat.items()}
    return Statistics.from_dict({"action": actions, "state": states}, INTERFACE)


def make_agent(folder, head: str = "flow", **more) -> VLAAgent:
    """An untrained policy."""
    torch.manual_seed(0)
    encoder = make_tiny_encoder(folder / "encoder", size=SIZE)
    return VLAAgent.new(INTERFACE, config(encoder, head, **more), statistics())


def make_chunks(rows: int = 8, sentences=None, same_picture: bool = False, chunk: int = 4) -> Chunks:
    """Chunks that have nothing to do with what is seen, but for being always the same."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (1 if same_picture else rows, SIZE, SIZE, 3), np.uint8)
    image = np.broadcast_to(image, (rows, SIZE, SIZE, 3)).copy()
    state = np.zeros((rows, 3)) if same_picture else rng.normal(size=(rows, 3))
    return Chunks(
        {"image": torch.from_numpy(image), "state": torch.from_numpy(state.astype(np.float32))},
        sentences or [PUSH] * rows,
        torch.from_numpy(rng.uniform(-0.9, 0.9, (rows, chunk, 2)).astype(np.float32)),
        torch.ones(rows, chunk),
        torch.zeros(rows, dtype=torch.int64),
        torch.arange(rows),
    )
