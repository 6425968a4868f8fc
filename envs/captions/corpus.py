"""Pictures with what is true of them: drawn tabletops, arranged so that rare things happen, and the built-in tasks."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from envs.cameras import own_view
from envs.captions.appearance import Appearance
from envs.captions.statements import TASKS
from envs.captions.truth import GRID, Tables, empty_tables, enter_scene, enter_task
from envs.renderer import Renderer
from envs.tabletop import table
from envs.tabletop.facts import NEXT_TO
from envs.tabletop.geometry import gap
from envs.tabletop.scene import LIFTED, MAX_OBJECTS, TABLE, TOOL_RADIUS, TOOLS, ZONE, Scene, draw

_TABLETOPS = 0.75  # of all pictures
_VARIED = 0.5  # of them: in other colours, light and from other places than the env's own
_INSIDE = 0.9  # metres from the middle: no object is further out
_CLOSEST = 0.015  # metres between the surfaces of objects that touch
_TRIES = 30


class Corpus:
    """Draws pictures; close it when done.

    Args:
        size: pixels of a side.
        quality: of `envs.renderer.Renderer`.
    """

    def __init__(self, size: int = 64, quality: str = "smooth"):
        import gymnasium

        self._size = size
        self._tabletops = {
            kind: _Stage(model := table.build(kind), mujoco.MjData(model), size, quality) for kind in TOOLS
        }
        self._tasks = {task: gymnasium.make(id, disable_env_checker=True).unwrapped for task, id in TASKS.items()}
        self._stages = {task: _Stage(env.model, env.data, size, quality) for task, env in self._tasks.items()}

    def draw(self, count: int, seed: int, split: str = "train", on_picture=None) -> tuple[np.ndarray, Tables]:
        """`count` pictures, uint8 `[count, H, W, 3]`, and what is true of them.

        Args:
            split: of the tabletops, as in `envs.tabletop.scene.draw`; what holds out words changes no built-in task.
            on_picture: called after each.
        """
        rng = np.random.default_rng(seed)
        pictures, tables = np.empty((count, self._size, self._size, 3), np.uint8), empty_tables(count)
        for row in range(count):
            if split != "train" or rng.random() < _TABLETOPS:
                pictures[row] = self._tabletop(tables, row, rng, split)
            else:
                pictures[row] = self._task(tables, row, rng)
            if on_picture is not None:
                on_picture()
        return pictures, tables

    def _tabletop(self, tables: Tables, row: int, rng: np.random.Generator, split: str) -> np.ndarray:
        kind = TOOLS[int(rng.integers(len(TOOLS)))]
        scene = arrange(draw(rng, split, kind), rng)
        enter_scene(tables, row, scene)
        stage = self._tabletops[kind]
        table.put(scene, stage.model, stage.data)
        picture = stage.picture(rng)
        middles = [(*thing.position[:2], thing.position[2] + thing.height / 2) for thing in scene.objects]
        tables.cells[row, : len(middles)] = stage.cells(middles)
        marked = [(*zone.position, 0.0) for zone in scene.zones]
        tables.cells[row, MAX_OBJECTS : MAX_OBJECTS + len(marked)] = stage.cells(marked)
        return picture

    def _task(self, tables: Tables, row: int, rng: np.random.Generator) -> np.ndarray:
        task = list(TASKS)[int(rng.integers(len(TASKS)))]
        env, solved = self._tasks[task], rng.random() < 0.25
        solvable = solved and getattr(env, "starts_solved", False)
        env.reset(seed=int(rng.integers(2**31)), options={"broad": True, **({"solved": True} if solvable else {})})
        if solved and task in ("cartpole", "pendulum"):  # upright is rare among all angles
            env.data.qpos[-1] = rng.normal(0, 0.2)
        enter_task(tables, row, task, env)
        return self._stages[task].picture(rng)

    def close(self) -> None:
        """Free the renderers."""
        for stage in (*self._tabletops.values(), *self._stages.values()):
            stage.renderer.close()
        for env in self._tasks.values():
            env.close()


class _Stage:
    """A model, its data and a renderer for it."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, size: int, quality: str):
        self.model, self.data = model, data
        self.renderer = Renderer(model, size, size, quality)
        self.camera = own_view(_Named(model))
        self.appearance = Appearance(model)
        self._fovy = 0.0  # of the last picture, in degrees

    def picture(self, rng: np.random.Generator) -> np.ndarray:
        """Of the data as they stand, as the env draws it or with another look."""
        varied = rng.random() < _VARIED
        if varied:
            self.appearance.vary(rng)
        try:
            mujoco.mj_forward(self.model, self.data)
            self._fovy = float(self.model.cam_fovy[self.camera.fixedcamid])
            return self.renderer.render(self.data, self.camera)
        finally:
            if varied:
                self.appearance.restore()

    def cells(self, points) -> list[int]:
        """Which cells of the last picture show the points `[P, 3]`, as in `Tables.cells`."""
        camera, data = self.camera.fixedcamid, self.data
        zoom = 1 / math.tan(math.radians(self._fovy) / 2)
        found = []
        for point in points:
            right, up, back = data.cam_xmat[camera].reshape(3, 3).T @ (np.array(point) - data.cam_xpos[camera])
            column, row = ((1 + zoom * side / -back) / 2 * GRID for side in (right, -up))
            inside = 0 <= column < GRID and 0 <= row < GRID
            found.append(int(row) * GRID + int(column) if inside else -1)
        return found


class _Named:
    """What `own_view` asks of an env: the tabletop's models and the tasks' call their camera alike."""

    own_camera = "view"

    def __init__(self, model: mujoco.MjModel):
        self.model = model


def arrange(scene: Scene, rng: np.random.Generator) -> Scene:
    """A drawn scene, in which objects lie apart and the tool is away, with one to five things made to happen."""
    changes = (_reached, _reached, _into_zone, _into_zone, _beside, _in_line, _lifted, _shifted)
    for _ in range(int(rng.integers(1, 6))):
        change = changes[int(rng.integers(len(changes)))](scene, rng)
        if change is not None and _possible(change):
            scene = change
    return scene


def _possible(scene: Scene) -> bool:
    """Nothing is inside anything else, or off the table."""
    things = scene.objects
    if any(max(abs(x) for x in thing.position[:2]) > min(_INSIDE, TABLE - thing.radius) for thing in things):
        return False
    apart = (gap(a, b) > 0.004 for i, a in enumerate(things) for b in things[:i])
    return all(apart)


def _one(scene: Scene, rng: np.random.Generator) -> int:
    return int(rng.integers(len(scene.objects)))


def _around(rng: np.random.Generator, middle, distance: float) -> tuple[float, float]:
    angle = rng.uniform(-math.pi, math.pi)
    return middle[0] + distance * math.cos(angle), middle[1] + distance * math.sin(angle)


def _reached(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """The tool at an object: pushing beside it, or the gripper over or around it."""
    thing = scene.objects[_one(scene, rng)]
    if scene.tool.kind == "gripper":
        x, y = thing.position[:2] + rng.normal(0, 0.02, 2)
        if rng.random() < 0.5:
            return scene.with_tool(
                (x, y, thing.position[2] + thing.height + rng.uniform(0.0, 0.1)), rng.uniform(0, 0.4)
            )
        return scene.with_tool((x, y, thing.position[2] + 0.02), 2 * thing.radius + 0.02)
    place = _around(rng, thing.position, thing.radius + TOOL_RADIUS + rng.uniform(0.0, 0.15))
    if max(map(abs, place)) > TABLE - TOOL_RADIUS:
        return None
    clear = all(math.dist(place, other.position[:2]) > other.half_width + TOOL_RADIUS for other in scene.objects)
    return scene.with_tool(place) if clear else None


def _into_zone(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if not scene.zones:
        return None
    zone = scene.zones[int(rng.integers(len(scene.zones)))]
    return scene.moved(_one(scene, rng), np.add(zone.position, rng.uniform(-ZONE, ZONE, 2)))


def _beside(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if len(scene.objects) < 2:
        return None
    i, j = rng.permutation(len(scene.objects))[:2].tolist()
    a, b = scene.objects[i], scene.objects[j]
    for _ in range(_TRIES):
        distance = a.half_width + b.half_width + rng.uniform(0, 0.15)
        moved = scene.moved(i, _around(rng, b.position, distance))
        if _CLOSEST / 3 < gap(moved.objects[i], b) < NEXT_TO + 0.04:
            return moved
    return None


def _in_line(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if len(scene.objects) < 3:
        return None
    i, j, k = rng.permutation(len(scene.objects))[:3].tolist()
    (x1, y1, _), (x2, y2, _) = scene.objects[j].position, scene.objects[k].position
    along = rng.uniform(-0.7, 1.7)
    return scene.moved(i, np.add((x1 + along * (x2 - x1), y1 + along * (y2 - y1)), rng.normal(0, 0.03, 2)))


def _lifted(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """An object between the gripper's fingers, up in the air."""
    if scene.tool.kind != "gripper":
        return None
    i = _one(scene, rng)
    thing = scene.objects[i]
    x, y = rng.uniform(-0.8, 0.8, 2)
    high = rng.uniform(LIFTED, 0.3)
    held = scene.moved(i, (x, y, high), held=True)
    return held.with_tool((x, y, high + 0.02), 2 * thing.half_width)


def _shifted(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """An object anywhere, near walls too, where no start puts it."""
    return scene.moved(_one(scene, rng), rng.uniform(-_INSIDE, _INSIDE, 2))
