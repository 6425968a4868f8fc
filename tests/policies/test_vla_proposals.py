"""The policy proposes, the world model imagines, the objective chooses."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_agent import PLANNER, agent_for
from vla_parts import HANG, INTERFACE, PUSH, SIZE, make_agent

from policies.objectives import source_of
from policies.planners import PlanningError
from policies.policy import Policy
from policies.vla import ChunkPolicy, ProposePolicy
from policies.vla.proposals import load_world_model
from worldmodel.checkpoint import save_checkpoint
from worldmodel.imagination import imagine


class First:
    """Stands for a judge that likes plans by the first number of their first action; keeps what it was shown."""

    compile = False

    def __init__(self, worth=lambda actions: actions[..., 0, 0]):
        self.worth, self.shown, self.told = worth, [], []

    def objective(self, observation):
        self.told.append(observation["instruction"].tolist())

    def score(self, memory, objective, actions):
        assert len(memory.latent) == len(actions)
        self.shown.append(actions.clone())
        return self.worth(actions)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    return make_agent(tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def discrete(tmp_path_factory):
    return make_agent(tmp_path_factory.mktemp("discrete"), "discrete", bins=16)


@pytest.fixture(scope="module")
def world():
    return agent_for(INTERFACE)


def see(step: int, rows: int = 2) -> dict:
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8),
        "state": rng.normal(size=(rows, 3)).astype(np.float32),
        "instruction": np.array([PUSH, HANG][:rows], object),
    }


def run(policy, steps: int = 5, restart=None) -> np.ndarray:
    """Actions `[steps, B, A]`; with `restart`, the second row begins anew at that step."""
    policy.reset(see(0))
    actions = []
    for step in range(steps):
        if step == restart:
            policy.reset(see(step), np.array([False, True]))
        actions.append(policy.act(see(step)))
    return np.stack(actions)


def judged(policy, judge) -> ProposePolicy:
    policy.inside.judge = judge
    return policy


@pytest.mark.parametrize("head", ["flow", "discrete"])
def test_without_imagination_it_is_the_policy_alone(request, head):
    agent = request.getfixturevalue(head)
    alone = ChunkPolicy(agent=agent, seed=3, n_action_steps=2, ensemble=0.1)
    unplanned = ProposePolicy(agent=agent, seed=3, n_action_steps=2, ensemble=0.1, planning=0)
    assert isinstance(unplanned, Policy) and unplanned.inside is None
    np.testing.assert_array_equal(run(unplanned), run(alone))
    assert unplanned.report().keys() == alone.report().keys()


@pytest.mark.parametrize("head", ["flow", "discrete"])
def test_of_one_proposal_that_one_is_the_best(request, head, world):
    agent = request.getfixturevalue(head)
    alone = ChunkPolicy(agent=agent, seed=3, n_action_steps=2)
    one = ProposePolicy(agent=agent, seed=3, n_action_steps=2, world_model=world, proposals=1)
    np.testing.assert_array_equal(run(one, restart=3), run(alone, restart=3))
    assert one.report()["changed"] == 0.0 and one.report()["imagined_gain"] == 0.0


@pytest.mark.parametrize("head", ["flow", "discrete"])
def test_the_best_proposal_of_each_row_is_executed(request, head, world):
    agent, judge = request.getfixturevalue(head), First()
    policy = judged(ProposePolicy(agent=agent, n_action_steps=4, world_model=world, proposals=6), judge)
    actions = run(policy, 4)
    (shown,) = judge.shown
    assert shown.shape == (2, 6, 4, 2) and len(shown[0].flatten(1).unique(dim=0)) > 1
    best = shown[torch.arange(2), shown[:, :, 0, 0].argmax(1)]
    np.testing.assert_array_equal(actions.transpose(1, 0, 2), best.numpy())
    report = policy.report()
    expected = (shown[:, :, 0, 0].amax(1) - shown[:, 0, 0, 0]).mean()
    assert report["imagined_gain"] == pytest.approx(float(expected), abs=1e-6) and report["predictions"] == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_that_begin_anew_are_judged_on_their_own_and_by_their_own_sentence(flow, world, compiled):
    judge, acted = First(), []
    for judge.compile in (False, compiled):
        judge.told.clear(), judge.shown.clear()
        policy = ProposePolicy(agent=flow, n_action_steps=4, world_model=world, proposals=3)
        acted.append(run(judged(policy, judge), 5, restart=2))
    rows = 2 if compiled else 1  # a compiled step is made for one number of rows: those that are due are repeated
    assert judge.told == [[PUSH, HANG]] * 3 + [[HANG] * rows, [PUSH] * rows]  # at both resets and for every chunk
    assert [len(shown) for shown in judge.shown] == [2, rows, rows]
    assert policy.report()["predictions"] == 3 and len(policy.changed) == 4
    np.testing.assert_array_equal(*acted)


def test_planning_goes_on_from_the_best_proposal(flow, world):
    target = torch.tensor([0.7, -0.4])
    judge = First(lambda actions: -(actions - target).square().sum((-1, -2)))
    options = PLANNER | {"samples": 64, "elites": 8, "horizon": 3}
    reached = {}
    for planning in (1, 3, 6):
        judge.shown.clear()
        policy = ProposePolicy(
            agent=flow, n_action_steps=4, world_model=world, proposals=5, planning=planning, planner=options
        )
        actions = run(judged(policy, judge), 4)
        reached[planning] = -np.square(actions[:3] - target.numpy()).sum((0, 2))
        proposed = judge.shown[0]
        assert proposed.shape == (2, 5, 3, 2)  # as many steps as planner.horizon says
        if planning > 1:
            first = judge.shown[1]
            best = proposed[torch.arange(2), judge.worth(proposed).argmax(1)]
            assert torch.equal(first[:, 0], best) and torch.equal(first[:, 1:6], proposed)
    assert (reached[1] <= reached[3]).all() and (reached[3] < reached[6]).all() and reached[6].min() > -0.5
    assert policy.report()["imagined_gain"] > 0 and policy.report()["changed"] == 1.0


def test_a_real_world_model_follows_what_was_executed_and_repeats_itself(flow, world):
    options = {"agent": flow, "n_action_steps": 3, "world_model": world, "proposals": 4, "planning": 2}
    policies = [ProposePolicy(seed=seed, **options) for seed in (0, 0, 1)]
    acted = [run(policy, 5, restart=3) for policy in policies]
    np.testing.assert_array_equal(acted[0], acted[1])
    assert not np.array_equal(acted[0], acted[2])
    believed = agent_for(INTERFACE).policy("actor")
    believed.reset(see(0))
    for step in range(5):
        if step == 3:
            believed.reset(see(3), np.array([False, True]))
        believed.see(see(step))
        believed.previous = torch.from_numpy(acted[0][step])
    torch.testing.assert_close(believed.memory.belief, policies[0].inside.memory.belief, atol=1e-5, rtol=1e-5)


def test_a_penalty_on_disagreement_chooses_what_the_heads_agree_about(flow, world):
    objective = {"name": "reward", "disagreement_penalty": 1e6}
    policy = ProposePolicy(agent=flow, n_action_steps=4, world_model=world, proposals=6, objective=objective)
    actions = run(policy, 1)[0]
    proposed = flow.propose(see(0), [PUSH, HANG], 6, torch.Generator().manual_seed(0))
    with torch.no_grad():
        dream = imagine(world.model, policy.inside.memory, proposed.flatten(0, 1), 4, 6)
    reached = (world.behavior.config.discount * dream.continues).cumprod(1)
    weights = torch.cat([torch.ones_like(reached[:, :1]), reached[:, :-1]], 1)
    best = (weights * dream.disagreement).sum(1).view(2, 6).argmin(1)
    np.testing.assert_allclose(actions, proposed[torch.arange(2), best, 0].numpy(), atol=1e-6)


def test_other_objectives_can_be_penalised_too(world, monkeypatch):
    asked = SimpleNamespace(objective=lambda observation: "the sentence")
    monkeypatch.setattr("policies.objectives.Sentences", lambda agent, text: asked)
    assert source_of(world, {"name": "instruction"}) is asked
    penalised = source_of(world, {"name": "instruction", "disagreement_penalty": 2.0}).objective({})
    assert (penalised.objective, penalised.penalty) == ("the sentence", 2.0)


def test_a_world_model_of_another_env_is_refused(flow, tmp_path):
    for change, told in (
        ({"cameras": {"image": (16, 16, 3)}}, "cameras"),
        ({"action_dim": 3}, "action_dim 2 of the policy and 3 of the world model"),
        ({"action_repeat": 2}, "action_repeat 1 of the policy and 2"),
    ):
        with pytest.raises(ValueError, match=f"different envs: {told}"):
            ProposePolicy(agent=flow, world_model=agent_for(dataclasses.replace(INTERFACE, **change)))
    one, two = (
        agent_for(INTERFACE),
        dataclasses.replace(flow, config=flow.config | {"env": {"id": "worldmodel/Pusher-v0"}}),
    )
    one.config = one.config | {"env": {"id": "worldmodel/Reacher-v0"}}
    with pytest.raises(ValueError, match=r"env.id worldmodel/Pusher-v0 of the policy and worldmodel/Reacher-v0"):
        ProposePolicy(agent=two, world_model=one)
    save_checkpoint(tmp_path / "checkpoints" / "1", {}, {}, {"kind": "vla"})
    with pytest.raises(ValueError, match="holds a vision-language-action policy"):
        load_world_model(tmp_path)


def test_mistakes_are_told(flow, world):
    for options, told in (
        ({}, "give policy.world_model"),
        ({"planning": -1}, "policy.planning=-1"),
        ({"proposals": 0}, "policy.proposals=0"),
        ({"temperature": -1.0}, "policy.temperature=-1"),
        ({"world_model": world, "planner": PLANNER | {"horizon": 9}}, "chunks have 4 actions"),
        ({"world_model": world, "planning": 2, "proposals": 16}, "16 proposals and the last plan do not fit"),
        ({"world_model": world, "objective": {"name": "instruction"}}, "semantic tokens"),
    ):
        with pytest.raises(ValueError, match=told):
            ProposePolicy(agent=flow, **options)
    nothing = judged(
        ProposePolicy(agent=flow, world_model=world), First(lambda actions: actions[..., 0, 0] * torch.nan)
    )
    with pytest.raises(PlanningError, match="every candidate of row 0, 1"):
        run(nothing)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_discrete_proposals_are_the_likeliest_chunk_and_draws_from_what_was_learned(discrete, temperature):
    head, tokens = discrete.model.head, torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(0))
    logits = head.logits(tokens)
    chunks = head.propose(tokens, 4001, torch.Generator().manual_seed(0), temperature)
    assert chunks.shape == (3, 4001, 4, 2)
    torch.testing.assert_close(chunks[:, 0], head.decode(logits.argmax(-1)))
    if temperature == 0.0:
        assert torch.equal(chunks, chunks[:, :1].expand_as(chunks))
        return
    frequency = torch.nn.functional.one_hot(head.encode(chunks[:, 1:]), 16).float().mean(1)
    torch.testing.assert_close(frequency, logits.softmax(-1), atol=0.04, rtol=0)
