"""Goal images: from task-free episodes to distances, plans, a score and a video."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fork_server import Started

import envs
from policies.evaluate import evaluate
from policies.goal_value import GoalValue, GoalValueConfig
from policies.policy import Observation
from policies.video import record_goals

TASKS = ["Reacher", "TwoRoom", "Pusher"]


@pytest.mark.parametrize("task", TASKS)
def test_the_goal_image_is_the_solved_task_of_the_same_seed(task):
    env = envs.make(f"worldmodel/{task}-v0", kwargs={"render_goal": False}, goal_image=True)
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        assert not info["success"]
        place = env.unwrapped.goal.copy()
        assert observation["goal"].shape == observation["image"].shape
        assert (observation["goal"] != observation["image"]).any()
        after, _, _, _, _ = env.step(env.action_space.sample())
        np.testing.assert_array_equal(after["goal"], observation["goal"])  # the same through the episode
        solved, info = env.reset(seed=seed, options={"solved": True})
        assert info["success"]
        np.testing.assert_array_equal(env.unwrapped.goal, place)
        np.testing.assert_array_equal(solved["image"], observation["goal"])
    assert env.observation_space.contains(solved)
    assert list(env.interface["cameras"]) == ["image"]  # the world model does not see the goal
    env.close()


def test_an_env_without_goals_says_what_it_lacks():
    with pytest.raises(ValueError, match="starts_solved"):
        envs.make("worldmodel/CartpoleSwingup-v0", goal_image=True)


def test_distances_on_a_ring_are_the_shorter_way_round():
    """Thirty places on a circle, walked at random: the way from one to another is stitched from pieces of many walks."""
    places, generator = 30, torch.Generator().manual_seed(0)
    angle = torch.arange(places) * 2 * np.pi / places
    latent = torch.stack([angle.cos(), angle.sin()], -1)
    config = GoalValueConfig(transitions=256, width=64, discount=0.95, target_rate=0.02)
    value = GoalValue(2, config)
    optimizer = torch.optim.Adam(value.parameters(), 2e-3)
    for _ in range(1500):
        here = torch.randint(places, (256,), generator=generator)
        step = torch.randint(0, 2, (256,), generator=generator) * 2 - 1
        goal = torch.randint(places, (256,), generator=generator)
        goal = torch.where(torch.rand(256, generator=generator) < 0.1, here, goal)
        scalars = value(latent[here], latent[(here + step) % places], latent[goal], (goal == here).float())
        optimizer.zero_grad()
        scalars["loss"].backward()
        optimizer.step()
        value.update_target()
    with torch.no_grad():
        found = value.distance(latent[:, None, None], latent[None, :, None])  # [30, 30]: N is 1
    steps = (torch.arange(places)[:, None] - torch.arange(places)).abs()
    steps = torch.minimum(steps, places - steps).float()
    true = (1 - config.discount**steps) / (1 - config.discount)
    correlation = np.corrcoef(found.flatten().numpy(), true.flatten().numpy())[0, 1]
    assert correlation > 0.97
    assert found.diagonal().max() < 1.0
    assert (found >= 0).all()


class Towards:
    """Drives TwoRoom's ball by reading the state: through the door, to the goal."""

    def reset(self, observation: Observation, mask=None) -> None: ...

    def act(self, observation: Observation) -> np.ndarray:
        state = observation["state"]
        ball, goal = state[:, :2], state[:, 4:]
        door = np.array([0.0, 0.4])
        beside = (np.abs(ball[:, 1:] - 0.4) > 0.1) & (np.abs(ball[:, :1]) < 0.25)
        target = np.where(ball[:, :1] * goal[:, :1] >= 0, goal, np.where(beside, [[0, 0.4]] + ball * [[1, 0]], door))
        target = np.where((np.abs(ball[:, :1]) < 0.15) & ~beside, goal * [[1, 0]] + [[0, 0.4]], target)
        return np.clip(5 * (target - ball), -1, 1).astype(np.float32)


def test_solved_starts_are_passed_over_and_success_is_timed(tmp_path):
    options = {"id": "worldmodel/TwoRoom-v0", "observation": "both", "goal_image": True}
    filmed = []
    result = evaluate(
        {"towards": Towards()},
        lambda count: envs.make_vector(count, **options),
        episodes=4, envs=2, unsolved=True, on_episode=lambda _, episode: filmed.append(episode),
    )  # fmt: skip
    score = result["policies"]["towards"]
    assert score["success"]["rate"] == 1.0 and score["late_success"] > 0.9
    assert all(20 < record["success_step"] < 125 for record in score["episodes"])
    path = record_goals(filmed, tmp_path / "goals.mp4", fps=25)
    assert path.stat().st_size > 5000


class HalfSolved:
    """A vector env of one row whose every second seed starts solved."""

    def reset(self, seeds):
        return {}, {"success": np.array([seeds[0] % 2 == 0])}

    def close(self): ...


def test_seeds_that_start_solved_are_not_evaluated():
    from itertools import islice

    from policies.evaluate import _seeds

    assert list(islice(_seeds(lambda count: HalfSolved(), 10, True), 3)) == [11, 13, 15]
    assert list(islice(_seeds(lambda count: HalfSolved(), 10, False), 3)) == [10, 11, 12]


@pytest.mark.timeout(240)
def test_from_task_free_episodes_to_a_planner_that_pursues_goal_images(tmp_path):
    """By the commands that a user types; and a picture file as the goal of all episodes."""

    def worldmodel(verb: str, *arguments: str) -> None:
        code, out, errors = Started("-m", f"scripts.{verb}", *arguments).wait()
        assert code == 0, out + errors

    data, folder = tmp_path / "episodes", tmp_path / "run"
    small = ["env.id=worldmodel/TwoRoom-v0", "env.kwargs.render_goal=false", "env.image_size=32"]
    worldmodel("collect", f"data={data}", *small, "collect.steps=600", "collect.max_steps=30")
    worldmodel(
        "train", f"data={data}", f"run={folder}", "preset=debug", "objective=goal_image", "goal_value.updates=60",
        "training.pretrain.updates=30", "eval.max_steps=12", "logging.wandb=disabled",
    )  # fmt: skip
    results = json.loads((folder / "eval.json").read_text())
    assert set(results["policies"]) == {"planner", "random", "hold_still"}
    assert (folder / "videos" / "goals.mp4").exists()
    config = results["context"]["config"]
    assert config["model"]["losses"]["reward"] == 0 and config["env"]["goal_image"]
    worldmodel("evaluate", f"from={folder / 'eval.json'}", f"run={tmp_path / 'again'}")  # exit code 0: it agrees

    env = envs.make("worldmodel/TwoRoom-v0", image_size=32)
    from policies.video import write_png

    write_png(tmp_path / "goal.png", env.reset(seed=3, options={"solved": True})[0]["image"])
    worldmodel(
        "evaluate", f"checkpoint={folder}", "policy=planner", "objective=goal_image", f"objective.image={tmp_path / 'goal.png'}",
        f"run={tmp_path / 'file'}", "eval.max_steps=5", "eval.baselines=[]",
    )  # fmt: skip
