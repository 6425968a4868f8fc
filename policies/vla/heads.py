"""Two ways from tokens to a chunk of actions, behind one interface: flow matching, and discrete action tokens."""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.vla.config import VLAConfig
from policies.vla.statistics import KeyStatistics
from policies.vla.transformer import ActionDecoder, Cache, time_features

NOISY, LATEST = 1.5, 0.999  # of the Beta distribution that flow times are drawn from (pi0, appendix B)


class ActionHead(nn.Module, abc.ABC):
    """From the trunk's tokens to chunks of H actions.

    Args:
        action_dim: A.
        config: of the policy.
        statistics: of the actions of the demonstrations.
    """

    def __init__(self, action_dim: int, config: VLAConfig, statistics: KeyStatistics):
        super().__init__()
        self.action_dim, self.chunk = action_dim, config.chunk
        self.decoder = ActionDecoder(config.width, config.decoder_layers, config.heads, config.kv_heads)

    @abc.abstractmethod
    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """How badly chunks are explained, a scalar.

        Args:
            tokens: of the trunk, `[B, N, W]`.
            actions: of the demonstrations, `[B, H, A]` in [-1, 1].
            mask: `[B, H]`, how much each step counts; 0 on what is padding.
            generator: of what is drawn.
        """

    @abc.abstractmethod
    def propose(
        self, tokens: Tensor, count: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """`count` different chunks `[B, K, H, A]` for the trunk's `tokens [B, N, W]`, in the actions' own units; may
        leave [-1, 1].

        Args:
            temperature: how far they differ: 0 gives the same chunk K times, 1 what was learned.
        """

    def sample(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One chunk `[B, H, A]` each: the first of `propose`."""
        return self.propose(tokens, 1, generator)[:, 0]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values [B, H, ...]` over what `mask [B, H]` lets count."""
    per_step = values.flatten(2).mean(-1) if values.ndim > 2 else values
    return (per_step * mask).sum() / mask.sum().clamp_min(1.0)


class FlowHead(ActionHead):
    """Flow matching (Lipman et al. 2023) over whole chunks, as in pi0 (Black et al. 2024) and SmolVLA (Shukor et al. 2025):
    x_t = t a + (1 - t) noise, and the decoder learns the velocity a - noise. Actions have zero mean and unit variance."""

    def __init__(self, action_dim: int, config: VLAConfig, statistics: KeyStatistics):
        super().__init__(action_dim, config, statistics)
        self.flow_steps = config.flow_steps
        self.inward = nn.Linear(action_dim, config.width)
        self.time = nn.Sequential(
            nn.Linear(config.width, config.width), nn.SiLU(), nn.Linear(config.width, config.width)
        )
        self.outward = nn.Linear(config.width, action_dim)
        mean, std = statistics.moments()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def velocity(self, noisy: Tensor, time: Tensor, cache: Cache) -> Tensor:
        """The velocity `[B, H, A]` at `noisy [B, H, A]` and `time [B]`."""
        width = self.outward.in_features
        queries = self.inward(noisy) + self.time(time_features(time, width))[:, None]
        steps = torch.arange(self.chunk, device=noisy.device)
        return self.outward(self.decoder(queries, steps, cache))

    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        target = (actions - self.mean) / self.std
        drawn = {"generator": generator, "device": target.device}
        noise = torch.randn(target.shape, **drawn)
        # Beta(1.5, 1) by the inverse of its distribution function, t ** 1.5: most times are near noise.
        time = LATEST * (1 - torch.rand(len(target), **drawn) ** (1 / NOISY))
        share = time[:, None, None]
        predicted = self.velocity(share * target + (1 - share) * noise, time, self.decoder.remember(tokens))
        return masked_mean((predicted - (target - noise)).square(), mask)

    @torch.no_grad()
    def propose(
        self, tokens: Tensor, count: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """By `flow_steps` Euler steps from noise, whose standard deviation is the temperature."""
        shape, device = (len(tokens), count, self.chunk, self.action_dim), tokens.device
        x = temperature * torch.randn(shape, generator=generator, device=device).flatten(0, 1)
        cache = [tuple(part.repeat_interleave(count, 0) for part in layer) for layer in self.decoder.remember(tokens)]
        for step in range(self.flow_steps):
            time = torch.full((len(x),), step / self.flow_steps, device=device)
            x = x + self.velocity(x, time, cache) / self.flow_steps
        return (x * self.std + self.mean).unflatten(0, (len(tokens), count))


class DiscreteHead(ActionHead):
    """Action tokens: each dimension's range between the 1st and the 99th percentile in equal bins (RT-2, Brohan et al.
    2023; OpenVLA, Kim et al. 2024), decoded in parallel by one query for every step and dimension, which all see each
    other (OpenVLA-OFT, Kim et al. 2025): one pass where autoregression takes H x A.

    `sample` takes each token's likeliest bin, and so draws nothing: see `propose`.
    """

    def __init__(self, action_dim: int, config: VLAConfig, statistics: KeyStatistics):
        super().__init__(action_dim, config, statistics)
        self.bins = config.bins
        self.dimension = nn.Parameter(0.02 * torch.randn(action_dim, config.width))
        self.step = nn.Parameter(0.02 * torch.randn(config.chunk, config.width))
        self.outward = nn.Linear(config.width, config.bins)
        low, high = statistics.range()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def encode(self, actions: Tensor) -> Tensor:
        """Actions `[..., A]` to the numbers of their bins, int64 `[..., A]`; what is out of range is in the outermost."""
        share = (actions - self.low) / (self.high - self.low)
        return (share * self.bins).floor().clamp(0, self.bins - 1).long()

    def decode(self, bins: Tensor) -> Tensor:
        """The middles of bins, `[..., A]`."""
        return self.low + (bins + 0.5) / self.bins * (self.high - self.low)

    def logits(self, tokens: Tensor) -> Tensor:
        """Of every bin: `[B, H, A, bins]`."""
        queries = (self.step[:, None] + self.dimension).flatten(0, 1).expand(len(tokens), -1, -1)
        steps = torch.arange(self.chunk, device=tokens.device).repeat_interleave(self.action_dim)
        decoded = self.decoder(queries, steps, self.decoder.remember(tokens))
        return self.outward(decoded).unflatten(1, (self.chunk, self.action_dim))

    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of the demonstrated bins; `generator` is not used."""
        logits, target = self.logits(tokens), self.encode(actions)
        errors = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
        return masked_mean(errors, mask)

    @torch.no_grad()
    def propose(
        self, tokens: Tensor, count: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """The first takes each token's likeliest bin. The others draw theirs by the inverse of the distribution
        function, each dimension at one quantile for the whole chunk: every token is distributed as it was learned, and
        a chunk stays one motion, where tokens that are drawn apart would tremble."""
        logits = self.logits(tokens)
        likeliest = logits.argmax(-1)[:, None]
        if count == 1 or temperature == 0:
            return self.decode(likeliest.expand(-1, count, -1, -1))
        reached = (logits / temperature).softmax(-1).cumsum(-1)[:, None, ..., :-1]  # [B, 1, H, A, bins - 1]
        shape = len(tokens), count - 1, 1, self.action_dim, 1
        quantile = torch.rand(shape, generator=generator, device=tokens.device)
        return self.decode(torch.cat([likeliest, (reached < quantile).sum(-1)], 1))


def make_head(action_dim: int, config: VLAConfig, statistics: KeyStatistics) -> ActionHead:
    """The head that `config.head` names."""
    return {"flow": FlowHead, "discrete": DiscreteHead}[config.head](action_dim, config, statistics)
