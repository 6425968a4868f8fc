"""Episodes come back from disk as they went in, for one writer, many readers and a run that resumes."""

import json
import mmap
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from worldmodel.data import EpisodeStore, StoreDamaged, StoreLocked, held_out_episodes
from worldmodel.interface import Interface

SMALL = Interface(cameras={"image": (2, 2, 3)}, state_dim=2, action_dim=2, privileged_dim=3)
EVERYTHING = Interface(
    cameras={"image.left": (4, 6, 3), "image.right": (2, 2, 3)},
    state_dim=5,
    action_dim=2,
    privileged_dim=3,
    privileged_positions=2,
)
STATE_ONLY = Interface(state_dim=4, action_dim=3, discrete=True)


def make_episode(interface: Interface, steps: int = 3, seed: int = 0, terminated: bool = False) -> dict:
    random = np.random.default_rng(seed)
    episode = {
        key: random.integers(0, 256, (steps + 1, *shape), dtype=np.uint8) for key, shape in interface.cameras.items()
    }
    for key, width in (("state", interface.state_dim), ("privileged", interface.privileged_dim)):
        if width:
            episode[key] = random.normal(size=(steps + 1, width)).astype(np.float32)
    action = random.uniform(-1, 1, (steps, interface.action_dim)).astype(np.float32)
    if interface.discrete:
        action = np.eye(interface.action_dim, dtype=np.float32)[action.argmax(axis=1)]
    return {
        **episode,
        "action": action,
        "reward": random.normal(size=steps).astype(np.float32),
        "terminated": terminated,
        "truncated": not terminated,
        "info": {"seed": seed, "policy": "random"},
    }


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


def three_shards(folder: Path) -> list[dict]:
    """Two episodes in each of three shards."""
    episodes = [make_episode(SMALL, 5, seed) for seed in range(6)]
    with EpisodeStore.create(folder, SMALL, shard_bytes=12 * (12 + 4 * 8)) as store:
        for episode in episodes:
            store.append(episode)
    return episodes


def fill(folder: Path, interface: Interface = SMALL, episodes: int = 3, **options) -> None:
    with EpisodeStore.create(folder, interface, {"env": "test"}, **options) as store:
        for seed in range(episodes):
            store.append(make_episode(interface, 3 + seed % 3, seed))


@pytest.mark.parametrize("interface", [SMALL, EVERYTHING, STATE_ONLY])
def test_an_episode_reads_back_as_it_was_appended(tmp_path, interface):
    episodes = [make_episode(interface, steps, steps, terminated=steps % 2 == 0) for steps in (1, 4, 7)]
    with EpisodeStore.create(tmp_path / "data", interface, {"env": "test"}) as store:
        assert [store.append(episode) for episode in episodes] == [0, 1, 2]
        live = [store.read(index) for index in range(3)]
    store = EpisodeStore.open(tmp_path / "data")
    for index, episode in enumerate(episodes):
        assert_equal(live[index], episode)
        assert_equal(store.read(index), episode)
    assert store.interface == interface and store.meta == {"env": "test"} and store.problems == []
    assert len(store) == 3 and store.steps == 12 and store.frames == 15
    assert store.lengths.tolist() == [1, 4, 7] and [info["seed"] for info in store.infos] == [1, 4, 7]


def test_the_index_says_where_every_episode_lies_and_what_its_pictures_are(tmp_path):
    episodes = three_shards(tmp_path / "data")
    store = EpisodeStore.open(tmp_path / "data")
    entries, image = store.entries, list(store.layout.shapes).index("image")
    assert entries["number"].tolist() == list(range(6)) and entries["length"].tolist() == [5] * 6
    assert entries["shard"].tolist() == [0, 0, 1, 1, 2, 2] and entries["row"].tolist() == [0, 6] * 3
    assert entries["crc"][:, image].tolist() == [zlib.crc32(episode["image"]) for episode in episodes]


def test_part_of_an_episode_has_the_observations_around_its_actions(tmp_path):
    episode = make_episode(SMALL, 6, terminated=True)
    store = EpisodeStore.create(tmp_path / "data", SMALL)
    store.append(episode)
    part = store.read(0, 2, 4)
    np.testing.assert_array_equal(part["image"], episode["image"][2:5])
    np.testing.assert_array_equal(part["action"], episode["action"][2:4])
    assert not part["terminated"] and store.read(0, 2, 6)["terminated"] and store.read(0, 6)["action"].shape == (0, 2)
    with pytest.raises(IndexError, match="steps 3:7 of episode 0, which has 6"):
        store.read(0, 3, 7)
    with pytest.raises(IndexError, match="episode 1"):
        store.read(1)


def test_frames_stay_on_disk_as_read_only_memory_maps(tmp_path):
    fill(tmp_path / "data")
    view = EpisodeStore.open(tmp_path / "data").rows(1)["image"]
    base = view
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap) and base.size() == (tmp_path / "data/shards/000000/image.bin").stat().st_size
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0


def test_rows_can_be_read_by_other_programs_from_the_header_alone(tmp_path):
    fill(tmp_path / "data")
    header = json.loads((tmp_path / "data/store.json").read_bytes())
    table, (start, stop) = header["tables"]["values"], header["values_columns"]["action"]
    rows = np.fromfile(tmp_path / "data/shards/000000/values.bin", table["dtype"]).reshape(-1, *table["row_shape"])
    np.testing.assert_array_equal(rows[:3, start:stop], make_episode(SMALL, 3, 0)["action"])


def test_one_writer_and_readers_that_follow_it(tmp_path):
    with EpisodeStore.create(tmp_path / "data", SMALL) as writer:
        with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
            EpisodeStore.open(tmp_path / "data", writable=True)
        reader = EpisodeStore.open(tmp_path / "data")
        episodes = [make_episode(SMALL, 4, seed) for seed in range(4)]
        for index, episode in enumerate(episodes):
            writer.append(episode)
            assert len(reader) == index and reader.refresh() == 1 and reader.refresh() == 0
            assert_equal(reader.read(index), episode)
        writer.truncate(1)
        writer.append(make_episode(SMALL, 2, 9))
        assert reader.refresh() == -2
        assert_equal(reader.read(1), make_episode(SMALL, 2, 9))
        with pytest.raises(PermissionError, match="writable=True"):
            reader.append(episodes[0])
    EpisodeStore.open(tmp_path / "data", writable=True).close()


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 6])
def test_truncating_and_appending_again_gives_the_same_bytes(tmp_path, kept):
    episodes = three_shards(tmp_path / "data")
    whole = contents(tmp_path / "data")
    with EpisodeStore.open(tmp_path / "data", writable=True) as store:
        store.append(make_episode(SMALL, 40, 99))  # the unbroken run went on
        store.truncate(kept)
        assert len(store) == kept and store.problems == []
        if kept:
            assert_equal(store.read(kept - 1), episodes[kept - 1])
        for episode in episodes[kept:]:
            store.append(episode)
        with pytest.raises(ValueError, match="can't be cut back to 7"):
            store.truncate(7)
    assert contents(tmp_path / "data") == whole


def test_a_truncation_that_is_cut_short_can_be_done_again(tmp_path):
    """Its order is: whole shards from the newest back, the index, the end of the last shard."""
    episodes = three_shards(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/shards/000002")
    with EpisodeStore.open(tmp_path / "data", writable=True) as store:
        assert len(store) == 4 and "is missing" in store.problems[0]
        store.truncate(3)
        store.append(episodes[3])
    index = (tmp_path / "data/index.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "data/index.jsonl").write_bytes(b"".join(index[:3]))
    with EpisodeStore.open(tmp_path / "data", writable=True) as store:
        assert "unfinished" in store.problems[0]
        for episode in episodes[3:]:
            store.append(episode)
        assert [store.read(index)["info"]["seed"] for index in range(6)] == list(range(6)) and store.verify()


def test_a_skipped_shard_moves_no_episode_into_the_held_out_split(tmp_path):
    with EpisodeStore.create(tmp_path / "data", SMALL, shard_bytes=12 * (12 + 4 * 8)) as store:
        for seed in range(45):
            store.append(make_episode(SMALL, 5, seed))
        assert held_out_episodes(store) == [19, 39]
    (tmp_path / "data/shards/000003/image.bin").unlink()
    store = EpisodeStore.open(tmp_path / "data")
    assert [store.infos[index]["seed"] for index in held_out_episodes(store)] == [19, 39]


def test_statistics_follow_what_is_appended(tmp_path):
    episodes = [make_episode(SMALL, 20 + seed, seed) for seed in range(5)]
    with EpisodeStore.create(tmp_path / "data", SMALL) as store:
        for count, episode in enumerate(episodes, start=1):
            store.append(episode)
            rewards = np.concatenate([each["reward"] for each in episodes[:count]])
            states = np.concatenate([each["privileged"] for each in episodes[:count]])
            mean, std = store.privileged_stats()
            assert store.reward_std() == pytest.approx(rewards.std(), rel=1e-5)
            np.testing.assert_allclose(mean, states.mean(0), atol=1e-6)
            np.testing.assert_allclose(std, states.std(0), rtol=1e-5)
    with EpisodeStore.create(tmp_path / "other", STATE_ONLY) as store:
        assert store.reward_std() == 0.0
        with pytest.raises(ValueError, match="privileged_state=true"):
            store.privileged_stats()


def test_a_folder_that_is_no_store_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="worldmodel collect"):
        EpisodeStore.open(tmp_path / "nothing")
    fill(tmp_path / "data")
    with pytest.raises(FileExistsError, match="writable=True"):
        EpisodeStore.create(tmp_path / "data", SMALL)
    (tmp_path / "data/index.jsonl").unlink()
    with pytest.raises(StoreDamaged, match="index.jsonl is missing"):
        EpisodeStore.open(tmp_path / "data")
    (tmp_path / "data/store.json").write_text("{")
    with pytest.raises(StoreDamaged, match="store.json is damaged"):
        EpisodeStore.open(tmp_path / "data")
