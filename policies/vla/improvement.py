"""Improvement in imagination: the policy's own chunks, imagined by a world model, are learned as far as they turned out
well, while it stays close to the demonstrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from policies.adaptation import Scratch
from policies.agent import Agent
from policies.judge import Judge
from policies.objectives import weights_of
from policies.planners.planner import one_hot
from policies.starts import memories_at
from policies.vla.agent import VLAAgent
from policies.vla.chunks import Chunks
from policies.vla.imitation import Imitation, ImitationRun
from policies.vla.model import VLA
from policies.vla.proposals import require_same_task
from worldmodel.adaptation import ADAPTER
from worldmodel.checkpoint import read_meta
from worldmodel.data import EpisodeStore
from worldmodel.progress import Progress
from worldmodel.vision_language.cache import FeatureCache

Score = Callable[[Chunks, Tensor], Tensor]
"""Scores `[B, K]` of chunks of actions `[B, K, H, A]` that begin where B steps of demonstrations are; higher is
better."""


class Imagination:
    """Scores chunks by imagining them from steps of recorded episodes, with the history that a policy would have there.

    Args:
        world: whose model imagines, and whose critic, where it has one and the objective is reward, stands for what
            follows.
        store: the episodes that the steps are of; a store of its own, for the world model's features lie there.
        objective: the config group `objective`. An instruction is what each episode was told.
        horizon: of a chunk's actions, how many are imagined.
        compile: compile imagined steps.

    Raises:
        ValueError: an objective that the world model cannot judge, or a goal image without a picture.
    """

    def __init__(self, world: Agent, store: EpisodeStore, objective: dict, horizon: int, compile: bool = False):
        if "goal_image" in weights_of(objective) and not objective.get("image"):
            raise ValueError("demonstrations keep no goal images: give objective.image=<file>, or another objective")
        self.world, self.store, self.horizon = world, store, horizon
        self.judge = Judge(world, objective, compile)

    @torch.no_grad()
    def __call__(self, chunks: Chunks, candidates: Tensor) -> Tensor:
        """See `Score`."""
        memory = memories_at(self.world.model, self.store, chunks.episode.numpy(), chunks.step.numpy())
        objective = self.judge.objective({"instruction": np.array(chunks.sentences, object)})
        return self.judge.score(memory, objective, candidates[:, :, : self.horizon])

    def cache_features(self, fabric, progress: Progress) -> None:
        """Encode the episodes with the world model's vision-language encoder, where it has one, once."""
        semantics = self.world.model.semantics
        if semantics is None:
            return
        self.store.features = FeatureCache(self.store, semantics.described)
        if fabric.is_global_zero:
            self.store.features.fill(semantics.encoder(fabric.device), progress)
        fabric.barrier()
        self.store.features.refresh()


def advantage_weights(scores: Tensor, beta: float, clip: float) -> Tensor:
    """How much each of K chunks from the same start counts, `[B, K]`: exp(A / beta), at most `clip` (AWR, Peng et al.
    2019, algorithm 1, whose weights are clipped too).

    The advantage A is the score less the mean over the group, the baseline of GRPO (Shao et al. 2024, section 4.1), in
    units of the standard deviation within groups, taken over the whole batch: a start from which all chunks do alike
    then weighs them alike, where GRPO's own unit, one for each group, would make much of nothing (Liu et al. 2025). NaN
    and infinite scores weigh 0.

    Args:
        scores: `[B, K]`.
        beta: the smaller, the more the best decide.
        clip: the largest weight.
    """
    usable = torch.isfinite(scores)
    mean = torch.where(usable, scores, 0.0).sum(1, keepdim=True) / usable.sum(1, keepdim=True).clamp_min(1)
    gaps = torch.where(usable, scores - mean, 0.0)
    unit = (gaps.square().sum() / usable.sum().clamp_min(1)).sqrt().clamp_min(1e-12)
    return (gaps / (beta * unit)).exp().clamp_max(clip) * usable


class Improvement(Imitation):
    """The loss of a policy's head on its own imagined chunks, and on demonstrations.

    From every start the head, as it is now, proposes K chunks; they are imagined and scored; the head's own loss on
    each (cross-entropy, or flow matching, which stands for the likelihood of a flow as in Zhang et al. 2025,
    energy-weighted flow matching) counts by `advantage_weights`:

        sum w loss(proposed) / sum w  +  stay_close x loss(demonstrated)

    Args:
        model: what is trained; only its head is.
        score: see `Score`.
        proposals, temperature: of the chunks, see `ActionHead.propose`.
        beta, clip: see `advantage_weights`.
        horizon: how many of a chunk's actions are imagined; only these are learned.
        stay_close: weight of the imitation of the demonstrations that the starts are of.
    """

    def __init__(
        self, model: VLA, score: Score, *, proposals: int, temperature: float, beta: float, clip: float, horizon: int,
        stay_close: float,
    ):  # fmt: skip
        super().__init__(model)
        if proposals < 2:
            raise ValueError(f"proposals={proposals}: one chunk is no better than the others; at least 2")
        if not beta > 0.0 or not clip >= 1.0 or not stay_close >= 0.0 or not temperature > 0.0:
            raise ValueError(
                f"beta={beta} and temperature={temperature} must be above 0, weight_clip={clip} at least 1, "
                f"stay_close={stay_close} at least 0"
            )
        if not 1 <= horizon <= model.config.chunk:
            raise ValueError(f"horizon={horizon}: this policy's chunks have {model.config.chunk} actions")
        self.score, self.proposals, self.temperature = score, proposals, temperature
        self.beta, self.clip, self.horizon, self.stay_close = beta, clip, horizon, stay_close

    def forward(
        self, chunks: Chunks, generator: torch.Generator | None = None, captions: None = None
    ) -> dict[str, Tensor]:
        """Scalars: `loss` and its parts `improve` and `action`; the mean score of the proposals (`imagined`), by how
        much the best of each group surpasses its mean (`best_gain`), and the largest weight."""
        head, device = self.model.head, self.model.device
        with torch.no_grad():
            observation = {key: value.to(device) for key, value in chunks.observation.items()}
            tokens = self.model.tokens(observation, self.model.instructions.read(chunks.sentences, device))
            proposed = head.propose(tokens, self.proposals, generator, self.temperature).clamp(-1.0, 1.0)
            if self.model.interface.discrete:
                proposed = one_hot(proposed)
            scores = self.score(chunks, proposed)
            weights = advantage_weights(scores, self.beta, self.clip)
            counted = weights.new_zeros(weights.numel(), proposed.shape[2])
            counted[:, : self.horizon] = weights.flatten()[:, None]
        improve = head.loss(tokens.repeat_interleave(self.proposals, 0), proposed.flatten(0, 1), counted, generator)
        action = head.loss(tokens, chunks.actions.to(device), chunks.mask.to(device), generator)
        known = scores.nan_to_num(0.0, 0.0, 0.0)
        return {
            "loss": improve + self.stay_close * action,
            "improve": improve,
            "action": action,
            "imagined": known.mean(),
            "best_gain": (known.amax(1) - known.mean(1)).mean(),
            "largest_weight": weights.max(),
        }


class HeadOnly(Scratch):
    """A policy whose head is trained, and nothing before it.

    Args:
        agent: the policy; it is changed.
    """

    moves_latents = False

    def __init__(self, agent: VLAAgent):
        self.agent = agent
        self.base = {} if agent.path is None else read_meta(agent.path)

    def free(self, learner: nn.Module) -> None:
        learner.requires_grad_(False)
        learner.head.requires_grad_(True)

    def meta(self) -> dict:
        """What was adapted before stays a part of the model: its prefix and its tuned encoder."""
        return {ADAPTER: self.base[ADAPTER]} if ADAPTER in self.base else {}


class ImprovementRun(ImitationRun):
    """One run of `worldmodel improve` and where it stands; what `ImitationRun` says of stopping and going on holds.

    Args:
        config: resolved, of configs/improve.yaml, with the groups `vla` and `vision_language` of the policy's run.
        folder: the run folder.
        store: the demonstrations, whose steps are the starts.
        progress: bars.
        fabric: a launched `lightning_fabric.Fabric`.
        agent: the policy; it is changed.
        score: see `Score`; an `Imagination`.

    Raises:
        ValueError: an option that makes no sense, or policy and world model are of different envs.
        StoreError: the demonstrations are of another env.
    """

    PHASE, NOTED = "improve", ("imagined", "improve", "action")

    def __init__(
        self, config: dict, folder: Path, store: EpisodeStore, progress: Progress, fabric, agent: VLAAgent, score: Score
    ):
        store.require_interface(agent.interface)
        if isinstance(score, Imagination):
            require_same_task(agent, score.world)
            score.cache_features(fabric, progress)
        self.score = score
        agent.config = config
        super().__init__(config, folder, store, progress, fabric, begin=HeadOnly(agent))

    def _losses(self, learner: VLA) -> Improvement:
        keys = ("proposals", "temperature", "beta", "stay_close")
        options = {key: self.config[key] for key in keys} | {"clip": self.config["weight_clip"]}
        return Improvement(learner, self.score, horizon=self.config["horizon"] or learner.config.chunk, **options)

    @torch.no_grad()
    def _measures(self, chunks: Chunks) -> dict[str, float]:
        """The error on held-out demonstrations, and what imagination says of one chunk from each of their steps."""
        generator = torch.Generator(self.model.device).manual_seed(self.config["seed"])
        observation = {key: value.to(self.model.device) for key, value in chunks.observation.items()}
        said = self.model.instructions.read(chunks.sentences, self.model.device)
        scores = self.score(chunks, self.model.propose(observation, said, 1, generator))
        return super()._measures(chunks) | {"held_out_imagined": scores.nanmean().item()}
