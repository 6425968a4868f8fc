"""The MuJoCo side of the tabletop: one model per embodiment, whose arrays are edited to show any scene."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from envs.tabletop.scene import CROSS_BAR, MAX_OBJECTS, MAX_ZONES, TOOL_RADIUS, ZONE, Object, Scene, Tool, Zone
from envs.tabletop.vocabulary import COLOURS, SHAPES, SIZES

MAX_OPENING = 0.48  # metres between the fingers; a large cube's diagonal is 0.44
_FINGER = 0.025  # metres: half a finger's thickness
_PARKED = 1.5  # metres from the middle: where absent objects are, unseen and out of reach
_IN_THE_AIR = 0.02  # metres under an object that casts a shadow
_ZONE_SHADE = 0.55  # zones are darker than objects of the same colour
_TYPES = {
    "cube": mujoco.mjtGeom.mjGEOM_BOX,
    "ball": mujoco.mjtGeom.mjGEOM_SPHERE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "plate": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "cross": mujoco.mjtGeom.mjGEOM_BOX,
}
_COLOUR_NAMES, _SIZE_NAMES = tuple(COLOURS), tuple(SIZES)

# Compiled with the largest dimensions of all, so that the bounds that MuJoCo computes once hold for every shape.
_OBJECT = """
    <body name="object{i}">
      <inertial pos="0 0 0" mass=".01" diaginertia="1e-5 1e-5 1e-5"/>
      <joint name="object{i}_x" type="slide" axis="1 0 0" damping="3"/>
      <joint name="object{i}_y" type="slide" axis="0 1 0" damping="3"/>
      <geom name="shadow{i}" type="cylinder" pos="0 0 .003" size=".2 .001" contype="0" conaffinity="0"/>
      <body name="part{i}">
        <inertial pos="0 0 0" mass=".25" diaginertia=".003 .003 .003"/>
        <joint name="object{i}_turn" type="hinge" axis="0 0 1" damping=".02"/>{height}
        <geom name="shape{i}" type="box" size=".2 .2 .2" user="-1 0 0"/>
        <geom name="bar{i}" type="box" size=".2 .2 .2"/>
      </body>
    </body>"""

_HEIGHT = """
        <joint name="object{i}_z" type="slide" axis="0 0 1" range="0 2" limited="true"/>"""  # what can be lifted

_ZONE_BODY = """
    <body name="zone{i}" mocap="true">
      <geom name="zone{i}" type="box" size="{half} {half} .001" contype="0" conaffinity="0"/>
    </body>"""

_TOOLS = {
    "pusher": """
    <body name="tool" pos="0 0 {radius}">
      <joint name="tool_x" type="slide" axis="1 0 0"/>
      <joint name="tool_y" type="slide" axis="0 1 0"/>
      <geom name="tool" type="sphere" size="{radius}" mass=".5" rgba=".96 .96 .96 1" contype="3" conaffinity="3"/>
    </body>""",
    "gripper": """
    <body name="tool" gravcomp="1">
      <joint name="tool_x" type="slide" axis="1 0 0" range="-.95 .95" limited="true"/>
      <joint name="tool_y" type="slide" axis="0 1 0" range="-.95 .95" limited="true"/>
      <joint name="tool_z" type="slide" axis="0 0 1" range="0 .55" limited="true"/>
      <geom name="palm" type="box" pos="0 0 .40" size=".29 .03 .02" mass=".3" rgba=".55 .57 .6 1" contype="0"
        conaffinity="0"/>
      <body name="left" gravcomp="1">
        <joint name="left" type="slide" axis="-1 0 0" range="0 {reach}" limited="true" damping="2"/>
        <geom name="left" pos="-{finger} 0 .19" class="finger"/>
      </body>
      <body name="right" gravcomp="1">
        <joint name="right" type="slide" axis="1 0 0" range="0 {reach}" limited="true" damping="2"/>
        <geom name="right" pos="{finger} 0 .19" class="finger"/>
      </body>
    </body>""",
}

_ACTUATORS = {
    "pusher": """
    <velocity name="x" joint="tool_x" kv="8" ctrllimited="true" ctrlrange="-1 1"/>
    <velocity name="y" joint="tool_y" kv="8" ctrllimited="true" ctrlrange="-1 1"/>""",
    "gripper": """
    <velocity name="x" joint="tool_x" kv="10" ctrllimited="true" ctrlrange="-1 1"/>
    <velocity name="y" joint="tool_y" kv="10" ctrllimited="true" ctrlrange="-1 1"/>
    <velocity name="z" joint="tool_z" kv="500" ctrllimited="true" ctrlrange="-1 1" forcerange="-15 15"/>
    <position name="left" joint="left" kp="60" ctrllimited="true" ctrlrange="0 {reach}" forcerange="-6 6"/>
    <position name="right" joint="right" kp="60" ctrllimited="true" ctrlrange="0 {reach}" forcerange="-6 6"/>""",
}

_WORLD = """
<mujoco model="tabletop_{tool}">
  <option timestep="0.01" gravity="0 0 -5" integrator="implicitfast" impratio="10"><flag midphase="disable"/></option>
  <size nuser_geom="3"/>
  <visual>
    <headlight ambient=".62 .62 .62" diffuse="0 0 0" specular="0 0 0"/>
    <quality shadowsize="0" offsamples="0" numslices="12" numstacks="6" numquads="1"/>
    <global offwidth="512" offheight="512"/>
    <map znear="0.5" zfar="20"/>
  </visual>
  <statistic extent="1"/>
  <default>
    <geom friction=".3" contype="3" conaffinity="3"/>
    <default class="finger">
      <geom type="box" size="{finger} .06 .19" mass=".1" friction="2" margin=".004" gap=".004" contype="1"
        conaffinity="1" rgba=".96 .96 .96 1"/>
    </default>
    <default class="wall"><geom type="box" rgba=".62 .60 .58 1" contype="2" conaffinity="2"/></default>
  </default>
  <worldbody>
    <light directional="true" dir=".55 -.1 -.83" diffuse=".5 .5 .5" specular="0 0 0" castshadow="false"/>
    <camera name="view" pos="0 -3.03 6.34" xyaxes="1 0 0 0 .906 .423" fovy="18.3"/>
    <geom name="table" type="box" pos="0 0 -.01" size="1.1 1.1 .01" rgba=".27 .28 .31 1" contype="0" conaffinity="0"/>
    <geom class="wall" name="west" pos="-1.03 0 .04" size=".03 1.06 .05"/>
    <geom class="wall" name="east" pos="1.03 0 .04" size=".03 1.06 .05"/>
    <geom class="wall" name="south" pos="0 -1.03 .04" size="1.06 .03 .05"/>
    <geom class="wall" name="north" pos="0 1.03 .04" size="1.06 .03 .05"/>{bodies}
  </worldbody>
  <actuator>{actuators}
  </actuator>
</mujoco>
"""


def build(tool: str) -> mujoco.MjModel:
    """The model of the embodiment `tool`: six objects, three zones, all absent until `put`."""
    numbers = {"radius": TOOL_RADIUS, "finger": _FINGER, "reach": MAX_OPENING / 2}
    bodies = _TOOLS[tool].format(**numbers)
    for i in range(MAX_OBJECTS):
        bodies += _OBJECT.format(i=i, height=_HEIGHT.format(i=i) if tool == "gripper" else "")
    bodies += "".join(_ZONE_BODY.format(i=i, half=ZONE) for i in range(MAX_ZONES))
    actuators = _ACTUATORS[tool].format(**numbers)
    return mujoco.MjModel.from_xml_string(_WORLD.format(tool=tool, bodies=bodies, actuators=actuators, **numbers))


def joints(model: mujoco.MjModel) -> tuple[int, int]:
    """How many joints the tool has, which come first in `qpos`, and how many each object has: x, y, turn, and of the
    gripper's, which can be lifted, the height."""
    return (5, 4) if model.nq == 5 + 4 * MAX_OBJECTS else (2, 3)


def put(scene: Scene, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Make the model show the scene, at rest; `mj_forward` is the caller's.

    Raises:
        ValueError: more objects or zones than the model has, or an object in the air that only a gripper can lift.
    """
    tool, each = joints(model)
    if len(scene.objects) > MAX_OBJECTS or len(scene.zones) > MAX_ZONES:
        raise ValueError(
            f"a scene of {len(scene.objects)} objects and {len(scene.zones)} zones; the tabletop has room for "
            f"{MAX_OBJECTS} and {MAX_ZONES}"
        )
    if each == 3 and any(thing.position[2] > _IN_THE_AIR for thing in scene.objects):
        raise ValueError("an object in the air: the pusher's table has no heights; build the gripper's for this scene")
    data.qvel[:] = 0.0
    objects = data.qpos[tool:].reshape(MAX_OBJECTS, each)
    for i in range(MAX_OBJECTS):
        if i < len(scene.objects):
            thing = scene.objects[i]
            _shape(model, i, thing)
            x, y, z = thing.position
            objects[i] = (x, y, thing.turn, z)[:each]
        else:
            _hide(model, i)
            objects[i] = (_PARKED, 0.4 * i - 1.0, 0.0, 0.0)[:each]
    for i in range(MAX_ZONES):
        geom = model.geom(f"zone{i}")
        if i < len(scene.zones):
            zone = scene.zones[i]
            geom.rgba[:] = *(_ZONE_SHADE * part for part in COLOURS[zone.colour]), 1.0
            geom.user[:2] = 1.0, _COLOUR_NAMES.index(zone.colour)
            data.mocap_pos[i] = *zone.position, 0.001
        else:
            geom.rgba[3], geom.user[0] = 0.0, 0.0
            data.mocap_pos[i] = _PARKED, 0.6 * i - 0.6, 0.001
    if scene.tool.kind == "gripper":
        data.qpos[:tool] = *scene.tool.position, scene.tool.opening / 2, scene.tool.opening / 2
        data.ctrl[3:] = scene.tool.opening / 2
    else:
        data.qpos[:tool] = scene.tool.position[:2]
    cast_shadows(model, data)


def read(model: mujoco.MjModel, data: mujoco.MjData) -> Scene:
    """What the model shows now."""
    qpos, (start, each) = data.qpos.tolist(), joints(model)
    gripper = each == 4
    held = _held(model, data) if gripper else ()
    shown = model.geom_user.tolist()
    shapes, zones = _geoms(model)
    objects = []
    for i, geom in enumerate(shapes):
        shape, colour, size = shown[geom]
        if shape >= 0:
            x, y, turn, z = (*qpos[start + each * i : start + each * (i + 1)], 0.0)[:4]
            names = SHAPES[int(shape)], _COLOUR_NAMES[int(colour)], _SIZE_NAMES[int(size)]
            objects.append(Object(*names, (x, y, z), turn, geom in held))
    places = data.mocap_pos.tolist()
    marked = tuple(
        Zone(_COLOUR_NAMES[int(shown[geom][1])], (places[i][0], places[i][1]))
        for i, geom in enumerate(zones)
        if shown[geom][0]
    )
    if gripper:
        tool = Tool("gripper", (qpos[0], qpos[1], qpos[2]), qpos[3] + qpos[4])
    else:
        tool = Tool("pusher", (qpos[0], qpos[1], 0.0))
    return Scene(tuple(objects), marked, tool)


def colours(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Which colour each of the model's objects and each of its zones has: bool `[6, 8]` and `[3, 8]`, by its place in
    `COLOURS`; no colour where there is none."""
    shapes, zones = _geoms(model)
    objects, marked = model.geom_user[shapes.start : shapes.stop : 3], model.geom_user[zones.start : zones.stop]
    each = np.arange(len(COLOURS))
    return (
        (objects[:, 1:2] == each) & (objects[:, :1] >= 0),
        (marked[:, 1:2] == each) & (marked[:, :1] != 0),
    )


def cast_shadows(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Show a shadow under what is in the air, which tells a lifted object from one further back; nowhere else, as
    every geom costs time to draw."""
    tool, each = joints(model)
    if each == 4:
        heights = data.qpos[tool + 3 :: each]
        model.geom_rgba[_geoms(model)[0].start - 1 : -MAX_ZONES : 3, 3] = heights > _IN_THE_AIR


def _geoms(model: mujoco.MjModel) -> tuple[range, range]:
    """The geoms of the objects' shapes, three a body (shadow, shape, bar), and of the zones: the last of the model."""
    zones = model.ngeom - MAX_ZONES
    return range(zones - 3 * MAX_OBJECTS + 1, zones, 3), range(zones, model.ngeom)


def _shape(model: mujoco.MjModel, i: int, thing: Object) -> None:
    shape, bar, shadow = model.geom(f"shape{i}"), model.geom(f"bar{i}"), model.geom(f"shadow{i}")
    half, high = thing.half_width, thing.height / 2
    cross = thing.shape == "cross"
    size = {"ball": (half, 0, 0), "cube": (half, half, high), "cross": (half, CROSS_BAR * half, high)}
    shape.type = int(_TYPES[thing.shape])
    shape.size[:] = size.get(thing.shape, (half, high, 0))
    shape.user[:] = SHAPES.index(thing.shape), _COLOUR_NAMES.index(thing.colour), _SIZE_NAMES.index(thing.size)
    bar.size[:] = CROSS_BAR * half, half, high
    for geom, shown in ((shape, True), (bar, cross)):
        geom.pos[2] = high
        geom.rgba[:] = *COLOURS[thing.colour], float(shown)
        geom.contype = geom.conaffinity = 3 if shown else 0
        geom.rbound = math.sqrt(float((geom.size**2).sum()))
    shadow.size[0] = (0.7 if cross else 0.95) * half
    shadow.rgba[:] = 0.1, 0.1, 0.12, 0.0


def _hide(model: mujoco.MjModel, i: int) -> None:
    model.geom(f"shape{i}").user[0] = -1.0
    for name in (f"shape{i}", f"bar{i}", f"shadow{i}"):
        geom = model.geom(name)
        geom.rgba[3] = 0.0
        geom.contype = geom.conaffinity = 0


def _held(model: mujoco.MjModel, data: mujoco.MjData) -> set[int]:
    """The shape geoms of the objects that both fingers touch."""
    if data.ncon < 2:
        return set()
    left, right = model.geom("left").id, model.geom("right").id
    shapes, _ = _geoms(model)
    touched = {left: set(), right: set()}
    for a, b in data.contact.geom.tolist():
        finger, other = (a, b) if a in touched else (b, a)
        if finger in touched and shapes.start <= other <= shapes.stop:
            touched[finger].add(other - (other - shapes.start) % 3)  # a cross's second bar is the geom after
    return touched[left] & touched[right]
