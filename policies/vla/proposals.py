"""The policy proposes, the world model imagines, the objective chooses: one knob from policy alone to full planning."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policies.agent import Agent, PlannerPolicy
from policies.planners.planner import Best, one_hot
from policies.policy import Observation
from policies.vla.agent import KIND, VLAAgent
from policies.vla.execution import ChunkPolicy
from worldmodel.checkpoint import find_checkpoint, read_meta
from worldmodel.interface import Interface

SAME = ("cameras", "state_dim", "action_dim", "discrete", "action_repeat", "fps")


class ProposePolicy(ChunkPolicy):
    """Acts with the best of several chunks that a vision-language-action policy proposes, as a world model imagines
    them.

    Several actions of a generative model of the demonstrations, and of these the best: BCQ (Fujimoto et al. 2019),
    with a world model in place of its critic. Planning on from there, with the proposals among the samples, is
    TD-MPC2's use of its policy (Hansen et al. 2024).

    The belief follows every frame and every executed action, whether a chunk is due or not.

    Args:
        agent: the vision-language-action policy.
        world_model: a run folder or a checkpoint of `worldmodel train`, or what it holds; None only with planning=0.
        planning: rounds of imagination that a chunk gets. 0: the policy alone, which is `ChunkPolicy` to the bit. 1: K
            proposals are imagined and the best is executed. 1 + n: then n rounds of the planner, which begins at the
            best and has all proposals among its first candidates.
        proposals: K.
        temperature: how far proposals differ, see `ActionHead.propose`.
        planner: the options of a planner, with its `name`; the world model's own when None. Its `horizon` is how many
            of a chunk's actions are imagined, all when None; the rest of the chunk stays as proposed. `planning` and
            `proposals` stand for its own iterations and proposals.
        objective: the config group `objective`; the world model's own when None. An instruction is what each row is
            told.
        interface, seed, instruction, n_action_steps, ensemble: see `ChunkPolicy`.

    Raises:
        ValueError: an option out of its range, no world model, or one that was trained in another env.
        CheckpointError: there is no checkpoint there.
    """

    def __init__(
        self,
        *,
        agent: VLAAgent,
        world_model: str | Path | Agent | None = None,
        planning: int = 1,
        proposals: int = 8,
        temperature: float = 1.0,
        planner: dict | None = None,
        objective: dict | None = None,
        interface: Interface | None = None,
        seed: int = 0,
        instruction: str | None = None,
        n_action_steps: int | None = None,
        ensemble: float | None = None,
    ):
        super().__init__(
            agent=agent, interface=interface, seed=seed, instruction=instruction, n_action_steps=n_action_steps,
            ensemble=ensemble,
        )  # fmt: skip
        for name, value, least in (("planning", planning, 0), ("proposals", proposals, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"policy.{name}={value!r} must be a whole number of at least {least}")
        if not temperature >= 0.0:
            raise ValueError(f"policy.temperature={temperature!r} must be a number of at least 0")
        self.planning, self.proposals, self.temperature = planning, proposals, temperature
        self.gains: list[float] = []  # what imagination says the executed chunks are better by than the first proposals
        self.changed: list[bool] = []  # whether they are others
        self.inside: PlannerPolicy | None = None
        if not planning:
            return
        if world_model is None:
            raise ValueError(
                f"planning={planning} imagines: give policy.world_model=<a run folder of worldmodel train>, or set "
                "policy.planning=0 for the policy alone"
            )
        world = world_model if isinstance(world_model, Agent) else load_world_model(world_model, agent.model.device)
        require_same_task(agent, world)
        options = dict(planner or world.config["planner"])
        horizon = options.get("horizon") or self.chunk
        if horizon > self.chunk:
            raise ValueError(f"planner.horizon={horizon}: this policy's chunks have {self.chunk} actions")
        searches = planning > 1  # a few proposals now and then are not worth the half minute that compiling takes
        options |= {"horizon": horizon, "iterations": max(1, planning - 1), "proposals": proposals * searches}
        options["compile"] = searches and options.get("compile", False)
        self.inside = PlannerPolicy(agent=world, planner=options, objective=objective, seed=seed)

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Forget the chunks and the past of the rows in `mask` (all when None)."""
        super().reset(observation, mask)
        if self.inside is not None:
            self.inside.reset(self._told(observation, range(len(self.rows))), mask)

    def act(self, observation: Observation) -> np.ndarray:
        """Actions float32 `[B, A]`; one-hot rows for discrete envs.

        Raises:
            PlanningError: the world model imagined nothing but NaN or infinity for a row.
        """
        if self.inside is None or len(next(iter(observation.values()))) != len(self.rows):
            return super().act(observation)
        self.inside.see(observation)
        actions = super().act(observation)
        self.inside.previous = torch.as_tensor(actions, device=self.inside.agent.model.device).clamp(-1.0, 1.0)
        return actions

    def report(self) -> dict[str, float | int | None]:
        """As `ChunkPolicy.report`, with `changed`, the share of chunks that are not the first proposal, and
        `imagined_gain`, by how much the objective says they are better on average."""
        if self.inside is None:
            return super().report()
        known = (
            {"changed": float(np.mean(self.changed)), "imagined_gain": float(np.mean(self.gains))} if self.gains else {}
        )
        return super().report() | known

    def _told(self, observation: Observation, rows) -> Observation:
        """All that is observed in some rows, with what is asked of them."""
        rows = list(rows)
        told = {key: np.asarray(value)[rows] for key, value in observation.items()}
        return told | {"instruction": np.array(self._sentences(observation, rows), object)}

    def _predict_now(self, observation: Observation, rows: list[int]) -> None:
        if self.inside is None:
            super()._predict_now(observation, rows)
            return
        began = time.perf_counter()
        seen, said = self._asked(observation, rows)
        proposed = self.agent.propose(seen, said, self.proposals, self.generator, self.temperature)
        chunks = self._chosen(observation, rows, proposed).cpu().numpy()
        self.latencies.append(time.perf_counter() - began)
        for number, actions in zip(rows, chunks, strict=True):
            self._keep(number, self.rows[number].step, actions)

    @torch.no_grad()
    def _chosen(self, observation: Observation, rows: list[int], proposed: Tensor) -> Tensor:
        """The chunks `[R, chunk, A]` that are executed of those proposed `[R, K, chunk, A]`."""
        inside, judge = self.inside, self.inside.judge
        # A compiled step is made for one number of rows: the due ones are repeated to make as many as there are.
        places = np.resize(np.arange(len(rows)), len(self.rows) if judge.compile else len(rows))
        imagined = [rows[place] for place in places]
        proposed = proposed[torch.as_tensor(places, device=proposed.device)]
        memory = inside.memory.select(torch.as_tensor(imagined, device=proposed.device))
        score = partial(judge.score, memory, judge.objective(self._told(observation, imagined)))
        plans = proposed[:, :, : inside.planner.horizon]
        if self.interface.discrete:
            plans = one_hot(plans)
        best = Best(score)
        scores = best(plans)
        best.result()  # raises where nothing could be scored
        every, index = torch.arange(len(plans), device=plans.device), scores.argmax(1)
        chunks, reached, changed = proposed[every, index], scores.amax(1), index != 0
        if self.planning > 1:
            plan = inside.planner.plan(score, len(plans), plans, inside.generator, start=plans[every, index])
            chunks[:, : inside.planner.horizon] = plan.actions
            reached, changed = plan.score, (plan.actions != plans[:, 0]).flatten(1).any(1)
        gain = (reached - scores[:, 0])[: len(rows)]
        self.gains += gain[torch.isfinite(gain)].tolist()
        self.changed += changed[: len(rows)].tolist()
        return chunks[: len(rows)]


def load_world_model(path: str | Path, device: torch.device | str = "cpu") -> Agent:
    """The world model of a run folder or a checkpoint.

    Raises:
        CheckpointError: there is none, or it does not fit.
        ValueError: it is a vision-language-action policy.
    """
    if read_meta(find_checkpoint(path)).get("kind") == KIND:
        raise ValueError(f"{path} holds a vision-language-action policy: world_model wants a run of worldmodel train")
    return Agent.load(path, device)


def require_same_task(policy: VLAAgent, world: Agent) -> None:
    """Raise ValueError naming every respect in which a policy and a world model are not of the same env: its id,
    pictures, state, actions, action repeat and control rate."""
    differing = [
        f"{name} {mine} of the policy and {theirs} of the world model"
        for name in SAME
        if (mine := getattr(policy.interface, name)) != (theirs := getattr(world.interface, name))
    ]
    ids = [agent.config.get("env", {}).get("id") for agent in (policy, world)]
    if None not in ids and ids[0] != ids[1]:
        differing.insert(0, f"env.id {ids[0]} of the policy and {ids[1]} of the world model")
    if differing:
        raise ValueError(
            f"policy and world model are of different envs: {'; '.join(differing)}. Train the world model with "
            "worldmodel train data=<the demonstrations>, or with the same env.*"
        )
