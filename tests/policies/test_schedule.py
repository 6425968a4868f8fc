"""The schedule of a run: what is done, how often, and what random numbers hang on."""

from __future__ import annotations

from policies.scales import reference_steps
from policies.schedule import UPDATES_PER_CHUNK, chunk_seed, round_updates, schedule, with_automatic

TRAINING = {
    "batch_size": 10,
    "window": 10,
    "collect": {"steps": 500},
    "pretrain": {"updates": 250},
    "imagine": {"updates": 30},
    "online": {"rounds": 3, "steps": 200, "train_ratio": 16, "behavior_ratio": 0.5},
}


def amount(chunks, kind):
    return sum(chunk.amount for chunk in chunks if chunk.kind == kind)


def test_train_ratio_is_replayed_over_collected_transitions():
    learn, behave = round_updates(TRAINING)
    assert learn * 10 * 10 / 200 == 16
    assert behave == learn // 2


def test_every_phase_has_its_work_in_small_chunks():
    chunks = schedule(TRAINING, offline=False)
    assert [c.kind for c in chunks[:2]] == ["collect", "learn"]
    assert amount(chunks, "collect") == 500 and amount(chunks, "act") == 600
    assert amount(chunks, "learn") == 250 + 3 * 32 and amount(chunks, "behave") == 30 + 3 * 16
    assert max(c.amount for c in chunks if c.kind in ("learn", "behave")) <= UPDATES_PER_CHUNK
    assert chunks[-1].kind == "validate"


def test_offline_does_the_same_updates_and_touches_no_env_but_to_validate():
    online, offline = schedule(TRAINING, offline=False), schedule(TRAINING, offline=True)
    assert {c.kind for c in offline} == {"learn", "behave", "validate"}
    for kind in ("learn", "behave"):
        assert amount(online, kind) == amount(offline, kind)


def test_chunks_and_processes_have_seeds_of_their_own():
    seeds = {chunk_seed(seed, chunk, rank) for seed in range(3) for chunk in range(50) for rank in range(2)}
    assert len(seeds) == 300
    assert chunk_seed(1, 2, 0) == chunk_seed(1, 2, 0)


def test_null_becomes_what_suits_the_task_and_numbers_stay():
    training = {"collect": {"steps": 500, "policy": {"gentle": None, "reach": 1.3}}, "sigreg_boost": None}
    alone, told = (with_automatic(training, told, to_goals=False) for told in (False, True))
    assert alone["sigreg_boost"] == 10.0 and told["sigreg_boost"] == 1.0
    assert alone["collect"] == {"steps": 500, "policy": {"gentle": 0.25, "reach": 1.3}}
    assert with_automatic(training, False, to_goals=True)["collect"]["policy"]["gentle"] == 0.0
    assert training["collect"]["policy"]["gentle"] is None
    given = {"collect": {"policy": {"gentle": 0.5}}, "sigreg_boost": 3.0}
    assert with_automatic(given, False, to_goals=True) == given


def test_latents_are_standardised_by_the_first_steps_until_these_are_less_than_half_of_all():
    assert [reference_steps(80_000, steps) for steps in (80_000, 110_000, 160_000)] == [80_000] * 3
    assert reference_steps(5_000, 25_000) == 12_500
