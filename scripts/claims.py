"""What this project claims to reach: each claim is a command line, and a number read from what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Read = Callable[[dict], float]
"""From one policy's entry of an eval.json to the claim's number."""

DMC_100K = (
    "env.privileged_state=false training.collect.envs=2 training.pretrain.updates=1000 training.collect.steps=5000 "
    "training.online.bursts=0.08 eval.planner_episodes=0"
)
"""The published protocol: the suite's own starts, no simulator state, action repeat counted; run it where the extra `dmc`
is installed. Two envs side by side, because whole episodes are taken: eight would take 104,000 steps."""

TO_GOALS = "objective=goal_image planner.samples=128 planner.iterations=3 planner.elites=16"
GOAL_IMAGE = f"env.kwargs.render_goal=false {TO_GOALS} eval.episodes=50 eval.envs=10"
"""Random episodes without a goal in sight, a world model without rewards, and fifty goal pictures to plan towards."""

TWO_ROOM = f"env.id=worldmodel/TwoRoom-v0 training.online.rounds=0 eval.max_steps=100 {GOAL_IMAGE}"
PUSHER = f"env.id=worldmodel/Pusher-v0 env.action_repeat=4 training.online.rounds=10 {GOAL_IMAGE}"

TOKENS = "vision_language=embedded"
PENDULUM_TOKENS = f"env.id=worldmodel/PendulumSwingup-v0 training.online.rounds=1 {TOKENS}"
REACHER_TOKENS = f"env.id=worldmodel/Reacher-v0 training.online.rounds=1 {TOKENS}"
TABLETOP = (
    f"env.id=worldmodel/Tabletop-v0 env.action_repeat=4 {TO_GOALS} {TOKENS} model.latent_dim=128 goal_value.ahead=0.85 "
    "env.kwargs.plays=true training.collect.expert=0.7 training.collect.steps=120000 training.pretrain.updates=6000 "
    "training.online.rounds=0"
)
"""Random actions and play with the pusher, nothing asked and no rewards; what is asked for comes with `UNSEEN`."""

UNSEEN = ("env.kwargs.split=held_out_layouts", "eval.episodes=50", "eval.envs=10", "eval.baselines=[random]")
TOWARDS = {
    "goal": ("evaluate", "policy=planner", *UNSEEN),
    "sentence": ("evaluate", "policy=planner", "objective=instruction", "env.goal_image=false", *UNSEEN),
}


def mean_return(score: dict) -> float:
    """Mean return of the evaluation's episodes."""
    return score["return"]["mean"]


def late_success(score: dict) -> float:
    """Share of the second half of the episodes in which the task was done."""
    return score["late_success"]


def late_reward(score: dict) -> float:
    """Mean reward of the second half of the episodes, as a share of the largest (4 for each step of a built-in task)."""
    return score["late_reward"] / 4


def success(score: dict) -> float:
    """Share of episodes with success."""
    return score["success"]["rate"]


@dataclass(frozen=True)
class Claim:
    """A command, what its number means, and the bar.

    Attributes:
        sentence: with the unit.
        bar: that the mean over seeds has to reach; None for a figure without one.
        minutes: of wall time that each run may take on two idle cores.
        train: overrides of `worldmodel train`.
        read: the number, from one policy's entry.
        then: a verb and its overrides, for what was trained; the number is of the policy that it evaluates.
        relative: the number is a share of the trained actor's, over the same episodes.
    """

    sentence: str
    bar: float | None
    minutes: float
    train: str = ""
    read: Read = mean_return
    then: tuple[str, ...] = ()
    relative: bool = False

    def value(self, results: dict, then: dict | None = None) -> tuple[float, str]:
        """The number in an eval.json, and the policy that it is of: the best trained one among those that were evaluated
        over the most episodes, because the best of unequally many is the luckiest of few.

        Args:
            results: of training.
            then: the eval.json that `then` left, whose policy is judged instead.

        Raises:
            ValueError: the number is relative, and the two were evaluated over different episodes.
        """
        if then is not None:
            policy = then["context"]["policy"]
            number = self.read(then["policies"][policy])
            if not self.relative:
                return number, policy
            one, other = then["policies"][policy], results["policies"]["actor"]
            if [e["seed"] for e in one["episodes"]] != [e["seed"] for e in other["episodes"]]:
                raise ValueError("the trained actor was evaluated over other episodes: nothing can be compared")
            return number / self.read(other), policy
        trained = {name: score for name, score in results["policies"].items() if name in ("actor", "planner")}
        most = max(len(score["episodes"]) for score in trained.values())
        best = max(
            (name for name, score in trained.items() if len(score["episodes"]) == most),
            key=lambda name: self.read(trained[name]),
        )
        return self.read(trained[best]), best


CLAIMS = {
    "cartpole_swingup": Claim(
        "cartpole swing-up from 64x64 pixels, the default job: return (0-1000) within 20 minutes, state as a target",
        800, 20,
    ),
    "cartpole_swingup_tokens": Claim(
        "cartpole swing-up from 64x64 pixels and semantic tokens: return (0-1000) within 30 minutes, state as a target",
        800, 30, TOKENS,
    ),
    "cartpole_swingup_pixels": Claim(
        "cartpole swing-up from 64x64 pixels alone: return (0-1000) within 40 minutes, no state anywhere",
        600, 40, "env.privileged_state=false training.online.rounds=10",
    ),
    "pendulum_swingup": Claim(
        "pendulum swing-up from 64x64 pixels: share of the largest reward in the second half of the episodes, state as a target",
        0.9, 20, "env.id=worldmodel/PendulumSwingup-v0 training.online.rounds=1", read=late_reward,
    ),
    "pendulum_swingup_pixels": Claim(
        "pendulum swing-up from 64x64 pixels alone: share of the largest reward in the second half of the episodes",
        0.9, 20, "env.id=worldmodel/PendulumSwingup-v0 env.privileged_state=false training.online.rounds=1",
        read=late_reward,
    ),
    "reacher": Claim(
        "two-link reacher from 64x64 pixels: share of the second half of the episodes with the tip inside the target, state as a target",
        0.8, 20, "env.id=worldmodel/Reacher-v0 training.online.rounds=1", read=late_success,
    ),
    "reacher_pixels": Claim(
        "two-link reacher from 64x64 pixels alone: share of the second half of the episodes with the tip inside the target",
        0.8, 20, "env.id=worldmodel/Reacher-v0 env.privileged_state=false training.online.rounds=8", read=late_success,
    ),
    "two_room_goal_image": Claim(
        "two-room maze from 64x64 pixels: share of held-out goal images reached within 4 s, state as a target, from task-free episodes alone",
        0.8, 40, TWO_ROOM, read=success,
    ),
    "two_room_goal_image_pixels": Claim(
        "two-room maze from 64x64 pixels alone: share of held-out goal images reached within 4 s, from task-free episodes alone",
        0.8, 40, f"{TWO_ROOM} env.privileged_state=false", read=success,
    ),
    "pusher_goal_image": Claim(
        "pusher from 64x64 pixels: share of held-out goal images reached within 10 s, state as a target, from task-free episodes alone",
        0.5, 60, PUSHER, read=success,
    ),
    "pusher_goal_image_pixels": Claim(
        "pusher from 64x64 pixels alone: share of held-out goal images reached within 10 s, from task-free episodes alone",
        0.5, 60, f"{PUSHER} env.privileged_state=false", read=success,
    ),
    "halfcheetah_state": Claim(
        "HalfCheetah-v5 from its state vector: return within 30 minutes",
        1500, 30, "env.id=HalfCheetah-v5 env.observation=state training.online.rounds=20 eval.planner_episodes=0",
    ),
    "inverted_pendulum_state": Claim(
        "InvertedPendulum-v5 from its state vector: return (at most 1000) within 30 minutes",
        950, 30, "env.id=InvertedPendulum-v5 env.observation=state training.online.rounds=10 eval.planner_episodes=0",
    ),
    "cartpole_v1_state": Claim(
        "CartPole-v1 (discrete) from its state vector: return (at most 500) within 30 minutes",
        450, 30, "env.id=CartPole-v1 env.observation=state training.online.rounds=4 eval.planner_episodes=0",
    ),
    "dmc_cartpole_swingup": Claim(
        "dm_control cartpole-swingup from 64x64 pixels alone, 100,000 env steps: return",
        626, 90, f"env.id=dmc/cartpole-swingup env.action_repeat=4 {DMC_100K} training.online.train_ratio=128 "
        "training.online.rounds=10 training.online.steps=2000 training.optimizer.final_rate=0.5",
    ),
    "dmc_reacher_easy": Claim(
        "dm_control reacher-easy from 64x64 pixels alone, 100,000 env steps: return",
        360, 90, f"env.id=dmc/reacher-easy env.action_repeat=4 {DMC_100K} training.online.train_ratio=64 "
        "training.online.rounds=10 training.online.steps=2000",
    ),
    "dmc_walker_walk": Claim(
        "dm_control walker-walk from 64x64 pixels alone, 100,000 env steps: return",
        464, 120, f"env.id=dmc/walker-walk env.action_repeat=2 {DMC_100K} training.online.train_ratio=32 "
        "training.online.rounds=15 training.online.steps=3000",
    ),
    "cartpole_sentence": Claim(
        "an actor trained in imagination on 'the pole stands upright in the middle': its return as a share of that of the "
        "actor trained on reward",
        0.6, 45, TOKENS, then=("imagine", "instruction=the pole stands upright in the middle"), relative=True,
    ),
    "pendulum_sentence": Claim(
        "an actor trained in imagination on 'the pendulum stands upright': its return as a share of that of the actor "
        "trained on reward",
        0.6, 45, PENDULUM_TOKENS, then=("imagine", "instruction=the pendulum stands upright"), relative=True,
    ),
    "reacher_sentence": Claim(
        "an actor trained in imagination on 'the tip of the arm is on the disk': its return as a share of that of the actor "
        "trained on reward",
        0.6, 45, REACHER_TOKENS, then=("imagine", "instruction=the tip of the arm is on the disk"), relative=True,
    ),
    **{
        f"tabletop_{way}_{name}": Claim(
            f"tabletop pusher, planning towards a {means}: share of held-out layouts in which it {does} within 10 s, "
            "from task-free episodes alone",
            bar, 90, TABLETOP, success, (*TOWARDS[way], f"env.kwargs.kinds=[{kind}]"),
        )
        for way, means, bar in (("goal", "picture of the goal", 0.6), ("sentence", "sentence", 0.5))
        for name, kind, does in (
            ("reach", "reach", "reaches the object"), ("push", "push_to_zone", "pushes the object into the zone"),
        )
    },
}  # fmt: skip


def read_run(claim: Claim, folder: Path, seed: int, minutes: float, then: Path | None = None) -> dict:
    """What one run reached: an entry of `runs` in results/<claim>.json.

    Args:
        folder: of the training run.
        minutes: that all of it took.
        then: the folder that `claim.then` left its eval.json in.
    """
    results = json.loads((folder / "eval.json").read_text())
    further = None if then is None else json.loads((then / "eval.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    value, best = claim.value(results, further)
    reports = [line for line in lines if any("_error_" in key for key in line)]
    profile = folder / "profile.json"
    return {
        "seed": seed,
        "value": value,
        "best": best,
        "minutes": round(minutes, 2),
        "env_steps": lines[-1]["env_steps"],
        "policies": _summary(further or results),
        **({} if further is None else {"trained": _summary(results)}),
        "curve": [
            {"minutes": round(line["seconds"] / 60, 3), "env_steps": line["env_steps"], "return": line["validation_return"]}
            for line in lines
            if "validation_return" in line and further is None
        ],
        "open_loop": {key: value for key, value in reports[-1].items() if "_r2_" in key or "_error_" in key}
        if reports
        else {},
        "seconds": json.loads(profile.read_text())["seconds"] if profile.exists() else {},
    }  # fmt: skip


def _summary(results: dict) -> dict:
    """Every policy of an eval.json, without its single episodes."""
    kept = ("return", "success", "late_success", "late_reward", "decision_ms")
    return {
        name: {key: score[key] for key in kept} | {"episodes": len(score["episodes"])}
        for name, score in results["policies"].items()
    }
