"""Adapting changes nothing before it is trained, trains what it says and nothing else, and computes the same once
merged; an adapter fits the model that it was trained on alone."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from worldmodel import Interface, ModelConfig, WorldModel
from worldmodel.adaptation import Belongs, Method, Trained, add_low_rank, apply_adapter, attach, identity, merged
from worldmodel.checkpoint import CheckpointError, save_checkpoint

SMALL = ModelConfig(
    latent_dim=8, width=32, layers=2, heads=2, kv_heads=1, window=4, ensemble=2, head_width=32, channels=(8, 8, 8),
    feature_width=32, open_loop=2, decoder_frames=4,
)  # fmt: skip
INTERFACE = Interface(cameras={"image": (32, 32, 3)}, action_dim=2, privileged_dim=3, privileged_positions=2)
BELIEF = "belief.blocks."


def make_model(seed: int = 0, **sizes) -> WorldModel:
    torch.manual_seed(seed)
    model = WorldModel(INTERFACE, ModelConfig(**{**SMALL.to_dict(), **sizes}))
    model.transition.heads.last.data.normal_(std=0.1)
    return model.eval()


def make_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    action = torch.rand(4, 6, 2, generator=generator) * 2 - 1
    return {
        "image": torch.randint(0, 256, (4, 7, 32, 32, 3), generator=generator, dtype=torch.uint8),
        "privileged": torch.randn(4, 7, 3, generator=generator),
        "action": action,
        "previous_action": torch.cat([torch.zeros(4, 1, 2), action], 1),
        "reward": torch.randn(4, 6, generator=generator),
        "terminated": torch.zeros(4, 6),
        "valid": torch.ones(4, 6),
    }


def losses(model: WorldModel, batch: dict) -> dict[str, torch.Tensor]:
    """In open loop, through the cache, and one step ahead."""
    return model(batch, torch.Generator().manual_seed(0))


def fit(model: WorldModel, batch: dict, updates: int = 3) -> list[float]:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    values = []
    for _ in range(updates):
        loss = losses(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def same(one: dict, two: dict, atol: float = 1e-6) -> bool:
    return all(torch.allclose(one[name], two[name], atol=atol) for name in one)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("method", ["lora", "prefix", "frozen", "full"])
def test_a_model_is_the_same_before_and_trains_what_is_said_and_nothing_else(method, tokens):
    model, batch = make_model(latent_tokens=tokens), make_batch()
    before, first = copy.deepcopy(model.state_dict()), losses(model, batch)
    names = attach(model, Method(method, rank=4, prefix_tokens=3))
    assert same(first, losses(model, batch))
    assert names == [name for name, p in model.named_parameters() if p.requires_grad]

    values = fit(model, batch)
    assert values[-1] < values[0]
    after = merged(model)
    changed = {name for name, value in before.items() if not torch.equal(value, after.state_dict()[name])}
    heads = {"transition.heads.last", "transition.heads.last_bias"}
    low_rank = {f"{BELIEF}{layer}.{way}.weight" for layer in (0, 1) for way in ("inward", "outward")} | {
        "inward.weight"
    }
    low_rank |= {f"transition.heads.{part}.weight" for part in ("first", "modulation", "second")}
    expected = {"lora": heads | low_rank, "prefix": heads, "frozen": heads}
    if method in expected:
        assert changed == expected[method]
        for name in ("last", "last_bias"):  # of the heads' last layer, what gives the next latent stays
            stayed = after.state_dict()[f"transition.heads.{name}"], before[f"transition.heads.{name}"]
            assert all(torch.equal(*(x[part] for x in stayed)) for part in ((slice(0, -1),), (..., slice(2, None))))
    else:
        assert changed > heads | low_rank and any(name.startswith("encoder") for name in changed)
    added = set(after.state_dict()) - set(before)
    assert all(".prefix." in name for name in added) and bool(added) == (method == "prefix")
    assert same(losses(model, batch), losses(after, batch), 1e-5)


def test_low_rank_corrections_are_of_that_rank_and_no_larger_than_the_layer():
    model = make_model()
    names = attach(model, Method("lora", rank=4, alpha=8.0))
    sizes = {
        name.removesuffix(".lora_A.default.weight"): p.shape for name, p in model.named_parameters() if "lora_A" in name
    }
    assert sizes[f"{BELIEF}0.inward"] == (4, 32) and sizes["transition.heads.modulation"] == (2, 2)
    assert all(model.get_submodule(name).scaling["default"] == 2.0 for name in sizes)
    assert sum(dict(model.named_parameters())[name].numel() for name in names) < 0.2 * sum(
        p.numel() for p in make_model().parameters()
    )
    with pytest.raises(ValueError, match="no linear layers"):
        add_low_rank(torch.nn.ReLU(), [], 4, 4.0)


@pytest.mark.parametrize("method", ["lora", "prefix", "frozen"])
def test_an_adapter_in_a_file_fits_its_own_model_alone(tmp_path, method):
    model, batch, chosen = make_model(), make_batch(), Method(method, rank=4, prefix_tokens=3)
    base = copy.deepcopy(model)
    names = attach(model, chosen)
    belongs = Belongs.of(model, chosen, tmp_path / "base", identity(base))
    fit(model, batch)
    metadata = {"adapter": json.dumps(belongs.to_dict())}
    folder = save_checkpoint(tmp_path / "1", {"adapter": Trained(model, names, metadata)}, {}, {})
    loaded = apply_adapter(folder, copy.deepcopy(base))
    assert same(losses(model, batch), losses(loaded, batch), 1e-5)
    assert not any("lora" in name or "parametrizations" in name for name in loaded.state_dict())
    with pytest.raises(CheckpointError, match="these are others"):
        apply_adapter(folder, make_model(seed=1))
    (folder / "adapter.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no adapter of worldmodel adapt"):
        apply_adapter(folder, base)


def test_what_cannot_be_adapted_is_named():
    with pytest.raises(ValueError, match="method=lore is not one of full, lora, prefix, frozen"):
        Method("lore")
    with pytest.raises(ValueError, match="rank=0 must be at least 1"):
        Method(rank=0)
    with pytest.raises(ValueError, match="set encoder_rank=0"):
        attach(make_model(), Method(encoder_rank=2))
    model = make_model()
    attach(model, Method("prefix", prefix_tokens=3))
    with pytest.raises(ValueError, match="set prefix_tokens=3"):
        attach(merged(model), Method("prefix", prefix_tokens=5))
