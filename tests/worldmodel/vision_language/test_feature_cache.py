"""Features are computed once, survive every kill and every damage, and are never those of other pictures."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.data import EpisodeStore
from worldmodel.interface import Interface
from worldmodel.provenance import whole_file
from worldmodel.vision_language import EncoderError, FeatureCache, load
from worldmodel.vision_language.cache import FeaturesMissing

TWO = Interface(cameras={"image.left": (16, 16, 3), "image.right": (12, 20, 3)}, state_dim=2, action_dim=2)
ROUNDING, TINY = 2**-11, 2**-25  # of a number, and of what is below 2^-14


@pytest.fixture(scope="module")
def encoder(checkpoints):
    return load(checkpoints("siglip"), patch_tokens=4, batch_size=8)


def make_episode(seed: int, steps: int, interface: Interface = TWO) -> dict:
    random = np.random.default_rng(seed)
    pictures = {key: random.integers(0, 256, (steps + 1, *shape), np.uint8) for key, shape in interface.cameras.items()}
    return {
        **pictures,
        "state": np.zeros((steps + 1, 2), np.float32),
        "action": np.zeros((steps, 2), np.float32),
        "reward": random.normal(size=steps).astype(np.float32),
        "terminated": False,
        "truncated": True,
    }


def make_store(folder: Path, episodes: int = 6) -> EpisodeStore:
    """Episodes of 3 to 6 steps, two or three in a shard."""
    store = EpisodeStore.create(folder, TWO, shard_bytes=15 * (16 * 16 * 3 + 12 * 20 * 3 + 4 * 5))
    for seed in range(episodes):
        store.append(make_episode(seed, 3 + seed % 4))
    return store


def assert_true(cache: FeatureCache, encoder, episodes=None) -> None:
    """Every read feature is the encoding of its picture, within the rounding."""
    for episode in range(len(cache.store)) if episodes is None else episodes:
        rows, read = cache.store.rows(episode), cache.read(episode)
        assert list(read) == list(TWO.cameras)
        for camera, features in read.items():
            fresh = encoder.encode_images(np.array(rows[camera])).numpy()
            assert features.dtype == np.float32 and features.shape == fresh.shape
            # Another size of batch may move a sum by a float32 rounding before it is stored.
            assert (np.abs(features - fresh) <= np.maximum(np.abs(fresh) * ROUNDING, TINY) + 1e-6).all()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


def put(folder: Path, state: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in state.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_features_are_those_of_a_fresh_encoding(tmp_path, encoder):
    with make_store(tmp_path / "data") as store:
        cache = FeatureCache(store, encoder)
        assert cache.missing().tolist() == [0, 1, 2, 3, 4, 5] and cache.row_shape == (5, 24)
        assert cache.fill(encoder) == 6 and cache.fill(encoder) == 0
        assert not len(cache.missing()) and cache.problems == []
        assert_true(cache, encoder)
        assert cache.folder == tmp_path / "data" / "features" / encoder.identity
    again = FeatureCache(EpisodeStore.open(tmp_path / "data"), encoder.describe())
    assert_true(again, encoder)
    part = again.read(3, 2, 5)["image.right"]
    np.testing.assert_array_equal(part, again.read(3)["image.right"][2:5])
    with pytest.raises(IndexError, match="observations 2:99 of episode 3, which has 7"):
        again.read(3, 2, 99)


def test_a_window_is_the_same_slice_as_in_the_store(tmp_path, encoder):
    store = make_store(tmp_path / "data")
    cache = FeatureCache(store, encoder)
    cache.fill(encoder)
    episodes = np.array([5, 0, 3, 3])
    maps, first = cache.locate(episodes)
    _, rows = store.locate(episodes)
    np.testing.assert_array_equal(first, rows)
    for episode, arrays, row in zip(episodes, maps, first, strict=True):
        view = arrays["image.left"][row + 1 : row + 3]
        assert view.dtype == np.float16 and not view.flags.owndata and not view.flags.writeable
        np.testing.assert_array_equal(view.astype(np.float32), cache.read(episode, 1, 3)["image.left"])


def test_growing_costs_the_new_episodes_and_cutting_back_never_mixes_pictures(tmp_path, encoder):
    store = make_store(tmp_path / "data", 4)
    cache = FeatureCache(store, encoder)
    cache.fill(encoder)
    store.append(make_episode(77, 9))
    assert cache.missing().tolist() == [4] and cache.fill(encoder) == 1
    store.truncate(2)
    assert not len(cache.missing()) and cache.fill(encoder) == 0
    store.append(make_episode(2, 5))  # the same pictures as before the cut, then others of the same length
    store.append(make_episode(88, 6))
    assert cache.missing().tolist() == [3]
    with pytest.raises(FeaturesMissing, match=r"episode 3 \(number 3\).*fill"):
        cache.rows(3)
    assert cache.locate(np.array([3, 0]))[0][0] is None
    reader = FeatureCache(EpisodeStore.open(tmp_path / "data"), encoder)
    assert cache.fill(encoder) == 1
    assert_true(cache, encoder)
    reader.refresh()
    assert_true(reader, encoder)
    assert cache.problems == reader.problems == []


def test_a_kill_at_any_byte_costs_what_was_not_named(tmp_path, encoder):
    """The files are put into states that filling passes through: rows of one group after another, then its lines."""
    store = make_store(tmp_path / "data", 4)
    small = FeatureCache(store, encoder)
    small.fill(encoder)
    after = contents(small.folder)
    shards = [name for name in after if name.startswith("shards")]
    lines = after["index.jsonl"].splitlines(keepends=True)
    assert len(lines) == 4 and len(shards) == 2
    states = [{"index.jsonl": b""}, {}, {"features.json": after["features.json"][:30], "index.jsonl": b""}]
    for name in shards:
        states += [{**after, name: after[name][:size]} for size in range(0, len(after[name]), 307)]
    states += [
        {**after, "index.jsonl": after["index.jsonl"][:size]} for size in range(0, len(after["index.jsonl"]), 41)
    ]
    for state in states:
        put(small.folder, state)
        cache = FeatureCache(store, encoder)
        named = state.get("index.jsonl", b"").count(b"\n")
        assert len(store) - len(cache.missing()) == named
        problems = sum(state.get(name, after[name]) != after[name] for name in shards)
        filled = cache.fill(encoder)
        assert filled >= 4 - named and bool(cache.problems) == bool(problems and named)
        assert contents(cache.folder)[shards[0]] == after[shards[0]]
        assert not len(cache.missing()) and FeatureCache(store, encoder).verify() == []
    assert_true(FeatureCache(store, encoder), encoder)


def test_a_killed_run_is_taken_up_where_it_stopped(tmp_path, checkpoints, encoder):
    with make_store(tmp_path / "data", 60) as store:
        program = f"""
import sys
from worldmodel.data import EpisodeStore
from worldmodel.vision_language import FeatureCache, load
encoder = load({str(checkpoints("siglip"))!r}, patch_tokens=4, batch_size=2)
encode = encoder.encode_images
def slowly(images):
    print("encoding", flush=True)
    return encode(images)
encoder.encode_images = slowly
FeatureCache(EpisodeStore.open({str(store.folder)!r}), encoder).fill(encoder)
"""
        run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(20):
            assert run.stdout.readline() == "encoding\n"
        run.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        run.wait()
        run.stdout.close()
        cache = FeatureCache(store, encoder)
        left = len(cache.missing())
        assert 0 < left < 60
        assert cache.fill(encoder) == left and cache.problems == []
        assert_true(cache, encoder)


def test_two_runs_share_the_work(tmp_path, checkpoints, encoder):
    """The second waits for the first, then finds everything done."""
    store = make_store(tmp_path / "data", 20)
    store.close()
    program = f"""
import sys
from worldmodel.data import EpisodeStore
from worldmodel.vision_language import FeatureCache, load
encoder = load({str(checkpoints("siglip"))!r}, patch_tokens=4, batch_size=8)
cache = FeatureCache(EpisodeStore.open({str(store.folder)!r}), encoder)
print("ready", flush=True)
sys.stdin.readline()
print(cache.fill(encoder), len(cache.missing()), cache.problems)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([sys.executable, "-c", program], cwd=Path.cwd(), **pipes) for _ in range(2)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    said = [run.communicate(timeout=200)[0].split() for run in runs]
    assert sum(int(words[0]) for words in said) == 20 and all(words[1:] == ["0", "[]"] for words in said)
    assert_true(FeatureCache(EpisodeStore.open(tmp_path / "data"), encoder), encoder)


def test_a_lock_that_is_let_go_is_taken(tmp_path, encoder):
    from worldmodel.data.lock import WriterLock
    from worldmodel.progress import Progress

    said = []

    class Listening(Progress):
        def line(self, text):
            said.append(text)
            held.close()

    cache = FeatureCache(make_store(tmp_path / "data"), encoder)
    cache.folder.mkdir(parents=True)
    held = WriterLock(cache.folder / "writer.lock")
    assert cache.fill(encoder, Listening(quiet=True)) == 6
    assert f"process {os.getpid()}" in said[0]


@pytest.mark.parametrize("byte", [0, 700, -1])
def test_changed_bytes_are_named_and_only_they_are_encoded_again(tmp_path, encoder, byte):
    store = make_store(tmp_path / "data")
    FeatureCache(store, encoder).fill(encoder)
    cache = FeatureCache(store, encoder)
    path = cache.folder / "shards/000001/values.bin"
    whole = path.read_bytes()
    content = bytearray(whole)
    content[byte] ^= 1
    path.write_bytes(content)
    damaged = []
    for episode in range(len(store)):
        try:
            cache.rows(episode)
        except FeaturesMissing:
            damaged.append(episode)
    assert len(damaged) == 1 and cache.missing().tolist() == damaged
    assert len(cache.problems) == 1 and str(path) in cache.problems[0] and f"number {damaged[0]})" in cache.problems[0]
    assert [arrays is None for arrays in cache.locate(np.arange(6))[0]] == [episode in damaged for episode in range(6)]
    fresh = FeatureCache(store, encoder)
    assert cache.fill(encoder) == 1 and path.read_bytes() == whole
    assert_true(cache, encoder)
    assert_true(fresh, encoder)  # a reader that had not yet looked


def test_filling_finds_damage_that_nobody_has_read(tmp_path, encoder):
    store = make_store(tmp_path / "data")
    FeatureCache(store, encoder).fill(encoder)
    path = FeatureCache(store, encoder).folder / "shards/000000/values.bin"
    path.unlink()
    cache = FeatureCache(store, encoder)
    assert cache.fill(encoder) == (store.entries["shard"] == 0).sum()
    assert str(path) in cache.problems[0] and "cut short or missing" in cache.problems[0]
    assert_true(cache, encoder)


def test_a_damaged_line_costs_its_episode(tmp_path, encoder):
    store = make_store(tmp_path / "data")
    FeatureCache(store, encoder).fill(encoder)
    index = FeatureCache(store, encoder).folder / "index.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join([*lines[:2], lines[2].replace(b"row", b"rwo"), *lines[3:]]))
    cache = FeatureCache(store, encoder)
    assert cache.missing().tolist() == [2] and f"byte {len(lines[0]) + len(lines[1])}" in cache.problems[0]
    assert cache.fill(encoder) == 1
    assert_true(FeatureCache(store, encoder), encoder)


def test_damaged_pictures_are_passed_over(tmp_path, encoder):
    make_store(tmp_path / "data").close()
    path = tmp_path / "data/shards/000001/image.left.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    store = EpisodeStore.open(tmp_path / "data")
    cache = FeatureCache(store, encoder)
    filled = cache.fill(encoder)
    assert 0 < filled < 6 and len(cache.missing()) == 6 - filled and str(path) in store.problems[0]
    assert_true(cache, encoder, sorted(set(range(6)) - set(cache.missing().tolist())))


def test_other_encoders_and_arithmetic_have_their_own(tmp_path, encoder, checkpoints):
    store = make_store(tmp_path / "data", 2)
    others = [
        load(checkpoints("siglip")),
        load(checkpoints("dinov2")),
        load(checkpoints("siglip"), dtype=torch.bfloat16),
    ]
    caches = [FeatureCache(store, other) for other in (encoder, *others)]
    assert len({cache.folder for cache in caches}) == 4
    with pytest.raises(EncoderError, match=f"{caches[0].folder} was made with"):
        caches[0].fill(others[1])
    with pytest.raises(EncoderError, match=r"is for float32, the encoder has torch.bfloat16"):
        caches[1].fill(others[2])
    for cache, other in zip(caches, (encoder, *others), strict=True):
        assert cache.fill(other) == 2
        assert cache.read(0)["image.left"].shape == (4, other.tokens, other.dim)


def test_an_empty_store_has_nothing_to_fill(tmp_path, encoder):
    store = make_store(tmp_path / "data", 0)
    cache = FeatureCache(store, encoder)
    assert cache.missing().tolist() == [] and cache.fill(encoder) == 0
    store.append(make_episode(0, 3))
    assert cache.fill(encoder) == 1
    assert_true(cache, encoder)


def test_a_store_without_pictures_has_no_features(tmp_path, encoder):
    with (
        EpisodeStore.create(tmp_path / "data", Interface(state_dim=2, action_dim=1)) as store,
        pytest.raises(EncoderError, match="has no pictures.*vision_language=off"),
    ):
        FeatureCache(store, encoder)


def test_features_that_are_no_numbers_are_not_kept(tmp_path, checkpoints):
    store = make_store(tmp_path / "data", 2)
    broken = load(checkpoints("siglip"))
    cache = FeatureCache(store, broken)
    with torch.no_grad():
        broken.backbone.model.vision_model.post_layernorm.bias.fill_(torch.nan)
    with pytest.raises(EncoderError, match="no numbers for pictures of episode 0"):
        cache.fill(broken)
    assert len(FeatureCache(store, broken).missing()) == 2


def test_a_full_disk_keeps_what_was_filled(tmp_path, encoder):
    resource = pytest.importorskip("resource", reason="limits the size of files, which only POSIX systems can")
    store = make_store(tmp_path / "data", 30)
    cache = FeatureCache(store, encoder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="features can't be written to .*Free some space"):
            cache.fill(encoder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = len(cache.missing())
    assert cache.fill(encoder) == left and cache.problems == []
    assert_true(cache, encoder)


def test_a_bar_shows_how_far_it_is(tmp_path, encoder):
    from rich.console import Console

    from worldmodel.progress import Progress

    with whole_file(tmp_path / "log") as path, open(path, "w") as file:
        store = make_store(tmp_path / "data")
        FeatureCache(store, encoder).fill(encoder, Progress(Console(file=file, width=120)))
        store.append(make_episode(9, 4))
        FeatureCache(store, encoder).fill(encoder, Progress(Console(file=file, width=120)))
    first, second = (tmp_path / "log").read_text().splitlines()
    assert f"features  {store.frames - 5} frames" in first and f"features  {store.frames} frames" in second


def test_reading_is_by_memory_map(tmp_path, encoder):
    store = make_store(tmp_path / "data", 12)
    cache = FeatureCache(store, encoder)
    cache.fill(encoder)
    base = cache.rows(3)["image.left"]
    while isinstance(base, np.ndarray):
        base = base.base
    assert base.size() == (cache.folder / "shards/000001/values.bin").stat().st_size
