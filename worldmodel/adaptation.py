"""Going on training with few weights: low-rank adapters through `peft`, a learned prefix, or the heads alone.

A model that can be adapted says which of its linear layers get low-rank adapters (`LOW_RANK`, a regular expression of
their names) and which of its parameters are the heads' (`HEADS`: by name, the part of the tensor, `()` for all of it)."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from worldmodel.checkpoint import CheckpointError, find_checkpoint, load_module, read_meta
from worldmodel.prefix import Prefix
from worldmodel.transformer import Block

METHODS = ("full", "lora", "prefix", "frozen")
ADAPTER = "adapter"  # the file's name in a checkpoint, and the entry in its meta


@dataclass(frozen=True)
class Method:
    """What of a model is trained.

    Attributes:
        name: `full` (every weight), `lora` (low-rank adapters in the transformer's linear layers, Hu et al. 2022, and
            the heads), `prefix` (tokens that the transformer's blocks see, `worldmodel.prefix`, and the heads),
            `frozen` (the heads alone).
        rank, alpha: of the adapters, which add `alpha / rank * B A x` to a layer's result; a layer with fewer inputs or
            outputs has so many ranks less.
        prefix_tokens: P, of each block.
        encoder_rank: of adapters in a policy's pretrained vision-language encoder, whatever the method; 0 leaves it
            frozen.
    """

    name: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    prefix_tokens: int = 16
    encoder_rank: int = 0

    def __post_init__(self):
        if self.name not in METHODS:
            raise ValueError(f"method={self.name} is not one of {', '.join(METHODS)}")
        for key, least in (("rank", 1), ("prefix_tokens", 1), ("encoder_rank", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key}={getattr(self, key)} must be at least {least}")


def attach(model: nn.Module, method: Method) -> list[str]:
    """Prepare a model for a method, in place; before training it computes what it did.

    Returns:
        the names of the parameters that are trained; only these require a gradient.

    Raises:
        ValueError: the model is of another kind than the method, or has a prefix of another length.
    """
    model.requires_grad_(False)
    if method.name == "full":
        model.requires_grad_(True)
    else:
        if method.name == "lora":
            linear = (name for name, module in model.named_modules() if type(module) is nn.Linear)
            add_low_rank(
                model, [name for name in linear if re.fullmatch(model.LOW_RANK, name)], method.rank, method.alpha
            )
        if method.name == "prefix":
            for prefix in add_prefix(model, method.prefix_tokens):
                prefix.requires_grad_(True)
        for name, part in model.HEADS.items():
            _free_part(model, name, part)
    if method.encoder_rank:
        if not hasattr(model, "tune_encoder"):
            raise ValueError(
                "encoder_rank: a world model is trained to predict its encoder's features, which must not move; only a "
                "policy's encoder is adapted (worldmodel imitate): set encoder_rank=0"
            )
        model.tune_encoder(method.encoder_rank).requires_grad_(True)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def add_low_rank(module: nn.Module, names: Iterable[str], rank: int, alpha: float) -> dict[str, nn.Module]:
    """Put low-rank adapters (LoRA, Hu et al. 2022) around linear layers, in place, by `peft`; all else is frozen.

    Args:
        names: of the layers, nn.Linear, as in `module.named_modules()`.
        rank: of the adapters; no more than a layer has inputs or outputs.
        alpha: the adapters' results are multiplied by `alpha / rank`.

    Returns:
        peft's layers, by those names; they add nothing before they are trained.

    Raises:
        ValueError: there are no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = list(names)
    if not names:
        raise ValueError(f"{type(module).__name__} has no linear layers to adapt")
    most = {name: min(module.get_submodule(name).weight.shape) for name in names}
    small = {f"^{re.escape(name)}$": most[name] for name in names if most[name] < rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="|".join(f"({re.escape(name)})" for name in names),
        rank_pattern=small,
        alpha_pattern={name: alpha * size / rank for name, size in small.items()},
    )
    inject_adapter_in_model(config, module)
    return {name: module.get_submodule(name) for name in names}


def add_prefix(model: nn.Module, tokens: int) -> list[Prefix]:
    """The prefixes of `tokens` tokens in all blocks of a model, made where there are none yet.

    Raises:
        ValueError: there are, and they are of another length.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        if block.prefix is None:
            block.prefix = Prefix(block.heads, tokens, block.dim).to(block.qk_scale)
    if (length := _prefix_tokens(model)) != tokens:
        raise ValueError(f"the model has a prefix of {length} tokens already: set prefix_tokens={length}")
    return [block.prefix for block in blocks]


def _prefix_tokens(model: nn.Module) -> int:
    return next((module.keys.shape[1] for module in model.modules() if isinstance(module, Prefix)), 0)


class _Part(nn.Module):
    """A tensor of which a part is trained; the rest stays as it is."""

    def __init__(self, whole: Tensor, part: tuple):
        super().__init__()
        self.part = part
        self.register_buffer("whole", whole.detach().clone())

    def forward(self, trained: Tensor) -> Tensor:
        whole = self.whole.clone()
        whole[self.part] = trained
        return whole

    def right_inverse(self, whole: Tensor) -> Tensor:
        return whole[self.part].clone()


def _free_part(model: nn.Module, name: str, part: tuple) -> None:
    """Have a parameter trained, or that part of it."""
    owner, _, attribute = name.rpartition(".")
    owner = model.get_submodule(owner)
    parameter = getattr(owner, attribute)
    if part:
        parametrize.register_parametrization(owner, attribute, _Part(parameter, part), unsafe=True)  # a part is smaller
        owner.parametrizations[attribute].original.requires_grad_(True)
    else:
        parameter.requires_grad_(True)


def _put_parts_back(module: nn.Module) -> None:
    """Make tensors of which a part was trained plain parameters again. (torch's own remove_parametrizations changes the
    class that a copied module shares with its original.)"""
    whole = {name: nn.Parameter(getattr(module, name).detach().clone()) for name in module.parametrizations}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, parameter in whole.items():
        module.register_parameter(name, parameter)


def merged(model: nn.Module) -> nn.Module:
    """A copy in which low-rank adapters are added to the weights that they correct, and parts put back in their tensors;
    a prefix and a tuned encoder stay what they are. It computes the same."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = copy.deepcopy(model).requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, layer.get_base_layer())
        if parametrize.is_parametrized(layer):
            _put_parts_back(layer)
    model.__dict__.pop("peft_config", None)
    return model.requires_grad_(False)


def identity(model: nn.Module) -> str:
    """A SHA-256 of a model's weights and buffers: of what an adapter fits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Trained:
    """The parameters of a module that require a gradient, as `worldmodel.checkpoint` saves and loads a module.

    Args:
        names: of those parameters; all that require a gradient when None.
        metadata: kept in the file's header.
    """

    def __init__(self, module: nn.Module, names: Iterable[str] | None = None, metadata: dict[str, str] | None = None):
        parameters = dict(module.named_parameters())
        names = [name for name, value in parameters.items() if value.requires_grad] if names is None else names
        self._parameters, self.metadata = {name: parameters[name] for name in names}, metadata

    def state_dict(self) -> dict[str, Tensor]:
        """By name."""
        return dict(self._parameters)

    @torch.no_grad()
    def load_state_dict(self, stored: dict[str, Tensor]) -> None:
        """Copy in place."""
        for name, parameter in self._parameters.items():
            parameter.copy_(stored[name])


class Merged:
    """A model without its adapters' layers, as `worldmodel.checkpoint` saves a module; merged when it is asked for."""

    def __init__(self, model: nn.Module):
        self._model = model

    def state_dict(self) -> dict[str, Tensor]:
        """Of the merged copy."""
        return merged(self._model).state_dict()


@dataclass(frozen=True)
class Belongs:
    """What an adapter is and what it fits: an entry of a checkpoint's meta, and of an adapter file's header.

    Attributes:
        method: by which it was trained.
        base: the checkpoint that it was trained from.
        identity: of the base's weights, see `identity`.
        prefix_tokens, encoder_rank: what the adapted model has besides weights, its base's included.
    """

    method: Method
    base: str
    identity: str
    prefix_tokens: int = 0
    encoder_rank: int = 0

    @classmethod
    def of(cls, model: nn.Module, method: Method, base: Path, base_identity: str) -> Belongs:
        """Of a model after `attach`."""
        tuned = getattr(model, "adapters", None)
        rank = 0 if tuned is None else tuned.rank
        return cls(method, str(Path(base).resolve()), base_identity, _prefix_tokens(model), rank)

    def to_dict(self) -> dict:
        """Plain JSON types; `Belongs.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict) -> Belongs:
        """From a checkpoint's meta."""
        return cls(**{**value, "method": Method(**value["method"])})

    def require_base(self, model: nn.Module, where: Path) -> None:
        """Raise CheckpointError unless `model` has the weights that the adapter in `where` was trained on."""
        if identity(model) != self.identity:
            raise CheckpointError(
                f"the adapter in {where} was trained on the weights of {self.base}, and these are others: an adapter "
                "fits the model that it was trained on alone. Restore that checkpoint, or adapt this one: worldmodel adapt "
                "checkpoint=<it>"
            )


def read_adapter(path: Path) -> Belongs:
    """What an adapter file says of itself.

    Raises:
        CheckpointError: it is damaged, or no adapter.
    """
    try:
        with safe_open(path, "pt") as file:
            return Belongs.from_dict(json.loads((file.metadata() or {})[ADAPTER]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no adapter of worldmodel adapt ({error!r})") from error


def apply_adapter(path: Path, model: nn.Module) -> nn.Module:
    """A model with the adapter in the file `path` (or in a checkpoint folder) merged into it; `model` is used up.

    Raises:
        CheckpointError: the file is damaged, or the adapter belongs to another model.
    """
    path = path / f"{ADAPTER}.safetensors" if path.is_dir() else path
    belongs = read_adapter(path)
    belongs.require_base(model, path)
    names = attach(model, belongs.method)
    load_module(path.parent, path.stem, Trained(model, names))
    return merged(model)


def load_model(folder: Path, meta: dict, model: nn.Module, load_base: Callable[[Path], nn.Module]) -> nn.Module:
    """The model of a checkpoint, adapted or not.

    Args:
        folder: the checkpoint.
        meta: its JSON.
        model: an untrained one of its sizes, which is filled.
        load_base: gives the model of another checkpoint; for an adapter that was saved apart.

    Raises:
        CheckpointError: a file is missing or damaged, or the adapter's base is gone or another than it was.
    """
    if ADAPTER not in meta:
        load_module(folder, "model", model)
        return model
    belongs = Belongs.from_dict(meta[ADAPTER])
    if (folder / "model.safetensors").exists():
        if belongs.prefix_tokens:
            add_prefix(model, belongs.prefix_tokens)
        if belongs.encoder_rank:
            model.tune_encoder(belongs.encoder_rank)
        load_module(folder, "model", model)
        return model
    try:
        base = find_checkpoint(belongs.base)
        read_meta(base)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} holds an adapter alone, of the checkpoint {belongs.base}, and that can't be read ({error}): "
            "put it back, or adapt with adapter=merged"
        ) from error
    return apply_adapter(folder, load_base(base))
