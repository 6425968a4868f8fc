"""Meta-World's 50 tasks as Gymnasium envs, by the ids `metaworld/<task>-v3`; needs the extra [metaworld]."""

from __future__ import annotations

import difflib
import warnings
from typing import ClassVar

import gymnasium
import numpy as np

INSTRUCTIONS = {
    "assembly-v3": "pick up the ring by its handle and put it over the peg",
    "basketball-v3": "put the basketball through the hoop",
    "bin-picking-v3": "move the cube from the red bin to the blue bin",
    "box-close-v3": "put the lid on the box",
    "button-press-topdown-v3": "press the button down from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button down",
    "button-press-v3": "press the button on the front of the box",
    "button-press-wall-v3": "reach around the wall and press the button",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "lift the ring off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door",
    "drawer-close-v3": "close the drawer",
    "drawer-open-v3": "open the drawer",
    "faucet-close-v3": "turn the faucet off",
    "faucet-open-v3": "turn the faucet on",
    "hammer-v3": "pick up the hammer and drive the nail in",
    "hand-insert-v3": "put the hand into the hole",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "pick up the peg and push it sideways into the hole",
    "peg-unplug-side-v3": "pull the peg sideways out of the hole",
    "pick-out-of-hole-v3": "lift the puck out of the hole and bring it to the goal",
    "pick-place-v3": "pick up the puck and bring it to the goal",
    "pick-place-wall-v3": "pick up the puck and carry it over the wall to the goal",
    "plate-slide-back-side-v3": "slide the plate sideways out of the net",
    "plate-slide-back-v3": "slide the plate back out of the net",
    "plate-slide-side-v3": "slide the plate sideways into the net",
    "plate-slide-v3": "slide the plate into the net",
    "push-back-v3": "pull the block back to the goal",
    "push-v3": "push the puck to the goal",
    "push-wall-v3": "push the puck around the wall to the goal",
    "reach-v3": "move the hand to the goal",
    "reach-wall-v3": "move the hand over the wall to the goal",
    "shelf-place-v3": "pick up the block and put it on the shelf",
    "soccer-v3": "kick the ball into the goal",
    "stick-pull-v3": "take the stick and pull the flask with it",
    "stick-push-v3": "take the stick and push the flask with it",
    "sweep-into-v3": "sweep the block into the hole",
    "sweep-v3": "sweep the block off the table",
    "window-close-v3": "close the window",
    "window-open-v3": "open the window",
}


def _mismatch(error: Exception) -> ImportError:
    """Meta-World against a mujoco it does not know fails with whatever it stumbles over first."""
    import mujoco

    return ImportError(
        f"metaworld and mujoco {mujoco.__version__} don't go together ({error!r}); the extra brings versions that do: "
        'pip install "worldmodel[metaworld]"'
    )


def _suite_task(task: str):
    """The suite's env and expert; imported here because it is an extra and takes seconds."""
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'metaworld/ envs need metaworld ({error}): pip install "worldmodel[metaworld]"'
        ) from error
    except Exception as error:
        raise _mismatch(error) from error
    try:
        return ALL_V3_ENVIRONMENTS[task](), ENV_POLICY_MAP[task]()
    except Exception as error:
        raise _mismatch(error) from error


class MetaWorld(gymnasium.Env):
    """One task of Meta-World (Yu et al. 2019; v3, McLean et al. 2025): a Sawyer arm, a thing on a table, a goal.

    Reward in [0, 10]. `info["success"]` after each step: the suite's own, which may be lost again. Every reset draws
    another start, goal or both, which follow from the seed. Actions: the hand's way in x, y and z, 1 cm at most, and
    the gripper's force. Pictures show the goal's marker as the suite does: in pick-out-of-hole-v3 and sweep-v3 it is
    not where the goal is.

    Observation: float32 [4], the hand's place in metres and the gripper's opening in [0, 1]. With `full_state` the
    suite's float32 [39]: those and the things' places, now and a step ago, and where the goal is.

    Args:
        id: `metaworld/<task>-v3`, as in `metaworld/push-v3`.
        instruction: a sentence for every episode; None: the task's own, from `INSTRUCTIONS`.
        full_state: show the things and the goal as numbers.
        terminate_on_success: end an episode at its first success. The suite never does.
        max_episode_steps: where `truncated` comes; None: the suite's own 500.

    Raises:
        ImportError: metaworld is missing, or does not go with the installed mujoco; the message names the command.
        ValueError: the suite has no such task; the message names near misses.
    """

    metadata: ClassVar[dict] = {"render_modes": []}
    # Where the literature's pixel policies put corner2: the same view from nearer. At 64 pixels corner2 itself shows a
    # puck as one of them.
    own_camera = "corner4"

    def __init__(
        self,
        id: str,
        instruction: str | None = None,
        full_state: bool = False,
        terminate_on_success: bool = False,
        max_episode_steps: int | None = None,
    ):
        task = id.removeprefix("metaworld/")
        if task not in INSTRUCTIONS:
            near = difflib.get_close_matches(task, INSTRUCTIONS, n=5, cutoff=0.4) or list(INSTRUCTIONS)[:5]
            names = ", ".join(f"metaworld/{name}" for name in near)
            raise ValueError(f"env.id={id}: the suite has no such task; did you mean {names}?")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"env.max_episode_steps={max_episode_steps} must be at least 1")
        self._env, self._expert = _suite_task(task)
        # By itself the suite repeats one start for ever, or draws from numpy's global generator, and hides the goal.
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True
        self._env._set_task_called, self._env._partially_observable = True, False
        del self._env.sawyer_observation_space  # made before the goal was shown, it would clip the goal to zeros
        self._env.max_path_length = max_episode_steps or self._env.max_path_length
        _turn_upright(self._env.model)
        self.instruction = instruction or INSTRUCTIONS[task]
        self.dt = float(self._env.dt)
        self._shown = slice(None) if full_state else slice(4)
        self._terminates = terminate_on_success
        self._full: np.ndarray | None = None  # what the expert sees
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (39 if full_state else 4,), np.float32)

    @property
    def model(self):
        """The raw `mujoco.MjModel`."""
        return self._env.model

    @property
    def data(self):
        """The raw `mujoco.MjData`."""
        return self._env.data

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        import mujoco

        super().reset(seed=seed)
        self._env.np_random = self.np_random  # the suite ignores the seed it is given
        self._full, _ = self._env.reset()
        # The suite draws the goal's marker where the last episode had it until the first step.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        return self._observation(), {"instruction": self.instruction}

    def step(self, action):
        self._full, reward, _, truncated, info = self._env.step(np.clip(action, -1.0, 1.0))
        success = bool(info["success"])
        info = {**info, "success": success, "instruction": self.instruction}
        terminated = self._terminates and success
        return self._observation(), float(reward), terminated, truncated and not terminated, info

    def expert_action(self) -> np.ndarray:
        """What the suite's scripted expert does now: float32 [4] in [-1, 1]. Raises RuntimeError before the first
        reset."""
        if self._full is None:
            raise RuntimeError("the expert acts in an episode: call reset() first")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every action outside of [-1, 1]
            return np.clip(self._expert.get_action(self._full), -1.0, 1.0).astype(np.float32)

    def close(self) -> None:
        self._env.close()

    def _observation(self) -> np.ndarray:
        return self._full[self._shown].astype(np.float32)


def _turn_upright(model) -> None:
    """Turn the suite's corner cameras, which hang upside down, by half a turn about their line of sight."""
    import mujoco

    half_turn, turned = np.array([0.0, 0.0, 0.0, 1.0]), np.empty(4)
    for camera in np.flatnonzero(model.cam_mode == int(mujoco.mjtCamLight.mjCAMLIGHT_FIXED)):
        upwards = np.empty(9)
        mujoco.mju_quat2Mat(upwards, model.cam_quat[camera])
        if upwards.reshape(3, 3)[2, 1] < -1e-6:
            mujoco.mju_mulQuat(turned, model.cam_quat[camera], half_turn)
            model.cam_quat[camera] = turned
