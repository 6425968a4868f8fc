"""One training run: does the chunks of its schedule, checkpoints between them, goes on after any interruption."""

from __future__ import annotations

import copy
import itertools
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from policies.adaptation import Scratch
from policies.agent import Agent
from policies.collect import collect, first_policy
from policies.goal_value import LatentTransitions
from policies.rollout import rollout
from policies.scales import fix_scales, reference_steps, see_blobs
from policies.schedule import COLLECTION_SEED, VALIDATION_SEED, Chunk, chunk_seed, schedule, with_automatic
from policies.starts import start_memories
from policies.validation import film_beginning, imagined_against_real
from worldmodel.averaging import follow
from worldmodel.checkpoint import find_checkpoint, load_module, point, read_meta, save_checkpoint
from worldmodel.data import EpisodeStore, WindowSampler
from worldmodel.diagnostics import open_loop_report
from worldmodel.interface import Interface
from worldmodel.metrics import Averages, MetricsLogger
from worldmodel.precision import reduced_copy
from worldmodel.progress import Progress
from worldmodel.provenance import commit, versions
from worldmodel.trainer import Diverged, OptimizerConfig, Trainer
from worldmodel.vision_language.cache import FeatureCache

CALIBRATION = 1024  # frames by whose statistics latents are standardised after a chunk of updates
POOL = 16  # batches of starting memories that a chunk of behaviour updates draws from


class Run:
    """One training run and where it stands.

    Args:
        config: the resolved config of `worldmodel train`.
        folder: the run folder.
        make_vector: `make_vector(count, workers=0)` gives a vector env of the configured env.
        progress: bars.
        fabric: a launched `lightning_fabric.Fabric`.
        begin: what there is to begin from.
    """

    def __init__(
        self, config: dict, folder: Path, make_vector, progress: Progress, fabric, begin: Scratch | None = None
    ):
        self.begin = begin or Scratch()
        self.config, self.training, self.folder = config, config["training"], Path(folder)
        self.make_vector, self.progress, self.fabric = make_vector, progress, fabric
        self.first = fabric.is_global_zero
        self.offline = config["data"] is not None
        goals = config["goal_value"]["updates"] if config["objective"]["name"] == "goal_image" else None
        self.chunks = schedule(self.training, self.offline, goals)
        self.chunk = self.env_steps = self.seeds_used = 0
        self.best_return = -float("inf")
        self.episode_steps = 250  # of a validation episode, once there was one
        self.envs: dict[tuple[int, int], object] = {}
        self.profile: Counter[str] = Counter()  # seconds by kind of work
        self.transitions: LatentTransitions | None = None  # encoded once, when distances are learned

        torch.manual_seed(config["seed"])
        self.store = self._open_store()
        self.agent = self.begin.agent or Agent.new(self.store.interface, config)
        self.training = with_automatic(self.training, self.agent.model.told, goals is not None)
        self.semantics = self.agent.model.semantics
        if self.semantics is not None:
            self.store.features = FeatureCache(self.store, self.semantics.described)
        # What imagines and acts is the average of the weights that are trained: these wander by several times the error
        # that their average has, and actor and critic would have to follow them.
        self.model, self.behavior = self.agent.model.requires_grad_(False).eval().to(fabric.device), self.agent.behavior
        self.learner = copy.deepcopy(self.model)
        self.begin.free(self.learner)
        self.imagined = reduced_copy(self.model)  # what actor and critic are trained in
        if self.training["compile"]:
            self.behavior.compile_steps(self.imagined)
        # Both rates have come down when fresh rollouts begin: an actor needs a model that is accurate and stands still.
        learn = sum(c.amount for c in self.chunks if c.kind == "learn" and c.phase == "pretrain")
        behave = sum(c.amount for c in self.chunks if c.kind == "behave" and c.phase == "imagine")
        self.model_trainer = Trainer(fabric, self.learner, OptimizerConfig(**self.training["optimizer"]), learn)
        optimizer = self.behavior.config.optimizer()
        self.behavior_trainer = Trainer(fabric, self.behavior, optimizer, behave, self.behavior.LOSSES)
        self.goal_trainer = None
        if self.agent.goal_value is not None:
            rate = OptimizerConfig(config["goal_value"]["learning_rate"], warmup=1, final_rate=0.1, weight_decay=0.0)
            self.goal_trainer = Trainer(fabric, self.agent.goal_value, rate, goals)
        self.metrics = MetricsLogger(self.folder, config["logging"]["wandb"], config) if self.first else None
        self.averages = Averages()
        self.saved = time.monotonic()

    # Data

    def _open_store(self) -> EpisodeStore:
        if self.offline:
            store = EpisodeStore.open(self.config["data"])
            if self.first:  # what is learned from these episodes is validated in the env
                store.require_interface(Interface(**self.env(1).interface))
            return store
        folder = self.folder / "data"
        if self.first:
            if (folder / "store.json").exists():
                return EpisodeStore.open(folder, writable=True)
            interface = Interface(**self.env(1).interface)
            store = EpisodeStore.create(folder, interface, {"env": self.config["env"]})
        self.fabric.barrier()
        return store if self.first else EpisodeStore.open(folder)

    def env(self, count: int, workers: int = 0):
        """A vector env of `count` rows, made once."""
        if (count, workers) not in self.envs:
            self.envs[count, workers] = self.make_vector(count, workers=workers)
        return self.envs[count, workers]

    # The loop

    def go(self) -> None:
        """Do every chunk that is left.

        Raises:
            Diverged: training failed; the message names the last good checkpoint.
        """
        while self.chunk < len(self.chunks):
            phase = self.chunks[self.chunk].phase
            unit = "steps" if phase == "collect" else "updates"
            part = [c for c in self.chunks if c.phase == phase]
            total = sum(c.work for c in part)
            done = sum(c.work for c in self.chunks[: self.chunk] if c.phase == phase)
            with self.progress.phase(phase, total, unit, start=done) as bar:
                while self.chunk < len(self.chunks) and self.chunks[self.chunk].phase == phase:
                    self._do(self.chunks[self.chunk], bar)
                    self._flush(self.chunks[self.chunk], bar)
                    self.chunk += 1
                    if time.monotonic() - self.saved > 60 * self.config["logging"]["checkpoint_minutes"]:
                        self.save()
        self.save()

    def _do(self, chunk: Chunk, bar) -> None:
        work = {
            "collect": self._collect,
            "act": self._act,
            "learn": self._learn,
            "behave": self._behave,
            "validate": self._validate,
            "measure": self._measure,
        }[chunk.kind]
        began = time.monotonic()
        try:
            work(chunk, bar, chunk_seed(self.config["seed"], self.chunk, self.fabric.global_rank))
        except Diverged as error:
            last = self.folder / "checkpoints" / "last"
            known = f"the last good checkpoint is {last.resolve()}" if last.exists() else "there is no checkpoint yet"
            raise Diverged(
                f"{error} in phase {chunk.phase}: {known}. Lower training.optimizer.learning_rate or "
                "behavior.learning_rate, or look at metrics.jsonl for what grew"
            ) from error
        self.profile[f"{chunk.phase}: {chunk.kind}"] += time.monotonic() - began

    def _collect(self, chunk: Chunk, bar, seed: int) -> None:
        options = self.training["collect"]
        if self.first:
            followed = round(chunk.amount * options["expert"])
            for name, steps in (("random", chunk.amount - followed), ("expert", followed)):
                if steps:
                    policy = first_policy(name, self.store.interface, seed, options)
                    self._add(policy, steps, options["envs"], options["workers"], options, bar.advance, name)
        self._after_collection()

    def _act(self, chunk: Chunk, bar, seed: int) -> None:
        options = self.training["online"]
        if self.first:
            explore = {"sample": True} if options["act_with"] == "actor" else {}
            explore |= {"noise": options["noise"], "bursts": options["bursts"]}
            policy = self.agent.policy(options["act_with"], seed, **explore)
            # Whole episodes: as many side by side as the round has steps for.
            envs = min(self.training["collect"]["envs"], max(1, chunk.amount // self.episode_steps))
            summary = self._add(policy, chunk.amount, envs, self.training["collect"]["workers"], options, None, "actor")
            self.log("online", collected_return=summary["return_mean"], round=chunk.round)
        self._after_collection()

    def _add(self, policy, steps: int, envs: int, workers: int, options: dict, advance, name: str) -> dict:
        seeds = itertools.count(COLLECTION_SEED + self.seeds_used)
        summary = collect(
            policy,
            self.env(envs, workers),
            self.store,
            steps,
            seeds,
            broad_fraction=options["broad_fraction"],
            max_steps=options.get("episode_steps") if self.env(envs, workers).starts_broad else None,
            name=name,
            on_step=advance,
        )
        self.seeds_used += summary["episodes"]
        self.env_steps += summary["env_steps"]
        return summary

    def _after_collection(self) -> None:
        self.fabric.barrier()
        if not self.first:
            self.store.refresh()
        self.fill_features()

    def fill_features(self) -> None:
        """Encode what was recorded since."""
        if self.semantics is None:
            return
        if self.first:
            self.store.features.fill(self.semantics.encoder(self.fabric.device), self.progress)
        self.fabric.barrier()
        self.store.features.refresh()

    def _learn(self, chunk: Chunk, bar, seed: int) -> None:
        options = self.training
        if self.model_trainer.updates == 0:
            self.fill_features()  # of episodes that were there before the run
            if self.begin.agent is None:
                models = self.learner, self.model
                fix_scales(self.store, models, self.behavior, chunk_seed(self.config["seed"], self.chunk))
        see_blobs(self.store, self.model)
        recent = self._recent(chunk)
        sampler = WindowSampler(self.store, options["window"], options["batch_size"], seed, **recent)
        oldest = None if self.offline else reference_steps(options["collect"]["steps"], self.store.steps)
        singles = WindowSampler(self.store, 1, options["reference_frames"], seed + 1, oldest_steps=oldest)
        generator = torch.Generator(self.model.device).manual_seed(chunk_seed(self.config["seed"], self.chunk))
        moving = self.begin.moves_latents
        self.learner.train(moving)
        for _ in range(chunk.amount):
            batch = sampler.sample() | ({"reference": self._frames(singles)} if moving else {})
            boost = options["sigreg_boost"] ** (1 - self.model_trainer.progress)
            self._step(chunk, bar, self.model_trainer.update(self.fabric.to_device(batch), generator, boost))
            follow(self.model, self.learner, options["average_rate"], self.model_trainer.updates)
        if moving:
            self.model.calibrate(self.fabric.to_device(self._frames(singles, CALIBRATION)))

    def _recent(self, chunk: Chunk) -> dict:
        """How much a sampler draws from the newest episodes alone: nothing before there are fresh rollouts."""
        fraction = self.training["recent_fraction"] if chunk.phase == "online" else 0.0
        return {"recent_fraction": fraction, "recent_episodes": self.training["recent_episodes"]}

    def _frames(self, sampler: WindowSampler, count: int | None = None) -> dict[str, torch.Tensor]:
        """Observations `[count, ...]` of moments drawn one by one."""
        windows = sampler.sample(count)
        return {key: value[:, 0] for key, value in self.model.seen(windows).items()}

    def _behave(self, chunk: Chunk, bar, seed: int) -> None:
        starts = self.behavior.config.starts
        pool = start_memories(
            self.model, self.store, min(POOL * starts, starts * chunk.amount), seed, **self._recent(chunk)
        )
        self.imagined.load_state_dict(self.model.state_dict())
        generator = torch.Generator(self.model.device).manual_seed(seed)
        for _ in range(chunk.amount):
            rows = torch.randint(len(pool.valid), (starts,), generator=generator, device=self.model.device)
            scalars = self.behavior_trainer.update(
                self.imagined, pool.select(rows), generator, after=self.behavior.update_target
            )
            self._step(chunk, bar, scalars)

    def _measure(self, chunk: Chunk, bar, seed: int) -> None:
        """Learn the distance between the latents of the model as it is now."""
        if self.transitions is None:
            self.transitions = LatentTransitions(self.model, self.store, seed=self.config["seed"])
        generator = torch.Generator(self.model.device).manual_seed(seed)
        value = self.agent.goal_value
        for _ in range(chunk.amount):
            sample = self.transitions.sample(value.config, generator)
            self._step(chunk, bar, self.goal_trainer.update(*sample, after=value.update_target))

    def _step(self, chunk: Chunk, bar, scalars: dict) -> None:
        bar.advance(1)
        prefix = {"learn": "model", "behave": "behavior", "measure": "goal_value"}[chunk.kind]
        self.averages.add(**{f"{prefix}/{name}": value for name, value in scalars.items()})
        if self.updates % self.config["logging"]["every"] == 0:
            self._flush(chunk, bar)

    def _flush(self, chunk: Chunk, bar) -> None:
        """Log what the updates since the last line measured. Done at the end of a chunk too: nothing that a checkpoint
        would have to keep is carried over."""
        means = self.averages.pop()
        if means and self.first:
            self.log(chunk.phase, **means)
            shown = ("model/open_loop", "model/reward", "behavior/imagined_return", "validation_return")
            bar.note("  ".join(f"{k.split('/')[-1]} {means[k]:.3g}" for k in shown if k in means))

    def _validate(self, chunk: Chunk, bar, seed: int) -> None:
        count = self.training["validation_episodes"]
        if not (self.first and count and self.make_vector):
            return
        seeds = list(range(VALIDATION_SEED, VALIDATION_SEED + count))
        episodes = list(rollout(self.agent.policy("actor"), self.env(count), seeds, name="actor"))
        score = float(np.mean([e["info"]["return"] for e in episodes]))
        self.episode_steps = max(len(e["reward"]) for e in episodes)
        report = open_loop_report(self.model, self.store) | imagined_against_real(self.agent, episodes)
        self.log(chunk.phase, validation_return=score, **report)
        words = f"return {score:.0f}"
        if "reward_r2_10" in report:
            words += f"  reward R2 at 1/5/10 steps {report['reward_r2_1']:.2f}/{report['reward_r2_5']:.2f}/{report['reward_r2_10']:.2f}"
        self.progress.line(f"round {chunk.round}: {words}")
        bar.note(words)
        every = self.config["logging"]["video_every"]
        if every and chunk.round % every == 0 and self.store.interface.cameras:
            path = self.folder / "videos" / f"{chunk.phase}_{chunk.round:03d}.mp4"
            film_beginning(self.agent, episodes[0], path, f"{self.config['env']['id']}  round {chunk.round}")
            self.progress.line(f"video {path}")
        if score > self.best_return:
            self.best_return = score
            self.save(best=True)

    @property
    def updates(self) -> int:
        """Of all that is trained, together."""
        return sum(trainer.updates for trainer in self._trainers().values())

    def _modules(self) -> dict[str, torch.nn.Module]:
        goals = {} if self.agent.goal_value is None else {"goal_value": self.agent.goal_value}
        return {**self.begin.modules(self.model, self.learner), "behavior": self.behavior, **goals}

    def _trainers(self) -> dict[str, Trainer]:
        goals = {} if self.goal_trainer is None else {"goal_value": self.goal_trainer}
        return {"model": self.model_trainer, "behavior": self.behavior_trainer, **goals}

    def log(self, phase: str, **values) -> None:
        """A line of metrics; values that are None are left out."""
        values = {key: value for key, value in values.items() if value is not None}
        self.metrics.log(self.updates, self.env_steps, phase, **values)

    # Checkpoints

    def save(self, best: bool = False) -> None:
        """Write a checkpoint of everything that the rest of the run depends on; `best` is called inside the chunk that
        it ends."""
        done = self.chunk + best
        folder = self.folder / "checkpoints" / f"{done:05d}"
        if self.first:
            meta = {
                "chunk": done,
                "env_steps": self.env_steps,
                "seeds_used": self.seeds_used,
                "episodes": len(self.store),
                "best_return": self.best_return if np.isfinite(self.best_return) else None,
                "episode_steps": self.episode_steps,
                "updates": {name: trainer.updates for name, trainer in self._trainers().items()},
                "metrics_lines": self.metrics.lines,
                "seconds": dict(self.profile),
                "interface": self.store.interface.to_dict(),
                "config": self.config,
                "semantics": None if self.semantics is None else self.semantics.described,
                "versions": versions(),
                "commit": commit(),
                **self.begin.meta(),
            }
            optimizers = {}
            for name, trainer in self._trainers().items():
                optimizers |= trainer.named_optimizers(name)
            save_checkpoint(folder, self._modules() | self.begin.more(self.model), optimizers, meta)
            if best:
                point(self.folder / "checkpoints" / "best", folder)
        if not best:
            self.fabric.barrier()
        self.saved = time.monotonic()

    def restore(self) -> None:
        """Go back to the run's last checkpoint, or to the beginning if it was stopped before the first; what was
        collected or logged after it is dropped."""
        if not (self.folder / "checkpoints" / "last").exists():
            if self.first:
                self.metrics.truncate(-1)
                if not self.offline:
                    self.store.truncate(0)
            return
        folder = find_checkpoint(self.folder / "checkpoints" / "last")
        meta = read_meta(folder)
        self.begin.require_same(meta, folder)
        for name, module in self._modules().items():
            load_module(folder, name, module)
        for name, trainer in self._trainers().items():
            trainer.restore(folder, name, meta["updates"][name])
        self.chunk, self.env_steps, self.seeds_used = meta["chunk"], meta["env_steps"], meta["seeds_used"]
        self.episode_steps = meta["episode_steps"]
        self.profile = Counter(meta["seconds"])
        self.best_return = -float("inf") if meta["best_return"] is None else meta["best_return"]
        if self.first:
            if not self.offline:
                self.store.truncate(meta["episodes"])
            self.metrics.truncate(self.updates, meta["metrics_lines"])
        self.fabric.barrier()
        if not self.first:
            self.store.refresh()

    def close(self) -> None:
        """Free envs, files and logs."""
        for part in (*self.envs.values(), self.store, self.metrics):
            if part is not None:
                part.close()
