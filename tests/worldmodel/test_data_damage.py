"""A crash loses at most the episode in flight, and nothing that happens to the disk is silently read."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_data_store import SMALL, assert_equal, contents, make_episode, three_shards

from worldmodel.data import EpisodeStore, StoreDamaged, StoreLocked
from worldmodel.interface import Interface


def put(folder: Path, state: dict[str, bytes]) -> None:
    """Make the files in `folder` those of `state`."""
    present = contents(folder) if folder.exists() else {}
    for name in present.keys() - state.keys():
        (folder / name).unlink()
    for name, content in state.items():
        if present.get(name) != content:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


# Crashes


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
            with pytest.raises(OSError, match="can't be written to .*left as it was.*run=<folder>"):
                store.append(make_episode(interface, 200, 1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(tmp_path / "data") == before and len(store) == 1
        assert store.append(make_episode(interface, 200, 1)) == 1
        assert_equal(store.read(1), make_episode(interface, 200, 1))
    assert EpisodeStore.open(tmp_path / "data").verify() == []


# Damage


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
    with pytest.raises(StoreDamaged, match="shards/000001"):
        store.read(2)
