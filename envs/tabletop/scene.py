"""What is on the table now: a plain description, apart from MuJoCo, that facts, instructions and experts work on."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from envs.tabletop.vocabulary import (
    COLOURS,
    HELD_OUT_COMBINATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    Reference,
    check_choice,
)

TABLE = 1.0  # metres from the middle to each wall
MAX_OBJECTS, MAX_ZONES = 6, 3
ZONE = 0.24  # metres: half a zone's side
TOOLS = ("pusher", "gripper")
TOOL_RADIUS = 0.08  # metres: the pusher's ball, and the gripper's closed fingers seen from above
LIFTED = 0.1  # metres under an object that is held

# Half width and height in metres, of a small one. The cross is two bars; its half width is that of a bar's length.
_DIMENSIONS = {
    "cube": (0.115, 0.23),
    "ball": (0.12, 0.24),
    "cylinder": (0.115, 0.26),
    "plate": (0.14, 0.06),
    "cross": (0.145, 0.12),
}
CROSS_BAR = 0.32  # a bar's width, of its length


class Object(NamedTuple):
    """One object. `position`: x and y of its middle, and how high its underside is over the table, in metres."""

    shape: str
    colour: str
    size: str
    position: tuple[float, float, float]
    turn: float = 0.0  # radians about the vertical
    held: bool = False  # between the gripper's fingers

    @property
    def half_width(self) -> float:
        return _DIMENSIONS[self.shape][0] * SIZES[self.size]

    @property
    def height(self) -> float:
        return _DIMENSIONS[self.shape][1] * SIZES[self.size]

    @property
    def radius(self) -> float:
        """Of the circle around it, seen from above."""
        half = self.half_width
        if self.shape == "cube":
            return math.sqrt(2) * half
        return math.hypot(1, CROSS_BAR) * half if self.shape == "cross" else half

    @property
    def reference(self) -> Reference:
        return Reference(self.colour, self.shape, self.size)


class Zone(NamedTuple):
    """A square on the table, of side 2 ZONE. `position`: x and y of its middle."""

    colour: str
    position: tuple[float, float]


class Tool(NamedTuple):
    """The robot. `position`: x, y, and of the gripper the height of its fingertips over the table, in metres."""

    kind: str
    position: tuple[float, float, float]
    opening: float = 0.0  # metres between the gripper's fingers


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects, zones and the tool. Left, right, above and below are x and y: as in the picture."""

    objects: tuple[Object, ...]
    zones: tuple[Zone, ...]
    tool: Tool

    @classmethod
    def of(cls, model, data) -> Scene:
        """What a MuJoCo model of the tabletop and its data show (see `envs.tabletop.table`)."""
        from envs.tabletop.table import read

        return read(model, data)

    @functools.cached_property
    def _by_name(self) -> dict:
        named: dict = {}
        for thing in self.objects:
            named.setdefault((thing.colour, thing.shape), []).append(thing)
        return named

    def matching(self, reference: Reference) -> list[Object]:
        """Every object that `reference` may mean."""
        if reference.colour is not None and reference.shape is not None:
            found = self._by_name.get((reference.colour, reference.shape), [])
            return found if reference.size is None else [thing for thing in found if thing.size == reference.size]
        return [thing for thing in self.objects if reference.means(thing)]

    def index(self, reference: Reference) -> int | None:
        """Which object `reference` means, the first of several; None where there is none."""
        found = self.matching(reference)
        return self.objects.index(found[0]) if found else None

    def zone(self, colour: str) -> Zone | None:
        """The zone of that colour; None where there is none."""
        return next((zone for zone in self.zones if zone.colour == colour), None)

    def name(self, index: int) -> Reference:
        """The shortest reference that means object `index` alone: the size only where it tells two apart."""
        thing = self.objects[index]
        short = Reference(thing.colour, thing.shape)
        return short if len(self.matching(short)) == 1 else thing.reference

    def moved(self, index: int, position, held: bool = False, turn: float | None = None) -> Scene:
        """The same scene with object `index` at `position`, [2] or [3], and turned to `turn` if given."""
        x, y, z = (*position, 0.0)[:3]
        thing = self.objects[index]
        turn = thing.turn if turn is None else turn
        thing = thing._replace(position=(float(x), float(y), float(z)), held=held, turn=turn)
        return dataclasses.replace(self, objects=(*self.objects[:index], thing, *self.objects[index + 1 :]))

    def with_tool(self, position, opening: float = 0.0) -> Scene:
        """The same scene with the tool at `position`, [2] or [3]."""
        x, y, z = (*position, 0.0)[:3]
        return dataclasses.replace(self, tool=Tool(self.tool.kind, (float(x), float(y), float(z)), opening))


# Where training scenes put no object and no zone: a square right of and above the middle.
HELD_OUT_PLACES = (0.12, 0.52)
_ROOM = 2 * TOOL_RADIUS + 0.03  # between an object and a wall: the tool fits in
_BETWEEN = 0.1  # between two objects
_TWINS = 0.3  # how often two objects differ in size alone
_TRIES = 40


def in_held_out_place(position) -> bool:
    low, high = HELD_OUT_PLACES
    return low <= position[0] <= high and low <= position[1] <= high


def draw(
    rng: np.random.Generator,
    split: str = "train",
    tool: str = "pusher",
    objects: tuple[int, int] = (2, MAX_OBJECTS),
    zones: tuple[int, int] = (1, MAX_ZONES),
    include: tuple[Reference, ...] = (),
    include_zones: tuple[str, ...] = (),
    room: float = _ROOM,
) -> Scene:
    """Draw a scene at rest, objects apart from each other, the tool away from them.

    `train` and `held_out_phrasings`: no held-out combination of colour and shape, nothing in the held-out square.
    `held_out_combinations`: the first object is one of them, and others may be. `held_out_layouts`: the first object
    is in the held-out square (0.4 x 0.4 m, where no training scene puts an object or a zone), all else anywhere.

    Args:
        objects, zones: how many, from and to.
        include: what the first objects shall be (open parts are drawn); nothing else is like them.
        include_zones: colours of zones that there shall be.
        room: metres between objects and walls at least.
    """
    check_choice("split", split, SPLITS)
    check_choice("tool", tool, TOOLS)
    while True:
        count = max(int(rng.integers(objects[0], objects[1] + 1)), len(include))
        references = _draw_references(rng, split, count, include)
        places = _draw_places(rng, split, references, room)
        if places is not None:
            break
    things = tuple(
        Object(ref.shape, ref.colour, ref.size, (*place, 0.0), float(rng.uniform(-math.pi, math.pi)))
        for ref, place in zip(references, places)
    )
    marked = _draw_zones(rng, split, max(int(rng.integers(zones[0], zones[1] + 1)), len(include_zones)), include_zones)
    return Scene(things, marked, draw_tool(rng, tool, things))


def draw_tool(rng: np.random.Generator, kind: str, things) -> Tool:
    """The tool at rest: the pusher clear of the objects, the gripper over them, half open."""
    limit = 0.88 if kind == "pusher" else 0.75  # further up the raised hand leaves the picture
    while True:
        x, y = rng.uniform(-limit, limit, size=2).tolist()
        if kind == "gripper":
            return Tool(kind, (x, y, float(rng.uniform(0.4, 0.5))), 0.22)
        if all(math.dist((x, y), thing.position[:2]) > thing.radius + TOOL_RADIUS + 0.03 for thing in things):
            return Tool(kind, (x, y, 0.0))


def _draw_references(rng, split: str, count: int, include) -> list[Reference]:
    seen = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT_COMBINATIONS]
    held_out = sorted(HELD_OUT_COMBINATIONS)
    everything = seen + held_out if split == "held_out_combinations" else seen
    sizes = tuple(SIZES)
    chosen: list[Reference] = []
    for index in range(count):
        while True:
            wanted = include[index] if index < len(include) else Reference()
            pool = held_out if split == "held_out_combinations" and index == 0 and not include else everything
            colour, shape = pool[int(rng.integers(len(pool)))]
            twin = index >= max(len(include), 1) and index + 1 == count and rng.random() < _TWINS
            if twin:
                colour, shape, _ = chosen[int(rng.integers(len(chosen)))]
            size = sizes[int(rng.integers(len(sizes)))]
            one = Reference(wanted.colour or colour, wanted.shape or shape, wanted.size or size)
            extra = index >= len(include)
            if one not in chosen and not (extra and any(reference.means(_as_thing(one)) for reference in include)):
                chosen.append(one)
                break
    return chosen


def _as_thing(reference: Reference) -> Object:
    return Object(reference.shape, reference.colour, reference.size, (0.0, 0.0, 0.0))


def _draw_places(rng, split: str, references, room: float) -> list | None:
    """Places for all, or None where they got in each other's way."""
    places, radii = [], [_as_thing(reference).radius for reference in references]
    for index, radius in enumerate(radii):
        limit = TABLE - radius - room
        for _ in range(_TRIES):
            if split == "held_out_layouts" and index == 0:
                place = rng.uniform(*HELD_OUT_PLACES, size=2).tolist()
            else:
                place = rng.uniform(-limit, limit, size=2).tolist()
                if split != "held_out_layouts" and in_held_out_place(place):
                    continue
            if all(math.dist(place, other) > radius + r + _BETWEEN for other, r in zip(places, radii)):
                places.append(place)
                break
        else:
            return None
    return places


def _draw_zones(rng, split: str, count: int, include) -> tuple[Zone, ...]:
    others = [colour for colour in rng.permutation(list(COLOURS)).tolist() if colour not in include]
    chosen: list[Zone] = []
    for colour in [*include, *others][:count]:
        while True:
            place = rng.uniform(-0.7, 0.7, size=2).tolist()
            apart = all(max(abs(a - b) for a, b in zip(place, zone.position)) > 2 * ZONE + 0.04 for zone in chosen)
            if apart and (split == "held_out_layouts" or not in_held_out_place(place)):
                chosen.append(Zone(colour, tuple(place)))
                break
    return tuple(chosen)
