"""Our renderer draws what `env.render()` draws, and nobody else's frames change for it."""

import os
import subprocess
import sys
import textwrap

import gymnasium
import mujoco
import numpy as np
import pytest

import envs
from envs.benchmark import measure_rendering
from envs.cameras import named_camera, own_view
from envs.renderer import Renderer

SIZE = 64


def make_plain(id, **options):
    """A gymnasium env, as a stranger to us makes it, in its rest pose."""
    env = gymnasium.make(id, render_mode="rgb_array", width=SIZE, height=SIZE, disable_env_checker=True, **options)
    env.reset(seed=0)
    env.unwrapped.set_state(env.unwrapped.init_qpos, env.unwrapped.init_qvel)
    return env


def picture(env, quality="faithful", size=SIZE):
    renderer = Renderer(env.unwrapped.model, size, size, quality)
    frame = renderer.render(env.unwrapped.data, own_view(env.unwrapped))
    renderer.close()
    return frame


def difference(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize(
    "id", ["HalfCheetah", "Walker2d", "Hopper", "Ant", "Humanoid", "Reacher", "Pusher", "Swimmer", "InvertedPendulum"]
)
def test_faithful_pictures_are_those_of_env_render_within_3_of_255(id):
    env = make_plain(f"{id}-v5")
    env.render()
    for _ in range(3):
        env.step(env.action_space.sample())
    assert difference(picture(env), env.render()) <= 3
    env.close()


def test_default_pictures_are_exactly_those_of_env_render():
    env = make_plain("Walker2d-v5")
    np.testing.assert_array_equal(picture(env, "default"), env.render())
    env.close()


def test_a_film_of_an_env_seen_by_its_state_follows_the_runner():
    env = envs.make("HalfCheetah-v5", observation="state")
    env.reset(seed=0)
    data = env.unwrapped.data
    here = env.render_frame(SIZE)
    env.unwrapped.set_state(np.concatenate([data.qpos[:1] + 40, data.qpos[1:]]), data.qvel.copy())
    brown = [(frame[..., 0].astype(int) - frame[..., 2] > 30).sum() for frame in (here, env.render_frame(SIZE))]
    assert brown[0] > 20 and abs(brown[1] - brown[0]) < 0.3 * brown[0]
    env.close()


def test_fast_pictures_have_no_shadows():
    env = make_plain("Walker2d-v5")
    assert difference(picture(env, "fast"), picture(env, "default")) > difference(picture(env), picture(env, "default"))
    env.close()


def test_a_camera_named_to_gymnasium_is_the_envs_own_view():
    env = make_plain("HalfCheetah-v5", camera_name="track")
    assert own_view(env.unwrapped).fixedcamid == 0
    assert difference(picture(env), env.render()) <= 3
    env.close()


def test_our_renderer_leaves_the_model_and_env_render_as_they_were():
    untouched, env = make_plain("Hopper-v5"), make_plain("Hopper-v5")
    settings = {
        name: getattr(env.unwrapped.model.vis.quality, name) for name in ("shadowsize", "offsamples", "numslices")
    }
    spacing = env.unwrapped.model.geom_size.copy()
    picture(env, "fast")
    assert settings == {name: getattr(env.unwrapped.model.vis.quality, name) for name in settings}
    np.testing.assert_array_equal(spacing, env.unwrapped.model.geom_size)
    first = untouched.render()
    np.testing.assert_array_equal(first, env.render())
    untouched.close()
    env.close()


def test_interleaved_envs_and_sizes_keep_their_own_frames():
    one, other = make_plain("Walker2d-v5"), make_plain("Reacher-v5")
    alone = [picture(one), picture(other), picture(one, size=32)]
    renderers = [
        (Renderer(one.unwrapped.model, SIZE, SIZE), one),
        (Renderer(other.unwrapped.model, SIZE, SIZE), other),
        (Renderer(one.unwrapped.model, 32, 32), one),
    ]
    for _ in range(2):
        for (renderer, env), expected in zip(renderers, alone):
            np.testing.assert_array_equal(renderer.render(env.unwrapped.data, own_view(env.unwrapped)), expected)
    renderers[0][0].close()
    for (renderer, env), expected in list(zip(renderers, alone))[1:]:
        np.testing.assert_array_equal(renderer.render(env.unwrapped.data, own_view(env.unwrapped)), expected)


def test_closing_one_env_changes_no_other_envs_frames():
    ours = envs.make("HalfCheetah-v5", image_size=32)
    ours.reset(seed=1)
    expected = ours.render_frame(32)
    neighbour = envs.make("worldmodel/CartpoleSwingup-v0", image_size=32)
    neighbour.reset(seed=1)
    neighbour.close()
    np.testing.assert_array_equal(ours.render_frame(32), expected)
    plain = make_plain("Walker2d-v5")
    plain.render()
    np.testing.assert_array_equal(ours.render_frame(32), expected)
    plain.close()
    np.testing.assert_array_equal(ours.render_frame(32), expected)
    assert expected.std() > 5  # a picture, and not the black frame of a lost context
    ours.close()


def test_gymnasiums_own_frames_survive_our_rendering_in_between():
    plain, ours = make_plain("Walker2d-v5"), envs.make("HalfCheetah-v5", image_size=32)
    expected = plain.render()
    ours.reset(seed=0)
    np.testing.assert_array_equal(plain.render(), expected)
    ours.close()
    np.testing.assert_array_equal(plain.render(), expected)
    plain.close()


def test_closing_twice_is_fine_and_rendering_after_it_says_so():
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    renderer = Renderer(model, 16, 16)
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.render(mujoco.MjData(model), mujoco.MjvCamera())


def test_unknown_qualities_and_cameras_name_the_known_ones():
    env = make_plain("HalfCheetah-v5")
    with pytest.raises(ValueError, match="fast, faithful, smooth, default"):
        Renderer(env.unwrapped.model, 16, 16, "pretty")
    with pytest.raises(ValueError, match="env.cameras takes: track"):
        named_camera(env.unwrapped.model, "trak")


def run_python(code, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_torch_and_its_compiler_work_after_the_first_picture():
    done = run_python("""
        import envs
        env = envs.make("worldmodel/CartpoleSwingup-v0", image_size=16)
        env.reset(seed=0)
        import torch, torch._dynamo
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([weight])
        weight.square().sum().backward()
        optimizer.step()
        env.step(env.neutral_action)
        print("alive", float(weight.sum()) < 3)
        """)
    assert done.stdout.strip() == "alive True", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a screen is always there")
def test_where_there_is_no_gl_the_error_names_what_to_install():
    done = run_python(
        """
        import envs
        env = envs.make("worldmodel/CartpoleSwingup-v0", image_size=16)
        try:
            env.reset(seed=0)
        except envs.RenderingUnavailable as error:
            print(error)
        state = envs.make("worldmodel/CartpoleSwingup-v0", observation="state")
        print(state.reset(seed=0)[0]["state"].shape)
        """,
        MUJOCO_GL="glfw",
    )
    assert "libegl1" in done.stdout and "MUJOCO_GL is glfw" in done.stdout, done.stderr
    assert "(5,)" in done.stdout, done.stderr


def test_importing_envs_loads_neither_torch_nor_a_gl_context():
    done = run_python("import envs, sys; print('torch' in sys.modules, 'OpenGL' in sys.modules)")
    assert done.stdout.strip() == "False False", done.stderr


def test_the_benchmark_measures_a_large_gain_over_env_render():
    (row,) = measure_rendering(["HalfCheetah-v5"], size=64, seconds=0.3)
    assert row["faithful_ratio"] > 25 and row["fast_ratio"] > row["faithful_ratio"]
    assert row["faithful_difference"] <= 3
