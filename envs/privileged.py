"""The simulator's state as one vector: a training target where MuJoCo offers it, which no policy sees."""

from __future__ import annotations

import mujoco
import numpy as np


class PrivilegedState:
    """Reads float32 [P] from a model's data: positions, then velocities.

    Positions joint by joint (slide: its value; hinge: cosine, sine; ball: quaternion; free: place, quaternion), then
    the place of every mocap body (how goals are put into a scene); velocities are `qvel`.

    Attributes:
        length: P.
        positions: how many of its leading entries are positions.
    """

    def __init__(self, model: mujoco.MjModel):
        hinge = int(mujoco.mjtJoint.mjJNT_HINGE)
        widths = {int(mujoco.mjtJoint.mjJNT_FREE): 7, int(mujoco.mjtJoint.mjJNT_BALL): 4}
        plain_from, plain_to, angle_from, angle_to, at = [], [], [], [], 0
        for kind, address in zip(model.jnt_type, model.jnt_qposadr):
            if int(kind) == hinge:
                angle_from.append(int(address))
                angle_to.append(at)
                at += 2
            else:
                width = widths.get(int(kind), 1)
                plain_from += range(address, address + width)
                plain_to += range(at, at + width)
                at += width
        self._plain = np.array(plain_from, int), np.array(plain_to, int)
        self._angle = np.array(angle_from, int), np.array(angle_to, int)
        self._joints = at
        self.positions = at + 3 * model.nmocap
        self.length = self.positions + model.nv

    def __call__(self, data: mujoco.MjData) -> np.ndarray:
        """float32 [P] of `data`."""
        out = np.empty(self.length, np.float32)
        source, target = self._plain
        out[target] = data.qpos[source]
        source, target = self._angle
        angle = data.qpos[source]
        out[target] = np.cos(angle)
        out[target + 1] = np.sin(angle)
        out[self._joints : self.positions] = data.mocap_pos.ravel()
        out[self.positions :] = data.qvel
        return out


def state_of(env):
    """What reads the state of an unwrapped MuJoCo env: its own `privileged_state`, called like `PrivilegedState` and with the
    same attributes; that of each of its `envs` side by side, where it has several; or all that its model has."""
    own = getattr(env, "privileged_state", None)
    if callable(own):
        return own
    several = getattr(env, "envs", None)
    return JoinedState(several) if several else PrivilegedState(env.model)


class JoinedState:
    """The states of several envs side by side, of which one is simulated at a time: those of the others are 0.

    Attributes:
        length: P, of all.
        positions: how many of its leading entries are positions: every env's, before any velocity.
    """

    def __init__(self, envs):
        self._states = [state_of(env) for env in envs]
        self.positions = sum(state.positions for state in self._states)
        self.length = sum(state.length for state in self._states)
        self._models, self._places, position, velocity = [env.model for env in envs], [], 0, self.positions
        for state in self._states:
            speeds = state.length - state.positions
            self._places.append(np.r_[position : position + state.positions, velocity : velocity + speeds])
            position, velocity = position + state.positions, velocity + speeds

    def __call__(self, data: mujoco.MjData) -> np.ndarray:
        """float32 [P] of the `data` of one of the models."""
        which = next(i for i, model in enumerate(self._models) if model is data.model)
        out = np.zeros(self.length, np.float32)
        out[self._places[which]] = self._states[which](data)
        return out
