"""Other dynamics in every episode: masses, friction, gravity and motors multiplied by what the episode's seed draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

VARIED = ("mass", "friction", "gravity", "gain")
STREAM = 0xD1FF  # keeps the factors apart from the env's own use of the same seed
_DERIVED = ("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "tendon_invweight0")  # of the masses
_FRICTION = ("geom_friction", "pair_friction", "dof_frictionloss", "tendon_frictionloss")
_TRANSMITTED = {  # which parameters of a gain or a bias are multiplied for k times the force
    "FIXED": slice(0, 1), "AFFINE": slice(0, 3), "MUSCLE": slice(2, 4), "NONE": slice(0, 0),
}  # fmt: skip


def check_vary(vary: Mapping) -> dict[str, tuple[float, float]]:
    """The option `env.vary` as name to (low, high).

    Raises:
        ValueError: it is no mapping, has an unknown name, or a range that is not 0 < low <= high.
    """
    if not isinstance(vary, Mapping) or not vary:
        raise ValueError(f"env.vary={vary!r}: give factors from and to, as in env.vary={{mass:[0.5,2],gain:[0.7,1.4]}}")
    ranges = {}
    for name, given in vary.items():
        if name not in VARIED:
            raise ValueError(f"env.vary.{name}: what can vary is {', '.join(VARIED)}")
        numbers = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
        if len(numbers) != 2 or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in numbers):
            raise ValueError(f"env.vary.{name}={given!r}: two factors, from and to, as in [0.5,2]")
        low, high = map(float, numbers)
        if not 0.0 < low <= high < math.inf:
            raise ValueError(f"env.vary.{name}={given!r}: the factors must be above 0, the smaller one first")
        ranges[name] = low, high
    return ranges


class Dynamics:
    """Draws an episode's factors and multiplies the nominal values of MuJoCo models by them, in place.

    `mass`: of all bodies, with their inertia. `friction`: of geoms and of pairs of them, and the dry friction in joints
    and tendons, which is how a block slides on a table that is seen from above. `gravity`: its vector. `gain`: the force
    of every actuator at the same command and motion, with its limits; a servo then goes to the same place, with other
    strength. What is multiplied is always what the model had when this was made, so factors never compound.

    Args:
        vary: some of `VARIED` to (low, high), between which factors are drawn log-uniformly.
        models: all that the env simulates, one at a time.
        env_id: for messages.

    Attributes:
        factors: of the present episode, name to number; all 1 before the first.

    Raises:
        ValueError: see `check_vary`; or nothing in any of the models hangs on what shall vary; or an actuator's force
            follows no law that can be scaled.
    """

    def __init__(self, vary: Mapping, models: Sequence[mujoco.MjModel], env_id: str):
        self._ranges, self._id = check_vary(vary), env_id
        self.factors = dict.fromkeys(self._ranges, 1.0)
        self._seeds = np.random.default_rng()
        self._nominal = [_Nominal(model, "mass" in self._ranges) for model in models]
        for name in self._ranges:
            if not any(nominal.has(name) for nominal in self._nominal):
                raise ValueError(f"env.vary.{name}: nothing in {env_id} hangs on it; leave it out")
        if "gain" in self._ranges:
            for nominal in self._nominal:
                nominal.multiply({"gain": 1.0})  # raises where it can't be

    def draw(self, seed: int | None) -> None:
        """Factors of the episode with this seed, into every model. With None, of a seed that follows from the last one
        given. A factor hangs on its name, its range and the seed alone: not on what else varies."""
        if seed is None:
            seed = int(self._seeds.integers(2**31))
        else:
            self._seeds = np.random.default_rng([STREAM, seed])
        for name, (low, high) in self._ranges.items():
            share = np.random.default_rng([STREAM, seed, VARIED.index(name)]).random()
            self.factors[name] = low * (high / low) ** float(share)
        for nominal in self._nominal:
            nominal.multiply(self.factors)

    def follow(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Take in a model that the env has rebuilt while it was reset; `data` is brought up to date with its factors."""
        if any(nominal.model is model for nominal in self._nominal):
            return
        self._nominal = [_Nominal(model, "mass" in self._ranges)]
        self._nominal[0].multiply(self.factors)
        mujoco.mj_forward(model, data)


class _Nominal:
    """One model and what it had at first."""

    def __init__(self, model: mujoco.MjModel, with_mass: bool):
        self.model = model
        names = ("body_mass", "body_inertia", *_FRICTION, "actuator_gainprm", "actuator_biasprm", "actuator_forcerange")
        self._values = {name: getattr(model, name).copy() for name in names}
        self._gravity = model.opt.gravity.copy()
        # What follows from the masses is computed in a copy: mj_setConst also sets what the env has changed in its own,
        # such as the sizes of what it shows, and moves the data to the reference pose.
        self._copy = model.__copy__() if with_mass else None
        self._data = mujoco.MjData(self._copy) if with_mass else None

    def has(self, name: str) -> bool:
        """Whether anything in the model hangs on it."""
        model, values, disabled = self.model, self._values, self.model.opt.disableflags
        if name == "mass":
            return bool(values["body_mass"].any())
        if name == "gravity":
            return bool(self._gravity.any()) and not disabled & mujoco.mjtDisableBit.mjDSBL_GRAVITY
        if name == "gain":
            return model.nu > 0
        collides = (model.geom_contype | model.geom_conaffinity).any() or model.npair
        touches = collides and not disabled & mujoco.mjtDisableBit.mjDSBL_CONTACT
        return bool(touches or values["dof_frictionloss"].any() or values["tendon_frictionloss"].any())

    def multiply(self, factors: Mapping[str, float]) -> None:
        """The model with the nominal values times `factors`."""
        model = self.model
        if "mass" in factors:
            for each in (model, self._copy):
                each.body_mass[:] = factors["mass"] * self._values["body_mass"]
                each.body_inertia[:] = factors["mass"] * self._values["body_inertia"]
            mujoco.mj_setConst(self._copy, self._data)
            for name in _DERIVED:
                getattr(model, name)[:] = getattr(self._copy, name)
        if "friction" in factors:
            for name in _FRICTION:
                getattr(model, name)[:] = factors["friction"] * self._values[name]
        if "gravity" in factors:
            model.opt.gravity[:] = factors["gravity"] * self._gravity
        if "gain" in factors:
            self._multiply_forces(factors["gain"])

    def _multiply_forces(self, factor: float) -> None:
        model = self.model
        kinds = (
            ("actuator_gainprm", model.actuator_gaintype, mujoco.mjtGain),
            ("actuator_biasprm", model.actuator_biastype, mujoco.mjtBias),
        )
        for name, types, enum in kinds:
            for row, (values, kind) in enumerate(zip(self._values[name], types)):
                law = enum(int(kind)).name.split("_")[-1]
                if law not in _TRANSMITTED:
                    raise ValueError(
                        f"env.vary.gain: actuator {model.actuator(row).name!r} is of type {law}, whose force is not one "
                        "number's multiple; leave gain out"
                    )
                own = _TRANSMITTED[law]
                getattr(model, name)[row, own] = factor * values[own]
        model.actuator_forcerange[:] = factor * self._values["actuator_forcerange"]
