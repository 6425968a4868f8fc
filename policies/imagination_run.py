"""Trains an actor for a sentence in a trained model's imagination: no reward, no new rollouts."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from policies.actor_critic import ActorCritic, ActorCriticConfig
from policies.agent import Agent
from policies.planners.objective import sentence_fit
from policies.starts import start_memories
from worldmodel.checkpoint import save_checkpoint
from worldmodel.data import EpisodeStore
from worldmodel.imagination import Trajectory
from worldmodel.metrics import Averages, MetricsLogger
from worldmodel.precision import reduced_copy
from worldmodel.progress import Progress
from worldmodel.provenance import commit, versions
from worldmodel.trainer import Trainer
from worldmodel.vision_language.cache import FeatureCache

LOWEST, HIGHEST = 0.05, 0.995  # quantiles of the fit over the data that a reward of 0 and of 1 stands for
LEAST, MOST = (
    -0.2,
    1.2,
)  # reward of frames that fit worse or better than the data's: a model's mistakes go further still
POOL = 16  # batches of starting memories, drawn anew as often as they are used up


class SentenceReward:
    """How well each imagined frame fits a sentence, from `LEAST` to `MOST`.

    A cosine says little by itself: one encoder's lie between .1 and .3, another's between -.5 and .9. So the reward is 0
    where a frame fits as badly as the worst of twenty of the data's, and 1 where it fits as well as the best of two
    hundred. Between them, and a little beyond, it is linear: nearly every frame has a slope that an actor can follow.

    Attributes:
        std: standard deviation of the reward over `latents`.

    Args:
        agent: whose semantic tokens are read.
        sentence: what shall be true.
        latents: of the data, `[F, N, D]`.

    Raises:
        ValueError: the model has no semantic tokens, or no frame fits better than another.
    """

    def __init__(self, agent: Agent, sentence: str, latents: Tensor):
        semantics, self.read = agent.model.semantics, agent.model.read_semantic
        if semantics is None:
            raise ValueError("this world model has no semantic tokens: train it with vision_language=embedded")
        self.text = semantics.encoder(agent.model.device).encode_text([sentence])
        self.tokens = semantics.whole_pictures
        with torch.no_grad():
            fit = self.fit(latents[:, None])[:, 0]
        self.low, self.high = fit.quantile(LOWEST), fit.quantile(HIGHEST)
        if not self.high > self.low:
            raise ValueError(f"no frame of the data fits {sentence!r} better than another: it cannot be learned")
        self.std = float(self.scaled(fit).std())

    def fit(self, latents: Tensor) -> Tensor:
        """The cosine between the tokens of frames of latents `[R, S, N, D]` and the sentence: `[R, S]`."""
        return sentence_fit(self.read(latents), self.text.expand(len(latents), -1), self.tokens)

    def scaled(self, fit: Tensor) -> Tensor:
        """The reward for a fit, of any shape."""
        return ((fit - self.low) / (self.high - self.low)).clamp(LEAST, MOST)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """The reward of each step of a trajectory, of the frame that it leads to: `[R, H]`."""
        return self.scaled(self.fit(trajectory.latents[:, 1:]))


def train_on_sentence(
    agent: Agent, store: EpisodeStore, sentence: str, config: dict, folder: Path, fabric, progress: Progress
) -> Agent:
    """Train a new actor and critic on a sentence, and save them with the model in `folder`.

    Args:
        agent: its model is used as it is.
        store: episodes to begin imagining from; their rewards are not looked at.
        config: of `worldmodel imagine`: `behavior`, `updates`, `compile`, `seed`, `logging`.

    Returns:
        an agent that acts for the sentence.
    """
    model = agent.model.requires_grad_(False).eval().to(fabric.device)
    if model.semantics is not None:
        store.features = FeatureCache(store, model.semantics.described)
        store.features.fill(model.semantics.encoder(fabric.device), progress)
    torch.manual_seed(config["seed"])
    behavior = ActorCritic(
        model.feature_dim, agent.interface.action_dim, agent.interface.discrete, ActorCriticConfig(**config["behavior"])
    )
    starts = behavior.config.starts
    pool = start_memories(model, store, POOL * starts, config["seed"])
    behavior.reward = SentenceReward(agent, sentence, pool.latent)
    trainer = Trainer(fabric, behavior, behavior.config.optimizer(), config["updates"], behavior.LOSSES)
    behavior.set_reward_scale(behavior.reward.std)
    imagined = reduced_copy(model)
    if config["compile"]:
        behavior.compile_steps(imagined)
    generator = torch.Generator(model.device).manual_seed(config["seed"])
    metrics, averages = MetricsLogger(folder, config["logging"]["wandb"], config), Averages()
    try:
        with progress.phase("imagine", config["updates"], "updates") as bar:
            for update in range(config["updates"]):
                if update and update % (2 * POOL) == 0:
                    pool = start_memories(model, store, POOL * starts, config["seed"] + update)
                rows = torch.randint(len(pool.valid), (starts,), generator=generator, device=model.device)
                scalars = trainer.update(imagined, pool.select(rows), generator, after=behavior.update_target)
                averages.add(**{f"behavior/{name}": value for name, value in scalars.items()})
                bar.advance(1)
                if (update + 1) % config["logging"]["every"] == 0 or update + 1 == config["updates"]:
                    means = averages.pop()
                    metrics.log(update + 1, 0, "imagine", **means)
                    bar.note(f"imagined_return {means['behavior/imagined_return']:.3g}")
    finally:
        metrics.close()
    trained = Agent(model, behavior.requires_grad_(False).eval(), agent.interface, config)
    meta = {
        "interface": agent.interface.to_dict(),
        "config": config,
        "semantics": model.semantics.described,
        "sentence": sentence,
        "versions": versions(),
        "commit": commit(),
    }
    trained.path = save_checkpoint(
        folder / "checkpoints" / "00001", {"model": model, "behavior": behavior}, trainer.named_optimizers("behavior"), meta
    )
    return trained
