"""A video shows what happened, what was dreamt and which is which; its file is whole or absent."""

import numpy as np
import pytest

import envs
from policies.rollout import film, rollout
from policies.video import (
    DREAM,
    ERROR_GAIN,
    View,
    compose_video,
    contact_sheet,
    open_loop_schedule,
    record,
    write_png,
    write_video,
)


class Push:
    """Pushes to one side."""

    def reset(self, observation, mask=None):
        self.rows = len(next(iter(observation.values())))

    def act(self, observation):
        return np.full((self.rows, self.action_dim), 0.5, np.float32)

    def __init__(self, action_dim=1):
        self.action_dim = action_dim


def read(path):
    """The frames of a video: uint8 [T, h, w, 3]."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


@pytest.fixture(scope="module")
def episode():
    env = envs.make_vector(1, id="worldmodel/CartpoleSwingup-v0", image_size=16)
    (episode,) = rollout(Push(), env, [0], max_steps=11)
    env.close()
    return episode


def dreamer(episode, open_loop_step):
    """Sees the real thing where it observes, and dreams in grey."""
    dream = np.where(open_loop_step[:, None, None, None] > 0, 128, episode["image"]).astype(np.uint8)
    return View({"image": episode["image"]}, {"image": dream}, episode["reward"] + 0.1)


def test_every_dream_starts_from_the_real_history():
    schedule = open_loop_schedule(12, context=2, horizon=3)
    assert schedule.tolist() == [0, 0, 1, 2, 3, 0, 0, 1, 2, 3, 0, 0]
    with pytest.raises(ValueError, match="horizon"):
        open_loop_schedule(12, context=2, horizon=0)


def test_an_episode_becomes_a_video_of_every_frame(episode, tmp_path):
    summary = record(dreamer, episode, tmp_path / "videos" / "dream.mp4", context=3, horizon=4, title="cartpole")
    frames = read(summary["path"])
    assert len(frames) == summary["frames"] == 12
    assert frames.shape[2] > 4 * 256
    imagined = open_loop_schedule(12, 3, 4) > 0
    expected = np.abs(episode["image"][imagined].astype(int) - 128).mean()
    assert summary["dream_error"] == pytest.approx(expected)


def test_the_dream_is_framed_only_where_it_is_imagined(episode):
    steps = open_loop_schedule(12, 3, 4)
    view = dreamer(episode, steps)
    nothing = np.full(12, np.nan)
    for frame, step in zip(
        compose_video(episode["image"], view.reconstruction, view.dream, nothing, nothing, steps), steps, strict=True
    ):
        framed = (frame == DREAM).all(-1).sum() > 4 * 256
        assert framed == (step > 0)


def test_pictures_are_shown_enlarged_and_their_difference_beside_them(episode):
    picture = episode["image"]
    dream = np.clip(picture.astype(int) + 10, 0, 255).astype(np.uint8)
    frame = next(compose_video(picture, None, dream, *np.zeros((2, 12)), np.zeros(12, int)))
    enlarged = picture[0].repeat(16, 0).repeat(16, 1)
    windows = np.lib.stride_tricks.sliding_window_view(frame[:, :264], enlarged.shape)
    assert (windows == enlarged).all((-1, -2, -3)).any()
    assert ((frame == 10 * ERROR_GAIN).all(-1)).sum() > 100 * 256


def test_cameras_lie_under_one_another(episode):
    one = {"image.front": episode["image"]}
    two = {**one, "image.side": episode["image"]}
    reward, steps = np.zeros((2, 12)), np.zeros(12, int)
    single, double = (next(compose_video(real, None, real, *reward, steps)) for real in (one, two))
    assert double.shape[0] >= single.shape[0] + 256 and double.shape[1] == single.shape[1]


def test_an_env_without_pictures_shows_the_film_and_its_state(tmp_path):
    env = envs.make_vector(1, id="Acrobot-v1", observation="state")
    episode, pictures = film(Push(action_dim=3), env, seed=0, size=64, max_steps=6)
    env.close()

    def reader(episode, open_loop_step):
        return View(reward=episode["reward"], state=episode["state"] + 0.1)

    summary = record(reader, episode, tmp_path / "state.mp4", context=2, horizon=3, pictures=pictures)
    frames = read(summary["path"])
    assert len(frames) == 7 and summary["dream_error"] is None
    bare = record(reader, episode, tmp_path / "bare.mp4", context=2, horizon=3)
    assert read(bare["path"]).shape[2] < frames.shape[2]


def test_arrays_that_do_not_fit_are_named(episode):
    reward, steps = np.zeros((2, 12)), np.zeros(12, int)
    with pytest.raises(ValueError, match="dream of 'image'"):
        next(compose_video(episode["image"], None, episode["image"][:5], *reward, steps))
    with pytest.raises(ValueError, match="reward"):
        next(compose_video(episode["image"], None, None, *reward[:, :5], steps))


def test_a_video_that_breaks_off_leaves_the_old_one(tmp_path):
    path = tmp_path / "video.mp4"
    frame = np.zeros((33, 64, 3), np.uint8)
    assert write_video(path, [frame] * 3, fps=10) == 3
    assert read(path).shape == (3, 32, 64, 3)
    before = path.read_bytes()

    def breaks():
        yield frame
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, breaks(), fps=10)
    with pytest.raises(ValueError, match="shape"):
        write_video(path, [frame, frame[:10]], fps=10)
    with pytest.raises(ValueError, match="no frames"):
        write_video(path, [], fps=10)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_ffmpeg_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    with pytest.raises(RuntimeError, match="pip install imageio-ffmpeg"):
        write_video(tmp_path / "video.mp4", [np.zeros((32, 32, 3), np.uint8)], fps=10)


def test_a_contact_sheet_shows_every_so_manieth_frame(tmp_path):
    from PIL import Image

    frames = [np.full((4, 6, 3), index, np.uint8) for index in range(10)]
    sheet = contact_sheet(frames, every=4)
    assert sheet.shape == (12, 6, 3) and sheet[::4, 0, 0].tolist() == [0, 4, 8]
    written = write_png(tmp_path / "sheets" / "sheet.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(written)), sheet)
