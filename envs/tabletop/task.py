"""Tabletop: do with simple shapes what a sentence says."""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np

from envs.tabletop import goals, instructions, starts, table
from envs.tabletop.experts import Expert
from envs.tabletop.play import Player
from envs.tabletop.scene import MAX_OBJECTS, MAX_ZONES, TOOLS, Scene
from envs.tabletop.scene import draw as draw_scene
from envs.tabletop.state import ByColour
from envs.tabletop.vocabulary import COLOURS, SHAPES, SIZES, SPLITS, check_choice
from envs.tasks import PHYSICS_STEPS
from envs.tasks.task import Task

_SHAPE_ROWS, _SIZE_NAMES = np.eye(len(SHAPES)), tuple(SIZES)


class Tabletop(Task):
    """Two to six objects, one to three zones, and an instruction, on a walled table of 2 x 2 m.

    Reward: how far the instruction is done, in [0, 1], for each of the four physics steps of a control step
    (`Instruction.progress`, read after the last of them). `info["instruction"]`: the sentence, also the attribute
    `instruction`. `info["success"]`: what it asks for is so now.

    Actions in [-1, 1]. `pusher`: the velocity of a ball, in m/s. `gripper`: the velocity of a hand in x, y and z, in
    m/s, and how far its two fingers shall be open, from closed to 0.48 m. Objects slide and turn on the table, and
    don't tip.

    Observation, of fixed length and without the instruction: the tool's joints and velocities; for each of six objects
    whether it is there, its place, cosine and sine of its turn, its velocities, its shape (one of five), whether it is
    large, its rgb; for each of three zones whether it is there, its place, its rgb.

    `reset(options=...)` takes `broad` (anything anywhere, and the tool moving), `solved` (the very task that the seed
    draws, as it looks when it is done), `state`, and `instruction`, a sentence for this episode.

    Args:
        embodiment: `pusher` or `gripper`.
        instruction: a sentence for every episode; its layouts have what it names. None draws one with every layout.
        kinds: what to draw from (`envs.tabletop.instructions.KINDS`); None: all that the embodiment can follow.
        split: `train`; `held_out_combinations`: the object named first has a colour that no training scene shows on
            its shape; `held_out_phrasings`: training layouts, other words; `held_out_layouts`: the object named first
            starts in a square of 0.4 x 0.4 m where no training layout puts an object or a zone.
        objects: how many there are, from and to; more where the instruction names more.
        plays: `expert_action` does not do what is asked, but plays (`envs.tabletop.play.Player`).

    Raises:
        ValueError: an option has an unknown value, a sentence is not understood, or asks the pusher to lift.
    """

    def __init__(
        self,
        embodiment: str = "pusher",
        instruction: str | None = None,
        kinds=None,
        split: str = "train",
        objects: tuple[int, int] = (2, MAX_OBJECTS),
        plays: bool = False,
        render_mode: str | None = None,
    ):
        check_choice("env.kwargs.embodiment", embodiment, TOOLS)
        check_choice("env.kwargs.split", split, SPLITS)
        for kind in kinds or ():
            check_choice("env.kwargs.kinds", kind, instructions.kinds_of(embodiment))
        low, high = (int(count) for count in objects)
        if not 1 <= low <= high <= MAX_OBJECTS:
            raise ValueError(f"env.kwargs.objects={objects!r}: from and to, between 1 and {MAX_OBJECTS}")
        self.embodiment, self.split = embodiment, split
        self._kinds, self._objects = tuple(kinds) if kinds else None, (low, high)
        self._given, self._plays = instruction, plays
        self._instruction = self._understood(instruction) if instruction else None
        self.instruction = instruction or ""
        self.model = table.build(embodiment)
        self.data = mujoco.MjData(self.model)
        self.privileged_state = ByColour(self.model)
        self.dt = PHYSICS_STEPS * self.model.opt.timestep
        self.render_mode = render_mode
        self._renderer = None
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2 if embodiment == "pusher" else 4,), np.float32)
        self._fixed = np.zeros((MAX_OBJECTS, 2 + len(SHAPES) + 3)), np.zeros((MAX_ZONES, 4))
        self._scene: Scene | None = None
        self._expert: Expert | Player | None = None
        self._asked = None
        self._show(draw_scene(np.random.default_rng(0), tool=embodiment))
        mujoco.mj_forward(self.model, self.data)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, self._observation().shape, np.float32)

    starts_solved = True  # `reset` takes the option `solved`

    @property
    def scene(self) -> Scene:
        """What is there now."""
        if self._scene is None:
            self._scene = Scene.of(self.model, self.data)
        return self._scene

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        sentence = (options or {}).get("instruction")
        self._asked, self._expert = sentence or self._given, None
        return super().reset(seed=seed, options=options)

    def alternatives(self, rng: np.random.Generator) -> dict[str, tuple[str, str]]:
        """What else could be asked for now: kind to a sentence in a seen and in a held-out phrasing, of every kind that
        the scene allows and that is not done in it."""
        found = {}
        for kind in instructions.kinds_of(self.embodiment):
            drawn = instructions.draw(rng, self.scene, [kind])
            if drawn is not None and not drawn.satisfied(self.scene):
                found[kind] = drawn.sentence(rng), drawn.sentence(rng, "held_out")
        return found

    def is_done(self, sentence: str) -> bool:
        """What the sentence asks for is so now. Raises ValueError for a sentence that is not understood."""
        return instructions.parse(sentence).satisfied(self.scene)

    def expert_action(self) -> np.ndarray:
        """What the scripted expert of this episode's instruction does now, or who plays: float32 [A]. Ask once a step: it
        remembers which way it goes."""
        if self._instruction is None:
            raise RuntimeError("the expert acts in an episode: call reset() first")
        if self._expert is None:
            self._expert = Player(self.np_random.spawn(1)[0]) if self._plays else Expert(self._instruction)
        return self._expert.act(self.scene)

    def step(self, action):
        data, action = self.data, np.asarray(action, float)
        if self.embodiment == "gripper":
            data.ctrl[:3] = action[:3]
            data.ctrl[3:] = (np.clip(action[3], -1, 1) + 1) / 4 * table.MAX_OPENING
        else:
            data.ctrl[:] = action
        mujoco.mj_step(self.model, data, nstep=PHYSICS_STEPS)
        # mj_step moves the joints last and leaves the bodies where they were: a picture would be one physics step late.
        mujoco.mj_kinematics(self.model, data)
        self._scene = None
        table.cast_shadows(self.model, data)
        return self._observation(), PHYSICS_STEPS * self._reward(), False, False, self._info()

    def _place(self, rng: np.random.Generator, broad: bool) -> None:
        given = self._understood(self._asked) if self._asked else None
        start, self._instruction = (starts.draw_broad if broad else starts.draw_start)(
            rng, self.split, self.embodiment, self._objects, self._kinds, given
        )
        phrasings = "held_out" if self.split == "held_out_phrasings" else "seen"
        self.instruction = self._asked or self._instruction.sentence(rng, phrasings)
        self._show(start)
        if broad:
            speeds = 2 if self.embodiment == "pusher" else 3
            self.data.qvel[:speeds] = rng.uniform(-1, 1, size=speeds)

    def _apply(self, options: dict) -> None:
        super()._apply(options)
        if options.get("solved"):
            self._solve()
        self._scene = None
        table.cast_shadows(self.model, self.data)

    def _solve(self) -> None:
        """The scene as it looks when the instruction is done."""
        mujoco.mj_forward(self.model, self.data)
        self._scene = None
        self._show(goals.solved(self._instruction, self.scene))

    def _show(self, scene: Scene) -> None:
        table.put(scene, self.model, self.data)
        self._scene = None
        objects, zones = self._fixed
        objects[:], zones[:] = 0.0, 0.0
        for row, thing in zip(objects, scene.objects):
            shape = _SHAPE_ROWS[SHAPES.index(thing.shape)]
            row[:] = 1.0, *shape, _SIZE_NAMES.index(thing.size), *COLOURS[thing.colour]
        for row, zone in zip(zones, scene.zones):
            row[:] = 1.0, *COLOURS[zone.colour]

    def _understood(self, sentence: str) -> instructions.Instruction:
        understood = instructions.parse(sentence)
        if understood.kind not in instructions.kinds_of(self.embodiment):
            raise ValueError(
                f"env.kwargs.instruction={sentence!r}: the {self.embodiment} can't {understood.kind}; "
                "take env.kwargs.embodiment=gripper"
            )
        return understood

    def _reward(self) -> float:
        return self._instruction.progress(self.scene)

    def _observation(self) -> np.ndarray:
        data, (tool, each) = self.data, table.joints(self.model)
        places, speeds = data.qpos[tool:].reshape(MAX_OBJECTS, each), data.qvel[tool:]
        turned = places[:, 2]
        objects, zones = self._fixed
        parts = (data.qpos[:tool], data.qvel[:tool], places[:, :2], places[:, 3:], np.cos(turned), np.sin(turned))
        parts += (speeds, objects, data.mocap_pos[:, :2], zones)
        return np.concatenate([part.ravel() for part in parts], dtype=np.float32)

    def _info(self) -> dict:
        return {"instruction": self.instruction, "success": self._instruction.satisfied(self.scene)}
