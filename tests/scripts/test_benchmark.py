"""What the benchmark measures, in small: that all of it runs and means what it says; its figures are for an idle machine."""

from __future__ import annotations

import pytest

from scripts import benchmark
from worldmodel.vision_language.semantics import Semantics


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmark, "RUNS", 2)
    monkeypatch.setattr(benchmark, "EPISODES", 200)


def test_the_table_gives_frames_with_both_tools(quick, monkeypatch):
    import envs.benchmark

    measure, made = envs.benchmark.measure_stepping, []

    def shortly(id, runs, **options):
        made.append(options["kwargs"]["embodiment"])
        return measure(id, runs, seconds=0.1, **options)

    monkeypatch.setattr(envs.benchmark, "measure_stepping", shortly)
    found = list(benchmark.tabletop())
    assert [key for key, *_ in found] == ["tabletop_pusher", "tabletop_gripper"] and made == ["pusher", "gripper"]
    for _, claim, values, bar, higher, _ in found:
        assert "per core-second" in claim and len(values) == 2 and min(values) > 20 and bar == 1000 and higher


def test_training_with_semantic_tokens_is_timed_beside_training_without(quick, monkeypatch):
    agents, make = [], benchmark.untrained_agent

    def small(*overrides, **more):
        agents.append(make("preset=debug", *overrides, **more))
        return agents[-1]

    def never(*_):
        raise AssertionError("training encodes pictures that are in the cache")

    monkeypatch.setattr(benchmark, "untrained_agent", small)
    monkeypatch.setattr(Semantics, "tokens", never)
    ((key, claim, ratios, bar, higher, more),) = benchmark.semantic_tokens()
    assert [agent.model.semantics is not None for agent in agents] == [False, True]
    rates = more["updates_per_second"]
    assert ratios == [w / o for w, o in zip(rates["embedded"], rates["off"], strict=True)] and len(ratios) == 2
    assert (key, bar, higher) == ("semantic_tokens", 0.667, True) and "share of those without" in claim
