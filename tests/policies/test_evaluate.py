"""An evaluation can be run again, and says whether the second run agrees."""

import copy
import io
import json

import numpy as np
import pytest
from rich.console import Console

import envs
from policies.evaluate import compare, evaluate, format_table
from worldmodel.provenance import write_json


class Noise:
    """Random actions from a seed of its own."""

    def __init__(self, seed, action_dim=1):
        self.seed, self.action_dim = seed, action_dim

    def reset(self, observation, mask=None):
        self.rows = len(next(iter(observation.values())))
        if mask is None or mask.all():
            self.generator = np.random.default_rng(self.seed)

    def act(self, observation):
        return self.generator.uniform(-1, 1, (self.rows, self.action_dim)).astype(np.float32)


class Still:
    """Never does anything."""

    def reset(self, observation, mask=None):
        self.rows = len(observation["image"])

    def act(self, observation):
        return np.zeros((self.rows, 1), np.float32)


def make_cartpole(count):
    return envs.make_vector(count, id="worldmodel/CartpoleSwingup-v0", image_size=16)


def run(**options):
    options = {"episodes": 4, "envs": 3, "max_steps": 30, **options}
    return evaluate({"random": Noise(1), "hold_still": Still()}, make_cartpole, **options)


@pytest.fixture(scope="module")
def results():
    return run(context={"command": "worldmodel evaluate", "config": {"seed": 0}})


def test_every_policy_meets_the_same_seeds(results):
    for score in results["policies"].values():
        assert [episode["seed"] for episode in score["episodes"]] == [10000, 10001, 10002, 10003]
        assert all(episode["length"] == 30 for episode in score["episodes"])


def test_the_result_holds_what_a_stranger_needs(results, tmp_path):
    read = json.loads(write_json(tmp_path / "eval.json", results).read_text())
    score = read["policies"]["random"]
    assert score["return"]["mean"] == pytest.approx(np.mean([episode["return"] for episode in score["episodes"]]))
    assert score["return"]["low"] <= score["return"]["mean"] <= score["return"]["high"]
    assert score["success"] is None or 0 <= score["success"]["rate"] <= 1
    assert read["best"] in read["policies"]
    assert read["context"]["config"] == {"seed": 0}
    assert read["versions"]["torch"] and read["machine"]["cpu"] and "hash" in read["commit"] and read["seconds"] > 0


def test_the_same_run_again_is_identical(results, tmp_path):
    read = json.loads(write_json(tmp_path / "eval.json", results).read_text())
    report = compare(read, run())
    assert report["agrees"] and report["identical"]
    assert report["message"].startswith("agrees: every episode")


def test_another_noise_agrees_within_the_interval_or_is_told_apart(results):
    shifted = copy.deepcopy(results)
    for episode in shifted["policies"]["random"]["episodes"]:
        episode["return"] += 1e-6
    report = compare(results, shifted)
    assert report["agrees"] and not report["identical"]
    assert report["policies"]["random"]["verdict"] == "within the interval"
    assert report["policies"]["hold_still"]["verdict"] == "identical"

    for end in shifted["policies"]["random"]["return"]:
        shifted["policies"]["random"]["return"][end] += 500
    report = compare(results, shifted)
    assert not report["agrees"]
    assert report["policies"]["random"]["verdict"] == "different"
    assert "random" in report["message"]


def test_a_comparison_names_what_changed_and_what_is_missing(results):
    other = copy.deepcopy(results)
    other["versions"]["torch"] = "1.0"
    del other["policies"]["hold_still"]
    report = compare(results, other)
    assert any(change.startswith("torch ") and change.endswith("-> 1.0") for change in report["changed"])
    assert not report["agrees"] and report["policies"]["hold_still"]["verdict"] == "missing"


def test_one_episode_has_no_interval(tmp_path):
    single = run(episodes=1)
    read = json.loads(write_json(tmp_path / "eval.json", single).read_text())
    assert read["policies"]["random"]["return"]["low"] is None
    assert compare(read, single)["identical"]


def test_seeds_of_training_are_refused():
    with pytest.raises(ValueError, match="eval.seed=5 .*eval.seed=10000"):
        evaluate({"hold_still": Still()}, make_cartpole, seed=5)


def test_episodes_are_handed_out_in_the_order_of_their_seeds():
    seen = []
    run(on_episode=lambda name, episode: seen.append((name, episode["info"]["seed"], episode["image"].shape)))
    expected = [(name, seed, (31, 16, 16, 3)) for name in ("random", "hold_still") for seed in range(10000, 10004)]
    assert seen == expected


def test_an_env_without_pictures_and_with_choices_is_evaluated():
    def make(count):
        return envs.make_vector(count, id="Acrobot-v1", observation="state")

    result = evaluate({"random": Noise(0, action_dim=3)}, make, episodes=2, max_steps=20)
    assert result["policies"]["random"]["return"]["mean"] == -20


def test_the_table_shows_every_policy_and_every_path_whole(results):
    path = "outputs/2026-01-01/" + 30 * "a_long_name_" + "/eval.json"
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(format_table(results, {"results": path}))
    text = console.export_text()
    assert "random" in text and "hold_still" in text and "95% interval" in text
    assert path in "".join(line.strip() for line in text.splitlines()).replace(" ", "")
