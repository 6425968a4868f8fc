"""Draws what a model sees and dreams beside what happened, and writes it as MP4 and PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from shutil import which
from subprocess import PIPE, Popen

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from policies.rollout import Episode
from worldmodel.provenance import whole_file

Pictures = Mapping[str, np.ndarray]  # camera to uint8 [T, H, W, 3]

TILE = 256  # pixels of one picture on the screen: 64x64 shown at 4x
STRIP_HEIGHT, STRIP_WIDTH = 84, 640  # the width is the least one
MARGIN, CAPTION, TITLE = 8, 22, 28
ERROR_GAIN = 3  # the error is drawn three times as bright: a pole one pixel off is easily overlooked
BACKGROUND, PANEL, GRID = (16, 18, 22), (28, 31, 38), (70, 75, 86)
TEXT, REAL, DREAM, BAND = (232, 232, 232), (94, 196, 232), (255, 159, 64), (58, 44, 30)
REACHED = (80, 200, 120)
CRF = "12"  # x264's quality: no visible loss at this size

_font = lru_cache(ImageFont.load_default)


@dataclass
class View:
    """What a model makes of an episode of T actions; what it cannot give stays empty.

    Attributes:
        reconstruction: the decoder's picture of each frame's own latent, by camera, uint8 `[T+1, H, W, 3]`.
        dream: its picture of each frame's latent, observed or imagined as `open_loop_step` says; same shapes.
        reward: the reward predicted for each action, float `[T]`, from the same latents as the dream.
        state: the vector `state` predicted for each frame, float `[T+1, S]`.
    """

    reconstruction: Pictures = field(default_factory=dict)
    dream: Pictures = field(default_factory=dict)
    reward: np.ndarray | None = None
    state: np.ndarray | None = None


def open_loop_schedule(frames: int, context: int, horizon: int) -> np.ndarray:
    """How many steps ahead of the last observed frame each frame is imagined: int `[frames]`, 0 where the model sees
    it. `context` observed frames, then `horizon` imagined ones, over and over; what was imagined is observed before the
    next dream begins, so that every dream starts from the real history."""
    if context < 1 or horizon < 1:
        raise ValueError(f"a dream needs context >= 1 and horizon >= 1 frames, not {context} and {horizon}")
    return np.maximum(0, np.arange(frames) % (context + horizon) - context + 1)


def record(
    model_view: Callable[[Episode, np.ndarray], View],
    episode: Episode,
    path: str | Path,
    *,
    context: int = 5,
    horizon: int = 20,
    fps: float = 25.0,
    title: str = "",
    pictures: np.ndarray | None = None,
) -> dict:
    """Write an episode and the model's view of it as an MP4.

    Args:
        model_view: called with the episode and `open_loop_schedule(T+1, context, horizon)`.
        context, horizon: frames that the model observes before each dream, and frames of the dream.
        fps: `Interface.fps` plays it in real time.
        pictures: uint8 `[T+1, H, W, 3]` of the env (see `rollout.film`), shown where the episode has no camera.

    Returns:
        `path`, `frames`, and `dream_error`: the mean absolute difference between dream and real pictures, of 255, over
        the imagined frames; None without a dream.
    """
    steps = open_loop_schedule(len(episode["reward"]) + 1, context, horizon)
    view = model_view(episode, steps)
    real = {key: value for key, value in episode.items() if key == "image" or key.startswith("image.")}
    real = real or ({} if pictures is None else {"image": pictures})
    traces = {}
    for i in range(0 if view.state is None else min(6, view.state.shape[1])):  # more lines would not be legible
        traces[f"state[{i}]"] = (episode["state"][:, i], view.state[:, i])
    predicted = np.full(len(episode["reward"]), np.nan) if view.reward is None else view.reward
    # A reward is shown with the frame that it arrived with; none came with the first.
    reward, predicted = (np.concatenate([[np.nan], values]) for values in (episode["reward"], predicted))
    pair = (view.reconstruction, view.dream)
    composed = compose_video(real, *pair, reward, predicted, steps, title, fps=fps, traces=traces)
    frames, imagined = write_video(path, composed, fps), steps > 0
    errors = [np.abs(real[camera][imagined].astype(int) - dream[imagined]) for camera, dream in view.dream.items()]
    return {"path": str(path), "frames": frames, "dream_error": float(np.mean(errors)) if errors else None}


def compose_video(
    real: Pictures | np.ndarray,
    reconstruction: Pictures | np.ndarray | None,
    dream: Pictures | np.ndarray | None,
    reward: np.ndarray,
    predicted_reward: np.ndarray,
    open_loop_step: np.ndarray,
    title: str = "",
    *,
    fps: float | None = None,
    traces: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Iterator[np.ndarray]:
    """Compose the frames of a video, one by one: uint8 `[h, w, 3]`.

    Side by side: real, reconstruction, dream (framed, with the number of open-loop steps, where it is imagined), and
    the difference of dream and real; several cameras lie under one another. Beneath, or beside a lone picture: strips
    of real against predicted reward and of `traces`, open-loop stretches shaded, with a cursor.

    Args:
        real, reconstruction, dream: uint8 `[T, H, W, 3]`, or a dict of them by camera; each may be missing.
        reward, predicted_reward: `[T]`, the one that arrived with each frame; NaN is a gap.
        open_loop_step: int `[T]`, 0 where the model saw the frame.
        fps: shows the time in seconds as well.
        traces: further strips: label to real `[T]` and predicted `[T]`.

    Raises:
        ValueError: arrays that do not fit together; the message names them.
    """
    given = {"real": real, "reconstruction": reconstruction, "dream": dream}
    given = {name: value for name, value in given.items() if value is not None and len(value)}
    rows = {name: value if isinstance(value, Mapping) else {"image": value} for name, value in given.items()}
    lines = {"reward": (reward, predicted_reward), **(traces or {})}
    _check(rows, lines, len(open_loop_step))
    if "dream" in rows:
        rows["error"] = {camera: _error(rows["real"][camera], dream) for camera, dream in rows["dream"].items()}

    tiles = {}  # camera to width and height on the screen, whole multiples of the picture's pixels
    for camera, pictures in rows.get("real", {}).items():
        scale = max(1, round(TILE / pictures.shape[1]))
        tiles[camera] = (pictures.shape[2] * scale, pictures.shape[1] * scale)
    tile_width = max((width for width, _ in tiles.values()), default=0)
    pictures_width = len(rows) * (tile_width + MARGIN)
    pictures_height = sum(height + MARGIN for _, height in tiles.values()) + (CAPTION if tiles else 0)
    beside = pictures_width < STRIP_WIDTH
    strips_height = len(lines) * (STRIP_HEIGHT + CAPTION)
    left, width = (pictures_width + MARGIN, STRIP_WIDTH) if beside else (MARGIN, pictures_width - MARGIN)
    top = TITLE if beside else TITLE + pictures_height
    height = TITLE + (max(pictures_height, strips_height) if beside else pictures_height + strips_height) + MARGIN
    base = Image.new("RGB", (left + width + MARGIN, height), BACKGROUND)
    strips = []
    for index, (name, values) in enumerate(lines.items()):
        box = (left, top + index * (STRIP_HEIGHT + CAPTION) + CAPTION, width, STRIP_HEIGHT)
        strips.append(_Strip(name, *(np.asarray(value, np.float64) for value in values), box))
        strips[-1].draw(ImageDraw.Draw(base), np.asarray(open_loop_step))
    return (
        _frame(base, t, rows, tiles, tile_width, strips, int(open_loop_step[t]), title, fps)
        for t in range(len(open_loop_step))
    )


def record_goals(episodes: list[Episode], path: str | Path, fps: float, columns: int = 5) -> Path:
    """Write episodes towards goal images side by side as one MP4: each with its goal to the right, framed in green from
    the moment of its success on. Episodes that are over wait for the longest.

    Args:
        episodes: with `image`, `goal` (both uint8 `[T+1, H, W, 3]`), and in `info` `success_step`, None without success.
    """
    size, length = TILE // 2, max(len(episode["reward"]) for episode in episodes)
    columns = min(columns, len(episodes))
    cell = 2 * size + 3 * MARGIN, size + 2 * MARGIN
    rows = -(-len(episodes) // columns)
    reached = [episode["info"]["success_step"] for episode in episodes]

    def scaled(picture: np.ndarray) -> Image.Image:
        return Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST)

    def frames() -> Iterator[np.ndarray]:
        for t in range(length + 1):
            base = Image.new("RGB", (columns * cell[0], rows * cell[1] + TITLE), BACKGROUND)
            draw = ImageDraw.Draw(base)
            done = sum(step is not None and step <= t for step in reached)
            words = f"{done} of {len(episodes)} goals reached    {t / fps:.1f} s    left: real, right: goal"
            draw.text((MARGIN, 6), words, fill=TEXT, font=_font(size=15))
            for place, (episode, step) in enumerate(zip(episodes, reached, strict=True)):
                x, y = place % columns * cell[0], TITLE + place // columns * cell[1]
                if step is not None and step <= t:
                    draw.rectangle((x + 3, y + 3, x + cell[0] - 4, y + cell[1] - 4), outline=REACHED, width=4)
                now = min(t, len(episode["reward"]))
                base.paste(scaled(episode["image"][now]), (x + MARGIN, y + MARGIN))
                base.paste(scaled(episode["goal"][now]), (x + size + 2 * MARGIN, y + MARGIN))
            yield np.asarray(base)

    write_video(path, frames(), fps)
    return Path(path)


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write uint8 frames `[h, w, 3]` as an H.264 MP4 that browsers play, and return how many; an odd last row or column
    is left out. The file appears whole or not at all.

    Raises:
        RuntimeError: ffmpeg is missing or fails; the message says why and what to do.
        ValueError: there are no frames, or one differs in size.
    """
    frames, count = iter(frames), 0
    first = next(frames, None)
    if first is None:
        raise ValueError(f"there are no frames to write to {path}")
    height, width = (size // 2 * 2 for size in first.shape[:2])  # yuv420p halves both
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", CRF, "-preset", "fast", "-movflags", "+faststart"]
    with whole_file(path) as temporary:
        command = [ffmpeg_path(), "-y", "-v", "error", *source, *target, str(temporary)]
        # A session of its own: Ctrl-C is ours to answer, and ffmpeg's complaint does not hide the reason.
        with Popen(command, stdin=PIPE, stderr=PIPE, start_new_session=True) as ffmpeg:
            try:
                for count, frame in enumerate(chain([first], frames), 1):
                    if frame.shape != first.shape:
                        raise ValueError(f"frame {count} of {path} has shape {frame.shape}, the first {first.shape}")
                    ffmpeg.stdin.write(np.ascontiguousarray(frame[:height, :width]))
                said = ffmpeg.communicate()[1]
            except BrokenPipeError:
                said = ffmpeg.stderr.read()
            except BaseException:
                ffmpeg.kill()
                raise
        if ffmpeg.returncode:
            raise RuntimeError(f"ffmpeg could not write {path}: {said.decode(errors='replace').strip()}")
    return count


def write_png(path: str | Path, frame: np.ndarray) -> Path:
    """Write a uint8 picture `[h, w, 3]` as PNG, whole or not at all."""
    with whole_file(path) as temporary:
        Image.fromarray(frame).save(temporary)
    return Path(path)


def read_picture(path: str | Path, height: int, width: int) -> np.ndarray:
    """A picture file as uint8 `[height, width, 3]`.

    Raises:
        ValueError: it is missing or no picture.
    """
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB").resize((width, height), Image.Resampling.BOX))
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def contact_sheet(frames: Iterable[np.ndarray], every: int) -> np.ndarray:
    """Frames 0, `every`, 2 `every`, ... one under another: uint8 `[h, w, 3]`, to look at a video without a player."""
    return np.concatenate([frame for index, frame in enumerate(frames) if index % every == 0], axis=0)


class _Strip:
    """Two lines over time, real and predicted, in a box (left, top, width, height)."""

    def __init__(self, name: str, real: np.ndarray, predicted: np.ndarray, box: tuple[int, int, int, int]):
        self.name, self.values, self.box = name, ((real, REAL, 4), (predicted, DREAM, 2)), box
        known = real[np.isfinite(real)] if np.isfinite(real).any() else np.zeros(1)
        room = max(0.15 * np.ptp(known), 0.05 * np.abs(known).max(), 1e-3)
        self.low, self.high = known.min() - room, known.max() + room
        self.x = box[0] + (np.arange(len(real)) + 0.5) * box[2] / len(real)

    def y(self, values: np.ndarray | float) -> np.ndarray:
        """Height on the screen; what lies beyond the real values' range sticks to the edge."""
        _, top, _, height = self.box
        return top + height * (1 - (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low))

    def draw(self, draw, open_loop_step: np.ndarray) -> None:
        """What does not move."""
        left, top, width, height = self.box
        draw.rectangle((left, top, left + width, top + height), fill=PANEL)
        half = width / len(self.x) / 2
        for x in self.x[open_loop_step > 0]:
            draw.rectangle((x - half, top, x + half, top + height), fill=BAND)
        if self.low < 0 < self.high:
            draw.line((left, self.y(0.0), left + width, self.y(0.0)), fill=GRID)
        for values, color, thickness in self.values:  # the real line is the thicker: it shows under the other
            points = list(zip(self.x, self.y(values), strict=True))
            for start, end in pairwise(points):
                if np.isfinite([start[1], end[1]]).all():
                    draw.line((*start, *end), fill=color, width=thickness)

    def point(self, draw, t: int) -> None:
        """The cursor at frame t, and the two values there."""
        left, top, _, height = self.box
        draw.line((self.x[t], top, self.x[t], top + height), fill=TEXT)
        texts = [(f"{self.name}:", TEXT)]
        for label, (values, color, size) in zip(("real", "predicted"), self.values, strict=True):
            texts.append((f"{label} {values[t]:.3f}" if np.isfinite(values[t]) else f"{label} -", color))
            if np.isfinite(values[t]):
                x, y = self.x[t], self.y(values[t])
                draw.ellipse((x - size, y - size, x + size, y + size), fill=color)
        for (text, color), offset in zip(texts, (0, 80, 190), strict=True):
            draw.text((left + offset, top - CAPTION / 2), text, color, _font(15), anchor="lm")


def _frame(base, t, rows, tiles, tile_width, strips, steps, title, fps) -> np.ndarray:
    """Frame t: a copy of what does not move, with its own pictures, captions and cursor."""
    image = base.copy()
    draw = ImageDraw.Draw(image)
    clock = f"frame {t}" + (f"   {t / fps:.2f} s" if fps else "")
    draw.text((MARGIN, TITLE / 2), title, TEXT, _font(16), anchor="lm")
    draw.text((image.width - MARGIN, TITLE / 2), clock, TEXT, _font(16), anchor="rm")
    for column, (name, pictures) in enumerate(rows.items()):
        left, top = MARGIN + column * (tile_width + MARGIN), TITLE + CAPTION
        imagined = name == "dream" and steps > 0
        label = {
            "dream": f"dream: open loop +{steps}" if steps else "dream: observing",
            "error": f"|dream - real| x{ERROR_GAIN}",
        }.get(name, name)
        draw.text((left, top - CAPTION / 2 - 1), label, DREAM if imagined else TEXT, _font(15), anchor="lm")
        for camera, size in tiles.items():
            if imagined:
                draw.rectangle((left - 3, top - 3, left + size[0] + 2, top + size[1] + 2), fill=DREAM)
            picture = Image.fromarray(pictures[camera][t]).resize(size, Image.Resampling.NEAREST)
            image.paste(picture, (left, top))
            top += size[1] + MARGIN
    for strip in strips:
        strip.point(draw, t)
    return np.asarray(image)


def _check(rows: Mapping[str, Pictures], lines: Mapping, count: int) -> None:
    for name, pictures in rows.items():
        for camera, value in pictures.items():
            truth = rows.get("real", {}).get(camera)
            if truth is None or value.shape != truth.shape or len(value) != count or value.dtype != np.uint8:
                found = f"{name} of {camera!r} is {value.dtype} {value.shape}"
                raise ValueError(f"{found}: not uint8, not {count} frames, or unlike the real one")
    for name, values in lines.items():
        if any(np.shape(value) != (count,) for value in values):
            raise ValueError(f"{name} has {[np.shape(value) for value in values]} values, and there are {count} frames")


def _error(real: np.ndarray, dream: np.ndarray) -> np.ndarray:
    return np.minimum(255, np.abs(real.astype(np.int16) - dream) * ERROR_GAIN).astype(np.uint8)


def ffmpeg_path() -> str:
    """The path of the ffmpeg at hand."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        if found := which(get_ffmpeg_exe()):
            return found
    except (ImportError, RuntimeError):
        pass
    advice = "pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg with x264"
    raise RuntimeError(f"there is no ffmpeg to write videos with: {advice}")
