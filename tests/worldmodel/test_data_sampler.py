"""Windows are what the episodes say: aligned, inside one episode, repeatable, and never more in memory than a batch."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.data import EpisodeStore, StoreDamaged, WindowSampler, held_out_episodes, train_episodes
from worldmodel.data.index import Record
from worldmodel.interface import Interface

INTERFACE = Interface(cameras={"image": (1, 2, 3)}, state_dim=2, action_dim=2, privileged_dim=1)
LENGTH = 6


def make_episode(number: int, steps: int, terminated: bool = False) -> dict:
    """Every array tells which episode and which step it is from; steps stay below 256."""
    time = np.arange(steps + 1)
    image = np.zeros((steps + 1, 1, 2, 3), np.uint8)
    image[:, 0, 0], image[:, 0, 1] = number, time[:, None]
    state = np.stack([np.full(steps + 1, number), time], axis=1).astype(np.float32)
    action = np.stack([np.full(steps, number), time[:-1] + 1], axis=1).astype(np.float32) / 256
    return {
        "image": image,
        "state": state,
        "privileged": -state[:, 1:],
        "action": action,
        "reward": state[:-1, 1] + 1000 * number,
        "terminated": terminated,
        "truncated": not terminated,
    }


def make_store(folder: Path, lengths: list[int], **options) -> EpisodeStore:
    store = EpisodeStore.create(folder, INTERFACE, **options)
    for number, steps in enumerate(lengths):
        store.append(make_episode(number, steps, terminated=number % 2 == 0))
    return store


def index_lines(folder: Path) -> list[bytes]:
    return [line.split(b" ", 1)[1] for line in (folder / "index.jsonl").read_bytes().splitlines()]


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def store(tmp_path):
    lengths = [int(length) for length in np.random.default_rng(0).integers(1, 20, 45)]
    with make_store(tmp_path / "data", lengths, shard_bytes=2000) as store:  # some thirty shards
        yield store


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_window_is_aligned_and_stays_in_its_episode(store, split):
    batch = WindowSampler(store, LENGTH, 500, seed=0, split=split).sample()
    allowed = {"train": train_episodes, "held_out": held_out_episodes}[split](store)
    assert set(batch["episode"].tolist()) <= set(allowed)
    for row in range(500):
        number, start = int(batch["episode"][row]), int(batch["start"][row])
        episode = make_episode(number, int(store.lengths[number]), terminated=number % 2 == 0)
        total = len(episode["action"])
        steps = min(LENGTH, total - start)
        assert steps == LENGTH or start == 0, "only an episode shorter than the window is padded"
        observed = np.minimum(np.arange(start, start + LENGTH + 1), total)  # padding repeats the last observation
        for key in ("image", "state", "privileged"):
            np.testing.assert_array_equal(batch[key][row], episode[key][observed], err_msg=key)
        padding = [[0, 0]] * (LENGTH - steps)
        np.testing.assert_array_equal(batch["action"][row], [*episode["action"][start : start + steps], *padding])
        np.testing.assert_array_equal(batch["reward"][row, :steps], episode["reward"][start : start + steps])
        assert not batch["reward"][row, steps:].any()
        led_here = np.concatenate([np.zeros((1, 2)), episode["action"]])[start : start + steps + 1]
        np.testing.assert_array_equal(batch["previous_action"][row], [*led_here, *padding])
        np.testing.assert_array_equal(batch["valid"][row], np.arange(LENGTH) < steps)
        ends = np.zeros(LENGTH)
        ends[steps - 1] = episode["terminated"] and start + steps == total
        np.testing.assert_array_equal(batch["terminated"][row], ends)


def test_shapes_and_dtypes_are_those_of_the_contract(store):
    batch = WindowSampler(store, LENGTH, 3, seed=0).sample()
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "image": ((3, 7, 1, 2, 3), torch.uint8),
        "state": ((3, 7, 2), torch.float32),
        "privileged": ((3, 7, 1), torch.float32),
        "action": ((3, 6, 2), torch.float32),
        "previous_action": ((3, 7, 2), torch.float32),
        "reward": ((3, 6), torch.float32),
        "terminated": ((3, 6), torch.float32),
        "valid": ((3, 6), torch.float32),
        "episode": ((3,), torch.int64),
        "start": ((3,), torch.int64),
        "recent": ((3,), torch.bool),
    }
    assert all(value.is_contiguous() for value in batch.values())
    assert len(WindowSampler(store, LENGTH, 3, seed=0).sample(8)["reward"]) == 8


@pytest.mark.parametrize(
    "interface",
    [
        Interface(state_dim=3, action_dim=1),
        Interface(cameras={"image.a": (2, 2, 3), "image.b": (1, 1, 3)}, action_dim=1),
    ],
)
def test_any_interface_is_sampled_by_its_keys(tmp_path, interface):
    episode = {key: np.full((9, *shape), 7, np.uint8) for key, shape in interface.cameras.items()}
    if interface.state_dim:
        episode["state"] = np.ones((9, 3), np.float32)
    episode |= {
        "action": np.zeros((8, 1), np.float32),
        "reward": np.zeros(8, np.float32),
        "terminated": False,
        "truncated": True,
    }
    with EpisodeStore.create(tmp_path / "data", interface) as store:
        store.append(episode)
        batch = WindowSampler(store, 4, 2, seed=0).sample()
    assert set(interface.observation_keys()) == set(batch) - {
        "action",
        "previous_action",
        "reward",
        "terminated",
        "valid",
        "episode",
        "start",
        "recent",
    }
    for key, shape in interface.cameras.items():
        assert batch[key].shape == (2, 5, *shape) and (batch[key] == 7).all()


def test_the_same_seed_draws_the_same_windows_and_another_seed_others(store):
    first, again, other = (WindowSampler(store, LENGTH, 16, seed=seed) for seed in (1, 1, 2))
    for _ in range(3):
        batch = first.sample()
        assert equal(batch, again.sample()) and not equal(batch, other.sample())


def test_a_sampler_goes_on_from_its_saved_state(store, tmp_path):
    sampler = WindowSampler(store, LENGTH, 16, seed=1, recent_fraction=0.25, recent_episodes=4)
    sampler.sample(5)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = sampler.sample(), sampler.sample(3)
    reopened = EpisodeStore.open(tmp_path / "data")
    resumed = WindowSampler(reopened, LENGTH, 16, seed=99, recent_fraction=0.25, recent_episodes=4)
    resumed.load_state_dict(state)
    assert equal(resumed.sample(), expected[0]) and equal(resumed.sample(3), expected[1])


def test_long_episodes_weigh_as_their_steps_and_ends_are_seen_like_middles(tmp_path):
    with make_store(tmp_path / "data", [200, 50, 2, 8]) as store:  # the last one is held out
        batch = WindowSampler(store, 10, 60_000, seed=0).sample()
    share = torch.bincount(batch["episode"]).numpy() / 60_000
    np.testing.assert_allclose(share, np.array([200, 50, 2]) / 252, atol=0.01)
    starts = batch["start"][batch["episode"] == 0]
    assert starts.min() == 0 and starts.max() == 190
    seen = sum(torch.bincount(starts + offset, minlength=200) for offset in range(10)).numpy()
    seen = seen / seen[20:180].mean()
    assert 0.4 < seen[0] < 0.7 and 0.4 < seen[-1] < 0.7 and 0.9 < seen[:10].mean() < 1.1
    assert (np.abs(seen[20:180] - 1) < 0.15).all()


def test_recent_rows_come_from_the_newest_episodes(store):
    sampler = WindowSampler(store, LENGTH, 40, seed=0, recent_fraction=0.5, recent_episodes=3)
    newest = train_episodes(store)[-3:]
    batch = sampler.sample()
    assert set(batch["episode"][:20].tolist()) == set(newest)
    assert not set(batch["episode"][20:].tolist()) <= set(newest)
    assert batch["recent"].tolist() == [True] * 20 + [False] * 20


def test_the_oldest_episodes_stay_those_they_were(store):
    oldest = int(store.lengths[:3].sum()) - 1  # the third episode begins before
    sampler = WindowSampler(store, LENGTH, 60, seed=0, oldest_steps=oldest)
    before = set(sampler.sample()["episode"].tolist())
    store.append(make_episode(200, 12))
    assert before == set(sampler.sample()["episode"].tolist()) == {0, 1, 2}


def test_episodes_appended_later_are_drawn(store):
    sampler = WindowSampler(store, LENGTH, 8, seed=0, recent_fraction=1.0, recent_episodes=1)
    sampler.sample()
    added = store.append(make_episode(200, 12))
    assert set(sampler.sample()["episode"].tolist()) == {added}
    store.truncate(10)
    assert sampler.sample()["episode"].max() < 10


def test_the_split_holds_out_every_twentieth_and_never_trains_on_it(tmp_path, store):
    assert held_out_episodes(store) == [19, 39] and len(train_episodes(store)) == 43
    with make_store(tmp_path / "few", [5, 5, 5]) as few:
        assert held_out_episodes(few) == [2] and train_episodes(few) == [0, 1]
    with make_store(tmp_path / "one", [5]) as one:
        assert held_out_episodes(one) == [] and train_episodes(one) == [0]
        sampler = WindowSampler(one, LENGTH, 8, seed=0, split="held_out")
        for _ in range(2):
            with pytest.raises(ValueError, match="none in the split 'held_out'.*worldmodel collect"):
                sampler.sample()


def test_windows_of_a_damaged_shard_are_drawn_again(store, tmp_path):
    path = tmp_path / "data/shards/000004/image.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 255
    path.write_bytes(content)
    damaged = EpisodeStore.open(tmp_path / "data")
    sampler, again = (
        WindowSampler(each, LENGTH, 32, seed=3, recent_fraction=0.5, recent_episodes=40)
        for each in (damaged, EpisodeStore.open(tmp_path / "data"))
    )
    for _ in range(20):
        batch = sampler.sample()
        assert equal(batch, again.sample())
        for row, number in enumerate(batch["episode"].tolist()):
            assert (batch["image"][row, :, 0, 0] == number).all() and (batch["state"][row, :, 0] == number).all()
    assert len(damaged.problems) == 1 and str(path) in damaged.problems[0]
    lost = {
        index for index, record in enumerate(map(json.loads, index_lines(tmp_path / "data"))) if record["shard"] == 4
    }
    assert lost
    for _ in range(20):
        assert not lost & set(sampler.sample()["episode"].tolist())


def test_older_episodes_stand_in_where_all_recent_ones_are_damaged(tmp_path):
    make_store(tmp_path / "data", [5] * 20, shard_bytes=1).close()  # a shard each
    path = tmp_path / "data/shards/000018/values.bin"  # the newest but one: the newest is held out
    path.write_bytes(bytes(path.stat().st_size))
    store = EpisodeStore.open(tmp_path / "data")
    batch = WindowSampler(store, LENGTH, 8, seed=0, recent_fraction=0.5, recent_episodes=1).sample()
    assert 18 not in batch["episode"].tolist() and len(store.problems) == 1


def test_a_store_with_nothing_left_to_read_says_why(tmp_path):
    make_store(tmp_path / "data", [5, 5]).close()
    path = tmp_path / "data/shards/000000/values.bin"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(StoreDamaged, match="damaged shards: .*values.bin"):
        WindowSampler(EpisodeStore.open(tmp_path / "data"), LENGTH, 8, seed=0).sample()


def test_wrong_arguments_are_named(store):
    for arguments, message in (
        ({"split": "test"}, "held_out"),
        ({"recent_fraction": 0.5}, "recent_episodes > 0"),
        ({"recent_fraction": 1.5, "recent_episodes": 1}, "must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            WindowSampler(store, LENGTH, 8, seed=0, **arguments)
    with pytest.raises(ValueError, match="at least one"):
        WindowSampler(store, 0, 8, seed=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for this process's own memory")
def test_two_million_frames_need_the_memory_of_a_batch(tmp_path):
    """25 GB of black frames in files with holes: real shards, a real index, nothing on the disk."""

    def private_mb() -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    interface = Interface(cameras={"image": (64, 64, 3)})
    with EpisodeStore.create(tmp_path / "data", interface) as store:
        image, values = np.zeros((101, 64, 64, 3), np.uint8), np.zeros((101, 2), np.float32)
        crc = {"image": zlib.crc32(image), "values": zlib.crc32(values)}
        del image
        per_shard = 200
        lines = [
            Record(number, number // per_shard, number % per_shard * 101, 100, False, True, (0.0, 0.0), crc)
            for number in range(100 * per_shard)
        ]
    (tmp_path / "data/index.jsonl").write_bytes(b"".join(record.to_line() for record in lines))
    for shard in range(100):
        folder = tmp_path / f"data/shards/{shard:06d}"
        folder.mkdir()
        for table, row_bytes in (("image", 64 * 64 * 3), ("values", 8)):
            with open(folder / f"{table}.bin", "wb") as file:
                file.truncate(per_shard * 101 * row_bytes)

    before, handles = private_mb(), len(os.listdir("/proc/self/fd"))
    store = EpisodeStore.open(tmp_path / "data")
    sampler = WindowSampler(store, 16, 16, seed=0)
    shards_seen = set()
    for _ in range(12):
        shards_seen |= {int(episode) // per_shard for episode in sampler.sample()["episode"]}
    assert store.frames == 2_020_000 and store.problems == [] and len(shards_seen) > 64
    assert private_mb() - before < 60
    assert len(os.listdir("/proc/self/fd")) - handles <= 2 * 64
