"""The tabletop as an env: starts, splits, pictures, and experts that do what is asked."""

import dataclasses
import itertools
import math

import gymnasium
import mujoco
import numpy as np
import pytest

import envs
from envs.tabletop import goals, table
from envs.tabletop.experts import Expert
from envs.tabletop.facts import Fact, holds
from envs.tabletop.instruction_phrasings import INSTRUCTIONS
from envs.tabletop.instructions import KINDS, kinds_of, parse
from envs.tabletop.scene import TOOLS, Object, Scene, Tool, Zone, draw, in_held_out_place
from envs.tabletop.sentences import fill
from envs.tabletop.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, SHAPES

TASKS = [(tool, kind) for tool in TOOLS for kind in kinds_of(tool)]


def make(**kwargs):
    return gymnasium.make("worldmodel/Tabletop-v0", **kwargs)


@pytest.mark.parametrize("tool", TOOLS)
def test_an_episode_is_250_steps_at_25_hz_with_rewards_in_0_to_4(tool):
    env = make(embodiment=tool)
    assert env.spec.max_episode_steps == 250 and env.unwrapped.dt == pytest.approx(1 / 25)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and info["instruction"] == env.unwrapped.instruction
    env.action_space.seed(0)
    for step in range(250):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert 0 <= reward <= 4 and not terminated and truncated == (step == 249)
    assert env.observation_space.contains(observation) and np.abs(env.unwrapped.data.qpos).max() < 4


@pytest.mark.parametrize(("tool", "kind"), TASKS)
def test_no_start_is_done_already_and_solved_ones_are(tool, kind):
    env = make(embodiment=tool, kinds=[kind])
    for seed in range(15):
        _, info = env.reset(seed=seed)
        start = env.unwrapped.scene
        assert not info["success"] and parse(info["instruction"]).kind == kind
        _, solved = env.reset(seed=seed, options={"solved": True})
        assert solved["success"] and solved["instruction"] == info["instruction"]
        assert [thing.reference for thing in env.unwrapped.scene.objects] == [t.reference for t in start.objects]


@pytest.mark.parametrize(("tool", "kind"), TASKS)
def test_an_expert_does_every_kind_of_task(tool, kind):
    env = make(embodiment=tool, kinds=[kind])
    for seed in range(3):
        _, info = env.reset(seed=seed)
        expert = Expert(parse(info["instruction"]), noise=0.1, rng=np.random.default_rng(seed))
        before, done = env.unwrapped.scene, False
        while not (done or info["success"]):
            *_, done, info = env.step(expert.act(env.unwrapped.scene))
        assert info["success"]
        after = env.unwrapped.scene
        assert holds(parse(info["instruction"]).result, after) and not holds(parse(info["instruction"]).result, before)


@pytest.mark.parametrize("tool", TOOLS)
def test_who_plays_moves_things_whatever_is_asked_and_the_same_ones_again(tool):
    def moved(plays: bool, asked: str) -> np.ndarray:
        env = make(embodiment=tool, plays=plays, instruction=asked)
        env.reset(seed=3)
        before = env.unwrapped.scene.objects
        for _ in range(250):
            env.step(env.unwrapped.expert_action())
        after = env.unwrapped.scene.objects
        return np.array([math.dist(a.position[:2], b.position[:2]) for a, b in zip(before, after)])

    reach = "reach the red cube"
    assert moved(False, reach).max() < 0.1 < 0.3 < moved(True, reach).max()
    assert (moved(True, reach) == moved(True, reach)).all()


def test_play_is_of_many_kinds():
    env, seen = make(plays=True), set()
    for seed in range(6):
        env.reset(seed=seed)
        for _ in range(60):
            env.step(env.unwrapped.expert_action())
            seen.add(env.unwrapped._expert._does)
    assert seen == {"push", "go", "drift"}


def test_the_noise_of_an_expert_needs_a_generator():
    with pytest.raises(ValueError, match="needs a generator"):
        Expert(parse("reach the red cube"), noise=0.1)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_seed_repeats_an_episode(tool):
    def run():
        env = make(embodiment=tool)
        observation, info = env.reset(seed=5)
        env.action_space.seed(0)
        steps = [env.step(env.action_space.sample())[:2] for _ in range(20)]
        return info["instruction"], np.stack([observation, *(step[0] for step in steps)]), [s[1] for s in steps]

    (sentence, observations, rewards), (again, same, equal) = run(), run()
    assert sentence == again and rewards == equal
    np.testing.assert_array_equal(observations, same)


@pytest.mark.parametrize("tool", TOOLS)
def test_plain_starts_are_at_rest_and_broad_ones_are_not(tool):
    env = make(embodiment=tool)
    speeds, edges, held = [], [], 0
    for seed in range(40):
        env.reset(seed=seed)
        assert not env.unwrapped.data.qvel.any()
        env.reset(seed=seed, options={"broad": True})
        scene = env.unwrapped.scene
        speeds.append(env.unwrapped.data.qvel[0])
        edges.append(max(abs(part) + thing.radius for thing in scene.objects for part in thing.position[:2]))
        held += any(thing.held for thing in scene.objects)
    assert np.std(speeds) > 0.3 and max(edges) > 0.9
    assert (held > 0) == (tool == "gripper")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_start_can_be_placed_exactly(tool):
    env = make(embodiment=tool)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    data = env.unwrapped.data
    state = np.concatenate([data.qpos, data.qvel])
    env.reset(seed=0, options={"state": state})
    np.testing.assert_array_equal(np.concatenate([data.qpos, data.qvel]), state)
    with pytest.raises(ValueError, match="reset option 'state' has shape"):
        env.reset(options={"state": np.zeros(17)})


@pytest.mark.parametrize("kind", KINDS)
def test_splits_hold_out_what_they_say(kind):
    kwargs = {"embodiment": "gripper", "kinds": [kind]}
    split = {name: make(split=name, **kwargs) for name in ("held_out_combinations", "held_out_layouts")}
    words = make(split="held_out_phrasings", **kwargs)
    for seed in range(5):
        for name, env in split.items():
            _, info = env.reset(seed=seed)
            meant = parse(info["instruction"]).objects[0]
            thing = env.unwrapped.scene.matching(meant)[0]
            if name == "held_out_layouts":
                assert in_held_out_place(thing.position)
            else:
                assert (thing.colour, thing.shape) in HELD_OUT_COMBINATIONS
        _, info = words.reset(seed=seed)
        meant = parse(info["instruction"])
        said = {p: {fill(t, meant.objects, meant.zone) for t in INSTRUCTIONS[p][kind]} for p in ("seen", "held_out")}
        assert info["instruction"] in said["held_out"] - said["seen"]


def test_a_sentence_brings_what_it_names():
    sentence = "Push the red plate to the pink zone"
    env = make(instruction=sentence, objects=(2, 3))
    for seed in range(5):
        _, info = env.reset(seed=seed)
        assert info["instruction"] == sentence and not info["success"]
        scene = env.unwrapped.scene
        assert len(scene.matching(parse(sentence).objects[0])) == 1 and scene.zone("pink") is not None
    _, info = env.reset(options={"instruction": "reach the blue ball"})
    assert info["instruction"] == "reach the blue ball"
    with pytest.raises(ValueError, match="the pusher can't lift"):
        make(instruction="lift the red cube")
    with pytest.raises(ValueError, match=r"env.kwargs.split='test' is not one of train"):
        make(split="test")
    with pytest.raises(ValueError, match=r"env.kwargs.objects=\(0, 7\)"):
        make(objects=(0, 7))


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_put_on_the_table_is_what_is_read(tool):
    model = table.build(tool)
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(20):
        scene = draw(rng, "held_out_combinations", tool)
        table.put(scene, model, data)
        assert Scene.of(model, data) == scene
    with pytest.raises(ValueError, match="a scene of 7 objects and"):
        table.put(Scene(7 * scene.objects[:1], (), scene.tool), model, data)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations_with_replacement(SHAPES, 2)))
def test_shapes_touch_in_the_simulator_where_their_outlines_do(first, second):
    model = table.build("pusher")
    data = mujoco.MjData(model)
    a = Object(first, "red", "large", (0.0, 0.0, 0.0), 0.4)
    for gap, touching in ((-0.02, True), (0.02, False)):
        b = Object(second, "blue", "small", (*goals.beside(Object(second, "blue", "small", (0, 0, 0)), a, 0.0), 0.0))
        b = b._replace(position=(b.position[0] - 0.03 + gap, b.position[1], 0.0))
        table.put(Scene((a, b), (), Tool("pusher", (-0.8, -0.8, 0.0))), model, data)
        mujoco.mj_forward(model, data)
        flat = {first, second} >= {"ball"} and first != second  # a ball bulges over what is lower than its middle
        assert bool(data.ncon) is touching or (flat and touching)


def test_the_gripper_knows_what_it_holds():
    env = make(embodiment="gripper", instruction="lift the large green cross")
    env.reset(seed=0)
    assert not any(thing.held for thing in env.unwrapped.scene.objects)
    env.reset(seed=0, options={"solved": True})
    held = [thing.reference.words() for thing in env.unwrapped.scene.objects if thing.held]
    assert held == ["large green cross"]
    for _ in range(25):
        *_, info = env.step(np.array([0, 0, 0, -1], np.float32))
    assert info["success"]  # squeezed, it stays up
    for _ in range(25):
        *_, info = env.step(np.array([0, 0, 0, 1], np.float32))
    thing = env.unwrapped.scene.matching(parse(info["instruction"]).objects[0])[0]
    assert not info["success"] and thing.position[2] < 0.01  # let go, it falls


def picture(env, scene):
    task = env.unwrapped
    task._show(scene)
    mujoco.mj_forward(task.model, task.data)
    table.cast_shadows(task.model, task.data)
    return env._picture(None, 64)


def pixel(task, point):
    """Row and column of a point of the world in the own view, by the camera's own numbers."""
    camera = task.model.camera("view").id
    x, y, z = task.data.cam_xmat[camera].reshape(3, 3).T @ (np.asarray(point) - task.data.cam_xpos[camera])
    scale = 32 / math.tan(math.radians(task.model.cam_fovy[camera]) / 2) / -z
    return round(31.5 - y * scale), round(31.5 + x * scale)


@pytest.fixture(scope="module", params=TOOLS)
def shown(request):
    env = envs.make("worldmodel/Tabletop-v0", kwargs={"embodiment": request.param})
    env.reset(seed=0)
    yield env
    env.close()


def test_every_colour_is_seen_at_its_place(shown):
    tool = Tool(shown.unwrapped.embodiment, (-0.8, -0.8, 0.4))
    for shape, (colour, rgb) in itertools.product(SHAPES, COLOURS.items()):
        thing = Object(shape, colour, "small", (0.45, -0.3, 0.0))
        image = picture(shown, Scene((thing,), (Zone(colour, (-0.5, 0.5)),), tool)).astype(float)
        on_top = image[pixel(shown.unwrapped, (0.45, -0.3, thing.height))]
        zone = image[pixel(shown.unwrapped, (-0.5, 0.5, 0.0))]
        likeness = {
            name: np.dot(other, on_top) / np.linalg.norm(other) / np.linalg.norm(on_top)
            for name, other in COLOURS.items()
        }
        assert max(likeness, key=likeness.get) == colour, (shape, colour)
        assert on_top.sum() > 1.2 * zone.sum()  # a zone is darker than an object of its colour
        assert np.abs(zone / zone.max() - np.array(rgb) / max(rgb)).max() < 0.15


def test_shapes_sizes_and_heights_look_different(shown):
    kind = shown.unwrapped.embodiment
    tool = Tool(kind, (-0.8, -0.8, 0.4))

    def one(shape, size="small", height=0.0):
        thing = Object(shape, "red", size, (0.3, 0.1, height), 0.3)
        return picture(shown, Scene((thing,), (), tool)).astype(int)

    pictures = [one(shape, size) for shape in SHAPES for size in ("small", "large")]
    for a, b in itertools.combinations(pictures, 2):
        assert (np.abs(a - b).max(-1) > 25).sum() >= 8
    red = [(image[..., 0] > 2 * image[..., 2]).any(0).sum() for image in pictures]
    assert min(red) >= 6  # pixels wide
    if kind == "gripper":
        assert (np.abs(one("cube") - one("cube", height=0.25)).max(-1) > 25).sum() > 20
    else:
        with pytest.raises(ValueError, match="the pusher's table has no heights"):
            one("cube", height=0.25)


def test_what_is_absent_is_not_seen(shown):
    tool = Tool(shown.unwrapped.embodiment, (-0.8, -0.8, 0.4))
    empty = picture(shown, Scene((), (), tool))
    full = picture(shown, draw(np.random.default_rng(0), tool=tool.kind, objects=(6, 6), zones=(3, 3)))
    saturated = [(image.max(-1).astype(int) - image.min(-1) > 60).sum() for image in (empty, full)]
    assert saturated[0] == 0 and saturated[1] > 200
    np.testing.assert_array_equal(picture(shown, Scene((), (), tool)), empty)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_goal_picture_shows_the_instruction_done(tool):
    env = envs.make("worldmodel/Tabletop-v0", kwargs={"embodiment": tool}, goal_image=True, image_size=32)
    observation, info = env.reset(seed=0)
    assert (observation["goal"] != observation["image"]).any() and not info["success"]
    solved, _ = env.reset(seed=0, options={"solved": True})
    np.testing.assert_array_equal(solved["image"], observation["goal"])
    env.close()


def test_facts_can_be_asked_of_the_env():
    env = make(instruction="push the red cube to the green zone")
    env.reset(seed=1, options={"solved": True})
    cube = parse(env.unwrapped.instruction).objects[0]
    assert holds(Fact("in_zone", (cube,), "green"), env.unwrapped.scene)


def test_its_state_as_a_target_is_told_by_colour_as_a_picture_shows_it():
    env = make().unwrapped
    env.reset(seed=3)
    state, scene = env.privileged_state, env.scene
    told = state(env.data)
    assert told.shape == (state.length,) == (2 + 8 * 7 + 2 + 8 * 2,) and told.dtype == np.float32
    table.put(dataclasses.replace(scene, objects=scene.objects[::-1], zones=scene.zones[::-1]), env.model, env.data)
    assert np.allclose(state(env.data), told)  # which body an object is makes no difference
    for name, row in zip(COLOURS, told[2 : 2 + 8 * 4].reshape(8, 4)):
        same = [thing.position for thing in scene.objects if thing.colour == name]
        assert np.allclose(row, [len(same), *np.sum(same or [[0, 0, 0]], axis=0)], atol=1e-6)
    for name, row in zip(COLOURS, told[2 + 8 * 4 : state.positions].reshape(8, 3)):
        zone = scene.zone(name)
        assert np.allclose(row, [1, *zone.position] if zone else 0, atol=1e-6)
    mujoco.mj_forward(env.model, env.data)
    for _ in range(3):
        env.step(np.array([1.0, 0.5]))
    moved = state(env.data)
    assert np.allclose(moved[state.positions :][:2], env.data.qvel[:2], atol=1e-6) and moved[state.positions] > 0.3
    env.close()


def test_the_grippers_state_as_a_target_has_the_heights_of_what_is_lifted():
    env = make(embodiment="gripper", kinds=["lift"]).unwrapped
    env.reset(seed=4, options={"solved": True})
    told = env.privileged_state(env.data)
    assert told.shape == (env.privileged_state.length,) == (5 + 8 * 7 + 5 + 8 * 2,)
    heights = told[5 : 5 + 8 * 4].reshape(8, 4)[:, 3]
    lifted = {tuple(COLOURS).index(thing.colour) for thing in env.scene.objects if thing.position[2] > 0.05}
    assert len(lifted) == 1 and set(np.flatnonzero(heights > 0.05)) == lifted
    env.close()
