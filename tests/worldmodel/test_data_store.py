"""Episodes come back from disk as they went in, and nothing that happens to the disk is silently read."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worldmodel.data import EpisodeStore, StoreDamaged, StoreLocked, held_out_episodes
from worldmodel.interface import Interface

SMALL = Interface(cameras={"image": (2, 2, 3)}, state_dim=2, action_dim=2, privileged_dim=3)
EVERYTHING = Interface(cameras={"image.left": (4, 6, 3), "image.right": (2, 2, 3)}, state_dim=5, action_dim=2,
                       privileged_dim=3, privileged_positions=2)
STATE_ONLY = Interface(state_dim=4, action_dim=3, discrete=True)


def make_episode(interface: Interface, steps: int = 3, seed: int = 0, terminated: bool = False) -> dict:
    random = np.random.default_rng(seed)
    episode = {key: random.integers(0, 256, (steps + 1, *shape), dtype=np.uint8)
               for key, shape in interface.cameras.items()}
    for key, width in (("state", interface.state_dim), ("privileged", interface.privileged_dim)):
        if width:
            episode[key] = random.normal(size=(steps + 1, width)).astype(np.float32)
    action = random.uniform(-1, 1, (steps, interface.action_dim)).astype(np.float32)
    if interface.discrete:
        action = np.eye(interface.action_dim, dtype=np.float32)[action.argmax(axis=1)]
    return {**episode, "action": action, "reward": random.normal(size=steps).astype(np.float32),
            "terminated": terminated, "truncated": not terminated, "info": {"seed": seed, "policy": "random"}}


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "writer.lock"}


def put(folder: Path, state: dict[str, bytes]) -> None:
    """Make the files in `folder` those of `state`."""
    present = contents(folder) if folder.exists() else {}
    for name in present.keys() - state.keys():
        (folder / name).unlink()
    for name, content in state.items():
        if present.get(name) != content:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


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
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == (tmp_path / "data/shards/000000/image.bin").absolute()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0


def test_rows_can_be_read_by_other_programs_from_the_header_alone(tmp_path):
    fill(tmp_path / "data")
    header = json.loads((tmp_path / "data/store.json").read_bytes())
    table, (start, stop) = header["tables"]["values"], header["values_columns"]["action"]
    rows = np.fromfile(tmp_path / "data/shards/000000/values.bin", table["dtype"]).reshape(-1, *table["row_shape"])
    np.testing.assert_array_equal(rows[:3, start:stop], make_episode(SMALL, 3, 0)["action"])


# A crash


@pytest.mark.parametrize("new_shard", [False, True])
def test_a_crash_at_any_byte_of_an_append_loses_that_episode_alone(tmp_path, new_shard):
    """The files are put into every state that an append passes through: rows first, table by table, then the line."""
    rows = 4 + 5 if new_shard else 100
    episodes = [make_episode(SMALL, steps, steps) for steps in (3, 4, 1)]
    with EpisodeStore.create(tmp_path / "whole", SMALL, shard_bytes=rows * (12 + 4 * 8)) as store:
        store.append(episodes[0])
        store.append(episodes[1])
        before = contents(tmp_path / "whole")
        store.append(episodes[2])
    after = contents(tmp_path / "whole")
    shard = f"shards/{int(new_shard):06d}"
    written = [f"{shard}/image.bin", f"{shard}/values.bin", "index.jsonl"]
    assert {name for name in after if after[name] != before.get(name)} == set(written)
    states = [{**before}]
    for name in written:
        done = states[-1]
        start = len(before.get(name, b""))
        states += [{**done, name: after[name][:size]} for size in range(start, len(after[name]) + 1)]

    folder = tmp_path / "crashed"
    for number, state in enumerate(states):
        put(folder, state)
        whole = 3 if state == after else 2
        sound = state in (before, after)
        reader = EpisodeStore.open(folder)
        assert len(reader) == whole and (reader.problems == []) == sound
        assert contents(folder) == state, "a reader changes nothing"
        with EpisodeStore.open(folder, writable=True) as store:
            assert len(store) == whole and (store.problems == []) == sound
            assert contents(folder) == (after if whole == 3 else before)
            if not sound:
                assert "unfinished episode" in store.problems[0] and str(folder) in store.problems[0]
            if whole == 2 and (number % 20 == 0 or len(states) - number < 5):
                store.append(episodes[2])
                assert contents(folder) == after


def test_a_killed_writer_leaves_every_episode_it_reported(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_data_store import SMALL, EpisodeStore, make_episode
store = EpisodeStore.create({str(tmp_path / "data")!r}, SMALL)
for seed in range(1_000_000):
    store.append(make_episode(SMALL, 300, seed))
    print(seed, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    reported = -1
    while reported < 30:
        reported = int(writer.stdout.readline())
    with pytest.raises(StoreLocked, match=f"process {writer.pid}"):
        EpisodeStore.open(tmp_path / "data", writable=True)
    reader = EpisodeStore.open(tmp_path / "data")  # readers don't mind
    assert len(reader) > 30 and reader.problems == []
    writer.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    reported = int(([str(reported), *writer.stdout.read().split()])[-1])
    writer.wait()
    with EpisodeStore.open(tmp_path / "data", writable=True) as store:
        assert len(store) in (reported + 1, reported + 2)
        assert all("unfinished episode" in problem for problem in store.verify())
        assert_equal(store.read(reported), make_episode(SMALL, 300, reported))


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path):
    resource = pytest.importorskip("resource", reason="limits the size of files, which only POSIX systems can")
    interface = Interface(cameras={"image": (32, 32, 3)})
    with EpisodeStore.create(tmp_path / "data", interface) as store:
        store.append(make_episode(interface, 200, 0))
        before = contents(tmp_path / "data")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(OSError, match="does not fit into .*left as it was.*run=<folder>"):
                store.append(make_episode(interface, 200, 1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(tmp_path / "data") == before and len(store) == 1
        assert store.append(make_episode(interface, 200, 1)) == 1
        assert_equal(store.read(1), make_episode(interface, 200, 1))
    assert EpisodeStore.open(tmp_path / "data").verify() == []


# Damage


def three_shards(folder: Path) -> list[dict]:
    """Two episodes in each of three shards."""
    episodes = [make_episode(SMALL, 5, seed) for seed in range(6)]
    with EpisodeStore.create(folder, SMALL, shard_bytes=12 * (12 + 4 * 8)) as store:
        for episode in episodes:
            store.append(episode)
    return episodes


@pytest.mark.parametrize("damage", ["shorter", "longer", "missing"])
@pytest.mark.parametrize("table", ["image", "values"])
def test_a_shard_of_the_wrong_size_is_named_and_skipped(tmp_path, table, damage, caplog):
    episodes = three_shards(tmp_path / "data")
    path = tmp_path / f"data/shards/000001/{table}.bin"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-1] if damage == "shorter" else content + b"0")
    store = EpisodeStore.open(tmp_path / "data")
    assert len(store) == 4 and store.steps == 20 and len(store.infos) == 4
    assert len(store.problems) == 1 and str(path) in store.problems[0] and "numbers 2 to 3" in store.problems[0]
    assert store.problems[0] in caplog.text
    for index, number in enumerate([0, 1, 4, 5]):
        assert store.numbers[index] == number
        assert_equal(store.read(index), episodes[number])
    path.write_bytes(content)
    assert len(EpisodeStore.open(tmp_path / "data")) == 6


def test_changed_bytes_are_found_before_they_are_read(tmp_path):
    episodes = three_shards(tmp_path / "data")
    path = tmp_path / "data/shards/000001/image.bin"
    content = bytearray(path.read_bytes())
    content[80] ^= 1
    path.write_bytes(content)
    store = EpisodeStore.open(tmp_path / "data")
    assert store.problems == []  # opening looks at sizes only
    with pytest.raises(StoreDamaged, match="shards/000001/image.bin"):
        store.read(3)
    assert len(store.problems) == 1 and str(path) in store.problems[0]
    with pytest.raises(StoreDamaged):
        store.read(2)  # the rest of the shard goes with it
    for number in (0, 1, 4, 5):
        assert_equal(store.read(number), episodes[number])
    assert len(EpisodeStore.open(tmp_path / "data").verify()) == 1


def test_nothing_is_appended_to_a_damaged_shard(tmp_path):
    three_shards(tmp_path / "data")
    path = tmp_path / "data/shards/000002/values.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with EpisodeStore.open(tmp_path / "data", writable=True) as store:
        added = make_episode(SMALL, 2, 9)
        assert store.append(added) == 4 and store.numbers.tolist() == [0, 1, 2, 3, 6]
        assert_equal(store.read(4), added)
    path.write_bytes(whole)
    restored = EpisodeStore.open(tmp_path / "data")
    assert restored.verify() == [] and restored.numbers.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_a_damaged_index_line_costs_its_episode_alone(tmp_path):
    episodes = three_shards(tmp_path / "data")
    path = tmp_path / "data/index.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3].replace(b"true", b"trve"), *lines[4:]]))
    with EpisodeStore.open(tmp_path / "data", writable=True) as store:
        assert store.numbers.tolist() == [0, 1, 2, 4, 5] and f"byte {sum(map(len, lines[:3]))}" in store.problems[0]
        assert store.append(make_episode(SMALL)) == 5 and store.numbers[-1] == 6
        assert_equal(store.read(3), episodes[4])


def test_an_index_that_lost_lines_is_never_taken_for_a_crash(tmp_path):
    three_shards(tmp_path / "data")
    path = tmp_path / "data/index.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    before = contents(tmp_path / "data")
    with pytest.raises(StoreDamaged, match="lost lines"):
        EpisodeStore.open(tmp_path / "data", writable=True)
    store = EpisodeStore.open(tmp_path / "data")
    assert len(store) == 1 and "lost lines" in store.problems[0] and contents(tmp_path / "data") == before


def test_a_file_that_shrinks_under_a_reader_is_named(tmp_path):
    three_shards(tmp_path / "data")
    store = EpisodeStore.open(tmp_path / "data")
    (tmp_path / "data/shards/000001/image.bin").unlink()
    with pytest.raises(StoreDamaged, match="shard 000001"):
        store.read(2)


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


# Writers, readers, resuming


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


# What may not go in


def changed(key: str, change) -> dict:
    episode = make_episode(SMALL, 5)
    episode[key] = change(episode[key])
    return episode


def with_value(array: np.ndarray, index: tuple, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(("episode", "message"), [
    (changed("image", lambda image: image[:-1]), r"'image' has shape \(5, 2, 2, 3\), expected \(6, 2, 2, 3\)"),
    (changed("image", lambda image: image / 255), "'image' has dtype float64; pictures are uint8"),
    (changed("state", lambda state: with_value(state, (3, 1), np.nan)), "'state' has a NaN .*step 3"),
    (changed("reward", lambda reward: with_value(reward, (4,), np.inf)), "'reward' has a NaN .*step 4"),
    (changed("reward", lambda reward: reward[:, None]), r"'reward' has shape \(5, 1\)"),
    (changed("action", lambda action: with_value(action, (2, 0), 1.01)), r"'action' leaves \[-1, 1\] first at step 2"),
    (changed("action", lambda action: action.astype(int)), "'action' has dtype int64"),
    (changed("action", lambda action: action[:0]), "at least one action"),
    (changed("terminated", lambda terminated: np.zeros(5)), "'terminated' must be one bool"),
    (changed("info", lambda info: {"return": float("nan")}), "'info' can't be written"),
    ({key: value for key, value in make_episode(SMALL).items() if key != "privileged"}, r"lacks \['privileged'\]"),
    ({**make_episode(SMALL), "images": 0}, r"unknown keys \['images'\]"),
])
def test_a_wrong_episode_is_refused_by_name(tmp_path, episode, message):
    with EpisodeStore.create(tmp_path / "data", SMALL) as store:
        before = contents(tmp_path / "data")
        with pytest.raises((ValueError, TypeError), match=message):
            store.append(episode)
        assert len(store) == 0 and contents(tmp_path / "data") == before


def test_discrete_actions_must_be_one_hot(tmp_path):
    episode = make_episode(STATE_ONLY, 5)
    episode["action"][3] = [0.5, 0.5, 0.0]
    with EpisodeStore.create(tmp_path / "data", STATE_ONLY) as store, pytest.raises(ValueError, match="one-hot.*step 3"):
        store.append(episode)


def test_rounding_beyond_the_bounds_is_clipped(tmp_path):
    episode = make_episode(SMALL)
    episode["action"][0, 0] = np.float32(1 + 5e-7)
    with EpisodeStore.create(tmp_path / "data", SMALL) as store:
        store.append(episode)
        assert store.read(0)["action"].max() == 1.0


def test_a_store_that_does_not_fit_an_env_names_the_fields(tmp_path):
    with EpisodeStore.create(tmp_path / "data", SMALL) as store:
        store.require_interface(SMALL)
        other = Interface(cameras={"image": (64, 64, 3)}, state_dim=2, action_dim=6, privileged_dim=3)
        with pytest.raises(ValueError, match=r"cameras: recorded .*\(2, 2, 3\).*wanted .*\(64, 64, 3\).*action_dim: recorded 2"):
            store.require_interface(other)
