"""Other dynamics in every episode: drawn by the seed alone, real in the simulation, gone with the episode."""

from __future__ import annotations

import itertools

import gymnasium
import mujoco
import numpy as np
import pytest

import envs
from envs.dynamics import VARIED, Dynamics, check_vary
from policies.baselines import HoldStillPolicy
from policies.collect import collect
from worldmodel.data import EpisodeStore
from worldmodel.interface import Interface

CARTPOLE = "worldmodel/CartpoleSwingup-v0"
WORLD = """
<mujoco><option timestep="0.01"/><worldbody>
  <geom name="floor" type="plane" size="9 9 1"/>
  <body name="falling" pos="0 0 5"><joint name="fall" type="slide" axis="0 0 1"/><geom size=".1" mass="2"/></body>
  <body name="driven" pos="3 0 5" gravcomp="1">
    <joint name="drive" type="slide" axis="1 0 0"/><geom size=".1" mass="2"/>
  </body>
  <body name="sliding" pos="0 4 .1"><freejoint/><geom type="box" size=".1 .1 .1" mass="1"/></body>
</worldbody><actuator>
  <motor name="motor" joint="drive" gear="3"/>
  <position name="servo" joint="drive" kp="5" kv="1" forcerange="-2 2"/>
</actuator></mujoco>"""


class World:
    """A body that falls, one that is driven and one that slides, with all four factors as they are given."""

    def __init__(self, **factors: float):
        self.model = mujoco.MjModel.from_xml_string(WORLD)
        self.data = mujoco.MjData(self.model)
        if factors:
            Dynamics({name: [factor, factor] for name, factor in factors.items()}, [self.model], "a world").draw(0)
        mujoco.mj_forward(self.model, self.data)

    def acceleration(self, joint: str, command=(0.0, 0.0)) -> float:
        """Metres per second squared, from the speed after one step."""
        self.data.ctrl[:] = command
        mujoco.mj_step(self.model, self.data)
        return self.data.joint(joint).qvel.item() / self.model.opt.timestep

    def slid(self) -> float:
        """How far the box slides that starts at 2 m/s."""
        self.data.qvel[2:5] = 2, 0, 0
        mujoco.mj_step(self.model, self.data, nstep=150)
        return float(self.data.body("sliding").xpos[0])


def test_a_heavier_body_accelerates_less_and_falls_as_fast():
    usual = World().acceleration("drive", (1, 0))
    assert World(mass=4.0).acceleration("drive", (1, 0)) == pytest.approx(usual / 4, 1e-3)
    assert World(mass=4.0).acceleration("fall") == pytest.approx(-9.81, 1e-3)


def test_what_follows_from_the_masses_follows():
    """As in a model that was compiled with these masses."""
    heavy = World(mass=4.0).model
    compiled = mujoco.MjModel.from_xml_string(WORLD.replace('mass="2"', 'mass="8"').replace('mass="1"', 'mass="4"'))
    for name in ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"):
        np.testing.assert_allclose(getattr(heavy, name), getattr(compiled, name), rtol=1e-9)


def test_gravity_scales_the_fall():
    assert World(gravity=0.5).acceleration("fall") == pytest.approx(-9.81 / 2, 1e-3)


def test_a_slippery_box_slides_further():
    assert World(friction=0.4).slid() > 1.5 * World().slid() > 0.1


def test_a_motor_pushes_in_proportion_and_a_servo_keeps_its_place():
    usual = World().acceleration("drive", (1, 0))
    assert World(gain=0.5).acceleration("drive", (1, 0)) == pytest.approx(usual / 2, 1e-3)
    forces = []
    for world in (World(), World(gain=2.0)):
        data, model = world.data, world.model
        data.ctrl[1], data.joint("drive").qpos, data.joint("drive").qvel = 0.3, 0.1, 0.2
        mujoco.mj_forward(model, data)
        pushing = data.actuator_force[1]
        data.ctrl[1] = 9.0
        mujoco.mj_forward(model, data)
        at_most = data.actuator_force[1]
        data.ctrl[1], data.joint("drive").qvel = 0.1, 0.0
        mujoco.mj_forward(model, data)
        forces.append([pushing, at_most, data.actuator_force[1]])
    assert forces[0] == pytest.approx([5 * 0.2 - 0.2, 2.0, 0.0])
    assert forces[1] == pytest.approx([2 * force for force in forces[0]])


def test_factors_never_compound_and_one_hangs_on_its_seed_alone():
    model = mujoco.MjModel.from_xml_string(WORLD)
    names = ["body_mass", "geom_friction", "actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "dof_M0"]
    nominal = {name: getattr(model, name).copy() for name in names}
    every = Dynamics({name: [0.5, 2.0] for name in VARIED}, [model], "a world")
    alone = Dynamics({"gain": (0.5, 2.0)}, [mujoco.MjModel.from_xml_string(WORLD)], "a world")
    drawn = []
    for seed in (0, 1, 2, 1):
        every.draw(seed)
        alone.draw(seed)
        assert alone.factors["gain"] == every.factors["gain"]
        drawn.append(dict(every.factors))
        np.testing.assert_allclose(model.body_mass, drawn[-1]["mass"] * nominal["body_mass"])
        np.testing.assert_allclose(model.opt.gravity, [0, 0, -9.81 * drawn[-1]["gravity"]])
        np.testing.assert_allclose(model.geom_friction, drawn[-1]["friction"] * nominal["geom_friction"])
    assert drawn[1] == drawn[3] != drawn[0] and len({*drawn[0].values()}) == 4
    Dynamics({"gain": [1, 1]}, [model], "a world").draw(None)
    back = Dynamics({name: [1.0, 1.0] for name in VARIED}, [fresh := mujoco.MjModel.from_xml_string(WORLD)], "a world")
    back.draw(3)
    for name in names:
        np.testing.assert_allclose(getattr(fresh, name), nominal[name], rtol=1e-9)


def test_factors_are_log_uniform():
    model = mujoco.MjModel.from_xml_string(WORLD)
    dynamics, drawn = Dynamics({"gravity": [0.25, 4.0]}, [model], "a world"), []
    for seed in range(400):
        dynamics.draw(seed)
        drawn.append(np.log2(dynamics.factors["gravity"]))
    assert -2 <= min(drawn) < -1.9 and 1.9 < max(drawn) <= 2 and abs(np.mean(drawn)) < 0.2


@pytest.mark.parametrize("id", [CARTPOLE, "worldmodel/Tabletop-v0", "HalfCheetah-v5", "worldmodel/Many-v0"])
def test_an_episode_starts_as_it_would_and_then_goes_another_way(id):
    options = {"observation": "both", "image_size": 24}
    plain, varied = envs.make(id, **options), envs.make(id, vary={"mass": [2, 4], "gain": [0.3, 0.5]}, **options)
    action = np.full(plain.action_space.shape, 0.7, np.float32)
    ends = []
    for seed in (4, 5, 4):
        (before, told), (observation, info) = plain.reset(seed=seed), varied.reset(seed=seed)
        for key in before:
            np.testing.assert_array_equal(observation[key], before[key])
        np.testing.assert_array_equal(info["privileged"], told["privileged"])
        assert "dynamics" not in told and 2 <= info["dynamics"]["mass"] <= 4 and 0.3 <= info["dynamics"]["gain"] <= 0.5
        for _ in range(3):
            told, info = plain.step(action)[4], varied.step(action)[4]
        assert not np.array_equal(told["privileged"], info["privileged"])
        ends.append((info["privileged"], info["dynamics"]))
    np.testing.assert_array_equal(ends[0][0], ends[2][0])
    assert ends[0][1] == ends[2][1] != ends[1][1]
    plain.close()
    varied.close()


class Rebuilding(gymnasium.Env):
    """Compiles its model anew in every episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self):
        self.reset()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.model = mujoco.MjModel.from_xml_string(WORLD)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        return np.zeros(1, np.float32), {}


def test_a_model_that_is_rebuilt_is_followed():
    from envs.adapter import Adapter

    env = Adapter(Rebuilding(), observation="state", vary={"gravity": [0.5, 0.5]})
    for seed in range(2):
        env.reset(seed=seed)
        assert env.unwrapped.model.opt.gravity[2] == pytest.approx(-9.81 / 2)
        assert env.unwrapped.data.joint("fall").qacc.item() == pytest.approx(-9.81 / 2, 1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_factors_travel_with_stored_episodes(workers, tmp_path):
    vary = {"mass": [0.5, 2.0], "gain": [0.5, 2.0]}
    with envs.make_vector(2, workers, id=CARTPOLE, image_size=8, vary=vary) as vector:
        interface = Interface(**vector.interface)
        with EpisodeStore.create(tmp_path / "data", interface, {}) as store:
            collect(HoldStillPolicy(interface), vector, store, 12, itertools.count(7), max_steps=4)
            stored = {info["seed"]: info["dynamics"] for info in store.infos}
    dynamics = Dynamics(vary, [envs.make(CARTPOLE).unwrapped.model], CARTPOLE)
    assert len(stored) >= 3
    for seed, factors in stored.items():
        dynamics.draw(seed)
        assert factors == dynamics.factors


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"colour": [0.5, 2]}, "mass, friction, gravity, gain"),
        ({"mass": 2}, "two factors, from and to"),
        ({"mass": [1, 2, 3]}, "two factors"),
        ({"mass": ["a", 2]}, "two factors"),
        ({"mass": [0, 2]}, "above 0"),
        ({"mass": [2, 1]}, "smaller one first"),
        ({"mass": [1, float("inf")]}, "above 0"),
        ({}, "give factors"),
        ("mass", "give factors"),
    ],
)
def test_what_cannot_vary_is_told(vary, message):
    with pytest.raises(ValueError, match=message):
        check_vary(vary)


def test_an_env_that_cannot_follow_says_so():
    with pytest.raises(ValueError, match="no MuJoCo model"):
        envs.make("CartPole-v1", vary={"mass": [0.5, 2]})
    with pytest.raises(ValueError, match=r"env\.vary\.gravity: nothing in worldmodel/Pusher-v0 hangs on it"):
        envs.make("worldmodel/Pusher-v0", vary={"gravity": [0.5, 2]})
