"""The language report tells a policy that follows what it is told from one that does not."""

from __future__ import annotations

import numpy as np
import pytest

import envs
from envs.tabletop.experts import Expert
from envs.tabletop.instructions import parse
from policies.language_report import as_table, language_report


class Told:
    """An expert that sees the scene itself and does what a function makes of the sentence."""

    def __init__(self, env, listen):
        self.env, self.listen = env, listen

    def reset(self, observation, mask=None):
        sentence = self.listen(str(observation["instruction"][0]))
        self.expert = Expert(parse(sentence)) if sentence else None

    def act(self, observation):
        if self.expert is None:
            return np.zeros((1, self.env.action_space.shape[0]), np.float32)
        return self.expert.act(self.env.unwrapped.scene)[None]


@pytest.fixture
def env():
    env = envs.make(
        "worldmodel/Tabletop-v0",
        observation="state",
        kwargs={"kinds": ["reach"], "objects": [2, 2]},
        privileged_state=False,
    )
    yield env
    env.close()


def test_who_listens_has_a_diagonal_in_other_words_too(env):
    report = language_report(Told(env, lambda said: said), env, range(3))
    assert {"reach", "push_to_zone"} <= set(report["success"]["reach"])
    assert report["followed"] >= 0.8 and report["paraphrased"] >= 0.8
    assert report["followed"] > report["else"] + 0.2
    assert report["blank"] <= 0.2  # nothing was asked, and nothing done
    assert "| blank |" in as_table(report) and report["episodes"]["reach"] == 3


def test_who_does_not_listen_has_equal_rows(env):
    env.reset(seed=0)
    thing = env.unwrapped.scene.name(0).definite()
    report = language_report(Told(env, lambda said: f"reach {thing}"), env, [0], max_steps=60)
    reached = {name: row["reach"] for name, row in report["success"].items()}
    assert len(set(reached.values())) == 1


def test_an_env_without_instructions_is_refused():
    env = envs.make("worldmodel/PendulumSwingup-v0", observation="state")
    with pytest.raises(ValueError, match="takes no instructions"):
        language_report(None, env, [0])
    env.close()
