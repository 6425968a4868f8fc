"""What is not an episode of the store's interface is refused by the name of its key, before anything is written."""

import numpy as np
import pytest
from test_data_store import SMALL, STATE_ONLY, contents, make_episode

from worldmodel.data import EpisodeStore
from worldmodel.interface import Interface


def changed(key: str, change) -> dict:
    episode = make_episode(SMALL, 5)
    episode[key] = change(episode[key])
    return episode


def with_value(array: np.ndarray, index: tuple, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (changed("image", lambda image: image[:-1]), r"'image' has shape \(5, 2, 2, 3\), expected \(6, 2, 2, 3\)"),
        (changed("image", lambda image: image / 255), "'image' has dtype float64; pictures are uint8"),
        (changed("state", lambda state: with_value(state, (3, 1), np.nan)), "'state' has a NaN .*step 3"),
        (changed("reward", lambda reward: with_value(reward, (4,), np.inf)), "'reward' has a NaN .*step 4"),
        (changed("reward", lambda reward: reward[:, None]), r"'reward' has shape \(5, 1\)"),
        (
            changed("action", lambda action: with_value(action, (2, 0), 1.01)),
            r"'action' leaves \[-1, 1\] first at step 2",
        ),
        (changed("action", lambda action: action.astype(int)), "'action' has dtype int64"),
        (changed("action", lambda action: action[:0]), "at least one action"),
        (changed("terminated", lambda terminated: np.zeros(5)), "'terminated' must be one bool"),
        (changed("info", lambda info: {"policy": object()}), r"policy.* is of type object, which has no JSON form"),
        ({key: value for key, value in make_episode(SMALL).items() if key != "privileged"}, r"lacks \['privileged'\]"),
        ({**make_episode(SMALL), "images": 0}, r"unknown keys \['images'\]"),
    ],
)
def test_a_wrong_episode_is_refused_by_name(tmp_path, episode, message):
    with EpisodeStore.create(tmp_path / "data", SMALL) as store:
        before = contents(tmp_path / "data")
        with pytest.raises((ValueError, TypeError), match=message):
            store.append(episode)
        assert len(store) == 0 and contents(tmp_path / "data") == before


def test_discrete_actions_must_be_one_hot(tmp_path):
    episode = make_episode(STATE_ONLY, 5)
    episode["action"][3] = [0.5, 0.5, 0.0]
    with (
        EpisodeStore.create(tmp_path / "data", STATE_ONLY) as store,
        pytest.raises(ValueError, match="one-hot.*step 3"),
    ):
        store.append(episode)


def test_rounding_beyond_the_bounds_is_clipped(tmp_path):
    episode = make_episode(SMALL)
    episode["action"][0, 0] = np.float32(1 + 5e-7)
    with EpisodeStore.create(tmp_path / "data", SMALL) as store:
        store.append(episode)
        assert store.read(0)["action"].max() == 1.0


def test_a_store_that_does_not_fit_an_env_names_the_fields(tmp_path):
    with EpisodeStore.create(tmp_path / "data", SMALL) as store:
        store.require_interface(SMALL)
        other = Interface(cameras={"image": (64, 64, 3)}, state_dim=2, action_dim=6, privileged_dim=3)
        with pytest.raises(
            ValueError, match=r"cameras: recorded .*\(2, 2, 3\).*wanted .*\(64, 64, 3\).*action_dim: recorded 2"
        ):
            store.require_interface(other)
