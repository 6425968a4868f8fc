"""Behavioural cloning of demonstrations: one update, and a run of them that can be stopped at any moment."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from policies.adaptation import Scratch
from policies.schedule import UPDATES_PER_CHUNK, chunk_seed
from policies.vla.agent import KIND, VLAAgent
from policies.vla.captions import CaptionBatch, CaptionHead
from policies.vla.chunks import Chunks, ChunkSampler, demonstrations
from policies.vla.heads import masked_mean
from policies.vla.model import VLA
from policies.vla.statistics import Statistics
from worldmodel.averaging import follow
from worldmodel.checkpoint import find_checkpoint, load_module, read_meta, save_checkpoint
from worldmodel.data import EpisodeStore
from worldmodel.metrics import Averages, MetricsLogger
from worldmodel.progress import Progress
from worldmodel.provenance import commit, versions
from worldmodel.trainer import Diverged, OptimizerConfig, Trainer
from worldmodel.vision_language.cache import FeatureCache

HELD_OUT = 256  # steps that the error on held-out episodes is measured on


class Imitation(nn.Module):
    """The loss of a vision-language-action model on demonstrations, and on captioned pictures where it is co-trained.

    Args:
        model: what is trained.
        captions_weight: of the captions' loss beside the actions'; 0 for none.
    """

    def __init__(self, model: VLA, captions_weight: float = 0.0):
        super().__init__()
        self.model, self.captions_weight = model, captions_weight
        self.captions = CaptionHead(model) if captions_weight else None

    def forward(
        self,
        chunks: Chunks,
        generator: torch.Generator | None = None,
        captions: tuple[CaptionBatch, Tensor | None] | None = None,
    ) -> dict[str, Tensor]:
        """`loss` and its parts, `action` and, given captions and their pictures' semantic tokens, `caption`: scalars."""
        device = self.model.device
        observation = {key: value.to(device) for key, value in chunks.observation.items()}
        said = self.model.instructions.read(chunks.sentences, device)
        parts = {
            "action": self.model.loss(observation, said, chunks.actions.to(device), chunks.mask.to(device), generator)
        }
        loss = parts["action"]
        if self.captions is not None and captions is not None:
            batch, semantic = captions
            parts["caption"] = self.captions.loss(self.model, batch, None if semantic is None else semantic.to(device))
            loss = loss + self.captions_weight * parts["caption"]
        return {"loss": loss, **parts}


class ImitationRun:
    """One run of `worldmodel imitate` and where it stands.

    What is random in an update follows from the run's seed and the update's number: a run that goes on from a checkpoint
    ends in the same weights.

    Args:
        config: resolved, of configs/imitate.yaml.
        folder: the run folder.
        store: the demonstrations.
        progress: bars.
        fabric: a launched `lightning_fabric.Fabric`.
        captions: with `pictures` uint8 `[P, H, W, 3]` and `draw(count, seed)` (`envs.captions.batches.CaptionPool`); None
            where `captions_weight` is 0.
        begin: what there is to begin from; its statistics stay.

    Raises:
        ValueError: no demonstration is left, one has no instruction, or the captions' pictures are of another size.
        EncoderError: there is no encoder that reads text.
    """

    PHASE, NOTED = "imitate", ("action", "caption")  # how metrics call it, and what of them stands beside the bar

    def __init__(
        self,
        config: dict,
        folder: Path,
        store: EpisodeStore,
        progress: Progress,
        fabric,
        captions=None,
        begin: Scratch | None = None,
    ):
        self.begin = begin or Scratch()
        self.config, self.folder, self.store, self.fabric = config, Path(folder), store, fabric
        self.progress, self.captions = progress, captions
        self.first, self.updates = fabric.is_global_zero, 0
        self.seconds = 0.0  # of training, breaks left out
        if captions is not None and set(store.interface.cameras.values()) != {captions.pictures.shape[1:]}:
            raise ValueError(
                f"captioned pictures are {captions.pictures.shape[1:]} and the demonstrations' "
                f"{sorted(set(store.interface.cameras.values()))}: set captions_weight=0"
            )
        torch.manual_seed(config["seed"])
        chosen = demonstrations(store, "train", config["successful"])
        self.agent = self.begin.agent
        if self.agent is None:
            self.agent = VLAAgent.new(store.interface, config, Statistics.of_store(store, chosen))
        # What acts is the average of the weights that are trained.
        self.model = self.agent.model.requires_grad_(False).eval().to(fabric.device)
        learner = copy.deepcopy(self.model)
        self.begin.free(learner)
        self.learner = self._losses(learner)
        self.trainer = Trainer(fabric, self.learner, OptimizerConfig(**config["optimizer"]), config["updates"])
        if self.model.adapters is None:
            self._cache_features()
        self.metrics = MetricsLogger(self.folder, config["logging"]["wandb"], config) if self.first else None
        self.averages, self.saved = Averages(), time.monotonic()

    def _losses(self, learner: VLA) -> Imitation:
        """What is minimised."""
        return Imitation(learner, self.config["captions_weight"])

    def go(self) -> VLAAgent:
        """Do every update that is left; returns the agent, whose checkpoint is the last.

        Raises:
            Diverged: training failed; the message names the last good checkpoint.
        """
        total = self.config["updates"]
        self.learner.train()
        with self.progress.phase(self.PHASE, total, "updates", start=self.updates) as bar:
            while self.updates < total:
                began = time.monotonic()
                self._chunk(min(UPDATES_PER_CHUNK, total - self.updates), bar)
                self.seconds += time.monotonic() - began
                if time.monotonic() - self.saved > 60 * self.config["logging"]["checkpoint_minutes"]:
                    self.save()
        self.save()
        self.agent.path = find_checkpoint(self.folder)
        return self.agent

    def _chunk(self, count: int, bar) -> None:
        """`count` updates, whose random numbers follow from the run's seed and their number."""
        number, config = self.updates // UPDATES_PER_CHUNK, self.config
        seed = chunk_seed(config["seed"], number, self.fabric.global_rank)
        sampler = self._sampler("train", config["batch_size"], seed)
        generator = torch.Generator(self.model.device).manual_seed(seed)
        for update in range(count):
            try:
                captions = self._draw_captions([seed, update])
                scalars = self.trainer.update(sampler.sample(), generator, captions)
            except Diverged as error:
                last = self.folder / "checkpoints" / "last"
                known = (
                    f"the last good checkpoint is {last.resolve()}" if last.exists() else "there is no checkpoint yet"
                )
                raise Diverged(f"{error}: {known}. Lower optimizer.learning_rate") from error
            self.updates += 1
            follow(self.model, self.learner.model, config["average_rate"], self.updates)
            self.averages.add(**scalars)
            bar.advance(1)
            if self.updates % config["logging"]["every"] == 0 or update + 1 == count:
                self._log(bar)
        if self.updates % config["validate_every"] < count or self.updates == config["updates"]:
            self._validate()

    def _log(self, bar) -> None:
        means = self.averages.pop()
        if self.first and means:
            self.metrics.log(self.updates, 0, self.PHASE, **means)
            bar.note("  ".join(f"{name} {means[name]:.3g}" for name in self.NOTED if name in means))

    def _validate(self) -> None:
        """Measure on episodes that are not trained on."""
        if not self.first or len(self.store) < 2:
            return
        try:
            sampler = self._sampler("held_out", HELD_OUT, self.config["seed"])
        except ValueError:  # none of the held-out episodes succeeded
            return
        found = self._measures(sampler.sample())
        self.metrics.log(self.updates, 0, self.PHASE, **found)
        told = (f"{name.replace('_', ' ')} {value:.3f}" for name, value in found.items())
        self.progress.line(f"update {self.updates}: {', '.join(told)}")

    def _measures(self, chunks: Chunks) -> dict[str, float]:
        """The mean error of the predicted actions on held-out steps."""
        generator = torch.Generator(self.model.device).manual_seed(self.config["seed"])
        return {"held_out_error": action_error(self.model, chunks, generator)}

    def _sampler(self, split: str, batch_size: int, seed: int) -> ChunkSampler:
        config = self.config
        return ChunkSampler(
            self.store, config["vla"]["chunk"], batch_size, seed, split, config["instruction"], config["successful"]
        )

    # Features of the frozen encoder, computed once

    def _cache_features(self) -> None:
        semantics = self.model.semantics
        self.store.features = FeatureCache(self.store, semantics.described)
        if self.first:
            self.store.features.fill(semantics.encoder(self.fabric.device), self.progress)
        self.fabric.barrier()
        self.store.features.refresh()
        if self.captions is not None:
            tokens = semantics.encoder(self.fabric.device).encode_images(self.captions.pictures)
            self._caption_tokens = tokens.repeat(1, len(self.store.interface.cameras), 1).half().cpu()

    def _draw_captions(self, seed: list[int]) -> tuple[CaptionBatch, Tensor | None] | None:
        if self.captions is None:
            return None
        rows, sentences, true, known = self.captions.draw(self.config["captions_batch"], seed)
        batch = CaptionBatch(self.captions.pictures[rows], sentences, true, known)
        if self.model.adapters is not None:
            return batch, None
        return batch, self._caption_tokens[torch.from_numpy(np.asarray(rows))].float()

    # Checkpoints

    def save(self) -> None:
        """Write all that the rest of the run depends on."""
        if self.first:
            meta = {
                "kind": KIND,
                "updates": self.updates,
                "metrics_lines": self.metrics.lines,
                "seconds": self.seconds,
                "interface": self.store.interface.to_dict(),
                "statistics": self.agent.statistics.to_dict(),
                "semantics": self.model.semantics.described,
                "config": self.config,
                "data": {"folder": str(self.store.folder), "episodes": len(self.store)},
                "versions": versions(),
                "commit": commit(),
                **self.begin.meta(),
            }
            modules = self.begin.modules(self.model, self.learner) | self.begin.more(self.model)
            folder = self.folder / "checkpoints" / f"{self.updates:06d}"
            save_checkpoint(folder, modules, self.trainer.named_optimizers("learner"), meta)
        self.fabric.barrier()
        self.saved = time.monotonic()

    def restore(self) -> None:
        """Go back to the last checkpoint, or to the beginning where there is none.

        Raises:
            ValueError: the demonstrations are not those that it was trained on.
        """
        if not (self.folder / "checkpoints" / "last").exists():
            if self.first:
                self.metrics.truncate(-1)
            return
        folder = find_checkpoint(self.folder / "checkpoints" / "last")
        meta = read_meta(folder)
        stored = Statistics.from_dict(meta["statistics"], self.store.interface, where=str(folder))
        if stored != self.agent.statistics:
            raise ValueError(
                f"the demonstrations in {self.store.folder} have changed since {folder} was written: restore them, or "
                "begin a new run"
            )
        self.begin.require_same(meta, folder)
        for name, module in self.begin.modules(self.model, self.learner).items():
            load_module(folder, name, module)
        self.updates = meta["updates"]
        self.trainer.restore(folder, "learner", self.updates)
        self.seconds = meta["seconds"]
        if self.first:
            self.metrics.truncate(self.updates, meta["metrics_lines"])

    def close(self) -> None:
        """Finish the logs."""
        if self.metrics is not None:
            self.metrics.close()


@torch.no_grad()
def action_error(model: VLA, chunks: Chunks, generator: torch.Generator | None = None) -> float:
    """The mean absolute error of predicted actions, in units of [-1, 1], padding left out."""
    device = model.device
    observation = {key: value.to(device) for key, value in chunks.observation.items()}
    predicted = model.predict(observation, model.instructions.read(chunks.sentences, device), generator)
    return masked_mean((predicted - chunks.actions.to(device)).abs(), chunks.mask.to(device)).item()
