"""Sentences as objectives: scored on imagined semantic tokens, row by row, from the observation or the config."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_agent import MODEL, PLANNER
from tiny_encoder import SENTENCES, make_tiny_encoder

import envs
from policies.agent import Agent, PlannerPolicy
from policies.planners.objective import SentenceObjective
from policies.rollout import rollout
from worldmodel import Interface


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"))


def agent_for(encoder, **env) -> Agent:
    env = envs.make("worldmodel/CartpoleSwingup-v0", image_size=16, **env)
    interface = Interface(**env.interface)
    env.close()
    torch.manual_seed(0)
    looks = {"vision_language": {"name": str(encoder)}} if encoder else {}
    agent = Agent.new(interface, {"model": MODEL, "behavior": {"width": 32}, "planner": PLANNER, **looks})
    agent.model.eval()
    return agent


def test_the_score_is_the_mean_cosine_of_the_imagined_frames():
    tokens = torch.nn.functional.normalize(torch.randn(6, 4, 2, 8), dim=-1)  # 3 candidates of 2 rows, 2 tokens a frame
    text = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
    objective = SentenceObjective(text, lambda latents: latents, tokens=[0])
    score = objective(SimpleNamespace(latents=tokens))
    expected = torch.stack([(tokens[r, 1:, 0] @ text[r // 3]).mean() for r in range(6)])
    assert torch.allclose(score, expected, atol=1e-6)
    with pytest.raises(ValueError, match="4 sentences do not fit 6"):
        SentenceObjective(torch.randn(4, 8), lambda latents: latents, [0])(SimpleNamespace(latents=tokens))


def test_every_row_has_its_own_sentence(encoder):
    agent = agent_for(encoder)
    policy = PlannerPolicy(agent=agent, objective={"name": "instruction"})
    pictures = {"image": np.zeros((2, 16, 16, 3), np.uint8)}
    policy.reset(pictures | {"instruction": np.array(SENTENCES[:2], object)})
    expected = agent.model.semantics.encoder().encode_text(list(SENTENCES[:2]))
    assert torch.allclose(policy.objective.text, expected, atol=1e-6)
    fixed = PlannerPolicy(agent=agent, objective={"name": "instruction", "text": SENTENCES[2]})
    fixed.reset(pictures)
    assert torch.allclose(fixed.objective.text[0], agent.model.semantics.encoder().encode_text([SENTENCES[2]])[0])


def test_what_is_missing_is_said(encoder):
    with pytest.raises(ValueError, match="vision_language=embedded"):
        PlannerPolicy(agent=agent_for(None), objective={"name": "instruction"})
    policy = PlannerPolicy(agent=agent_for(encoder), objective={"name": "instruction"})
    with pytest.raises(ValueError, match="env.instruction=<sentence>"):
        policy.reset({"image": np.zeros((1, 16, 16, 3), np.uint8)})


@pytest.mark.parametrize("workers", [0, 2])
def test_an_instruction_reaches_the_policy_and_the_episode(encoder, workers):
    vector = envs.make_vector(
        2, workers, id="worldmodel/CartpoleSwingup-v0", image_size=16, instruction=SENTENCES[0], max_episode_steps=3
    )
    policy = PlannerPolicy(agent=agent_for(encoder), objective={"name": "instruction"})
    episodes = list(rollout(policy, vector, [1, 2, 3]))
    vector.close()
    assert [episode["info"]["instruction"] for episode in episodes] == [SENTENCES[0]] * 3
    assert all("instruction" not in episode for episode in episodes)


def test_objectives_add_up_by_their_weights(encoder):
    agent = agent_for(encoder)
    pictures = {"image": np.zeros((2, 16, 16, 3), np.uint8), "instruction": np.array(SENTENCES[:2], object)}
    policies = {
        name: PlannerPolicy(agent=agent, objective={"name": name, "weights": weights, "text": None})
        for name, weights in (("reward", {}), ("instruction", {}), ("weighted", {"reward": 0.5, "instruction": 3.0}))
    }
    for policy in policies.values():
        policy.act(pictures)
    actions = torch.rand(2, 5, 4, 1) * 2 - 1
    reward, sentence, both = (policies[name].score(actions) for name in ("reward", "instruction", "weighted"))
    assert torch.allclose(both, 0.5 * reward + 3.0 * sentence, atol=1e-5)
    assert policies["weighted"].propose() is not None and policies["instruction"].propose() is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "fame"}, "not one of reward, goal_image"),
        ({"name": "weighted", "weights": {"reward": 0.0}}, "needs a weight"),
    ],
)
def test_an_objective_that_means_nothing_is_refused(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        PlannerPolicy(agent=agent_for(encoder), objective=options)
