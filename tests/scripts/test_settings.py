"""Every mistake on a command line is answered by a few lines that name what was meant."""

from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from policies.actor_critic import ActorCriticConfig
from policies.goal_value import GoalValueConfig
from scripts import documented, settings
from scripts.settings import SettingsError, check, merge_with_saved
from worldmodel.config import ModelConfig
from worldmodel.trainer import OptimizerConfig

CONFIGS = Path(__file__).parents[2] / "configs"
VERBS = ["train", "evaluate", "record", "collect", "serve"]


def complaint(verb: str, *overrides: str, **options) -> str:
    with pytest.raises(SettingsError) as caught:
        check(verb, list(overrides), **options)
    return str(caught.value)


def compose(verb: str, *overrides: str):
    from hydra import compose, initialize_config_module

    with initialize_config_module("configs", version_base="1.3"):
        return compose(verb, list(overrides))


# Keys


@pytest.mark.parametrize("typed, meant", [("env.idd=x", "env.id"), ("trainnig.batch_size=3", "training.batch_size"),
                                          ("batch_size=3", "training.batch_size"), ("sed=1", "seed")])  # fmt: skip
def test_a_mistyped_key_names_the_near_miss_and_its_place(typed, meant):
    text = complaint("train", typed)
    assert f"no key '{typed.split('=')[0]}'" in text
    assert f"did you mean {meant} (configs/" in text


def test_a_key_like_no_other_lists_those_beside_it():
    assert "env.id, env.kwargs, env.observation" in complaint("train", "env.zzzzzz=1")


def test_every_mistake_is_named_at_once():
    text = complaint("train", "sed=1", "planner=mpii", "env.image_size=big")
    assert all(part in text for part in ("sed=1", "planner=mpii", "env.image_size=big"))


def test_the_free_dictionary_takes_any_key_with_and_without_a_plus():
    overrides = check("train", ["+env.kwargs.size=3", "env.kwargs.name=a", "env.kwargs={b:1}"])
    kwargs = compose("train", *overrides).env.kwargs
    assert kwargs == {"size": 3, "name": "a", "b": 1}


def test_a_dictionary_that_is_null_takes_a_whole_one():
    assert compose("train").env.vary is None
    assert compose("train", *check("train", ["env.vary={gain:[0.5,2]}"])).env.vary == {"gain": [0.5, 2]}


def test_a_plus_adds_nothing_outside_of_free_dictionaries():
    assert "+ adds keys to env.kwargs only" in complaint("train", "+env.colour=red")


def test_the_classes_defaults_are_the_configurations():
    """What Python code gets without a config is what `worldmodel train` takes."""
    config = OmegaConf.to_container(compose("train"), resolve=True)
    assert asdict(ModelConfig()) == asdict(ModelConfig.from_dict(config["model"]))
    assert asdict(ActorCriticConfig()) == config["behavior"]
    assert asdict(GoalValueConfig()) == config["goal_value"]
    assert asdict(OptimizerConfig()) == config["training"]["optimizer"]


# Groups


@pytest.mark.parametrize("typed, meant", [("planner=mpii", "mppi"), ("model=tinny", "tiny")])
def test_a_mistyped_choice_of_a_group_names_the_near_miss(typed, meant):
    assert f"did you mean {meant}" in complaint("train", typed)


def test_a_mistyped_policy_names_the_near_miss():
    assert "did you mean actor" in complaint("evaluate", "policy=actr")


def test_an_env_id_given_as_a_group_is_told_its_key():
    assert "env.id" in complaint("train", "env=HalfCheetah-v5")


# Values


@pytest.mark.parametrize("typed, reason", [
    ("seed=abc", "an integer is needed"),
    ("seed=1.5", "an integer is needed"),
    ("seed=1e3", "write 1000"),
    ("seed=true", "an integer is needed"),
    ("seed=null", "an integer is needed"),
    ("env.image_size=big", "an integer is needed"),
    ("env.cameras=top", "a list"),
    ("env.kwargs=3", "a dictionary"),
    ("env.vary=3", "a dictionary"),
    ("resume=yes", "true or false"),
    ("behavior.discount=high", "a number"),
    ("env.id=5", "a text"),
    ("env.quality=fats", "did you mean fast?"),
    ("env.observation=pixel", "did you mean pixels?"),
    ("logging.wandb=onlin", "did you mean online?"),
])  # fmt: skip
def test_a_wrong_value_is_told_what_is_needed_and_where_that_stands(typed, reason):
    text = complaint("train", typed)
    assert typed in text and reason in text and "configs/" in text


@pytest.mark.parametrize("typed", ["seed=3", "behavior.discount=1", "env.quality=fast", "env.cameras=[top,side]",
                                   "env.max_episode_steps=null", "env.max_episode_steps=50", "data=some/folder",
                                   "env.id=dmc/walker-walk", "seed='${eval.seed}'", "hydra.verbose=true"])  # fmt: skip
def test_right_values_pass(typed):
    assert check("train", [typed]) == [typed]


@pytest.mark.parametrize("typed", ["resume", "run=a=b", "seed"])
def test_what_is_no_setting_is_told_how_settings_are_written(typed):
    assert "key" in complaint("train", typed)


# Sweeps


def test_several_values_need_the_flag_of_a_sweep():
    assert "add -m" in complaint("train", "model=tiny,small")
    assert check("train", ["model=tiny,small", "seed=range(3)"], multirun=True)


def test_every_value_of_a_sweep_is_checked():
    assert "smal" in complaint("train", "model=tiny,smal", multirun=True)
    assert "seed=1,x" in complaint("train", "seed=1,x", multirun=True)
    assert "did you mean fast" in complaint("train", "env.quality=faithful,fats", multirun=True)


def test_a_key_must_be_known_to_every_choice_of_a_sweep(tmp_path):
    (tmp_path / "planner").mkdir()
    (tmp_path / "planner" / "mine.yaml").write_text("name: mine\n")
    settings = ["planner=mppi,mine", "planner.horizon=5"]
    assert "with planner=mine" in complaint("train", *settings, multirun=True, config_dir=str(tmp_path))
    assert check("train", settings[:1], multirun=True, config_dir=str(tmp_path))


# The YAML files as documentation


def document(tmp_path, text: str) -> documented.Document:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return documented.read(path, "configs/some.yaml")


@pytest.mark.parametrize("comment, choices", [
    ("fast (no shadows) | faithful (the look, far cheaper) | default", ["fast", "faithful", "default"]),
    ("auto | pixels. auto: a Dict space is taken | or not", ["auto", "pixels"]),
    ("32-true | bf16-mixed", ["32-true", "bf16-mixed"]),
    ("cpu | cuda | cuda:0 | ...", ["cpu", "cuda", "cuda:0", "..."]),
    ("a number, or a | b", []),
    ("width x height", []),
])  # fmt: skip
def test_choices_are_read_from_the_comment(tmp_path, comment, choices):
    assert document(tmp_path, f"key: x  # {comment}\n").keys["key"].choices == choices


def test_an_open_list_of_choices_admits_others_of_the_type(tmp_path):
    key = document(tmp_path, "key: cpu  # cpu | cuda | ...\n").keys["key"]
    assert key.problem("cuda:3") is None
    assert "cpu | cuda" in key.problem(3)


def test_choices_of_a_list_are_those_of_its_elements(tmp_path):
    key = document(tmp_path, "key: [a]  # a | b\n").keys["key"]
    assert key.problem(["a", "b"]) is None and key.problem([]) is None
    assert "a | b" in key.problem(["a", "c"])


def test_a_null_default_takes_anything_unless_its_comment_tells_a_type(tmp_path):
    keys = document(tmp_path, "any: null\ntyped: null  # float: of something\nnumber: 3  # null is none\n").keys
    assert keys["any"].problem("x") is None
    assert keys["typed"].problem(2) is None and keys["typed"].problem(None) is None
    assert "a number" in keys["typed"].problem("x")
    assert keys["number"].problem(None) is None


def test_comments_go_on_below_and_stand_above(tmp_path):
    text = "# What it is.\n#   worldmodel do it\na: 1  # one\n      # and more\n# of b\nb:\n  c: '#2'  # hash\n"
    read = document(tmp_path, text)
    assert (read.description, read.examples) == ("What it is.", ("worldmodel do it",))
    assert {key.name: key.comment for key in read.keys.values()} == {"a": "one and more", "b": "of b", "b.c": "hash"}
    assert read.keys["b.c"].place == "configs/some.yaml:7" and read.keys["b.c"].default == "#2"


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_every_verb_has_a_default_that_its_own_documentation_admits(verb):
    known = settings.catalogue(verb, [])
    for key in known.leaves():
        assert key.problem(key.default) is None, f"{key.place}: {key.name}"


@pytest.mark.parametrize("preset", sorted(path.stem for path in (CONFIGS / "preset").glob("*.yaml")))
def test_a_preset_sets_only_keys_that_exist_to_values_that_they_take(preset):
    known = settings.catalogue("train", []).keys
    for key in documented.read(CONFIGS / "preset" / f"{preset}.yaml", f"configs/preset/{preset}.yaml").keys.values():
        if not isinstance(key.default, dict):
            assert key.name in known, f"{key.place}: {key.name}"
            assert known[key.name].problem(key.default) is None, key.place


@pytest.mark.parametrize("verb", VERBS)
def test_what_the_files_document_is_what_hydra_composes(verb):
    def leaves(value, prefix=""):
        for name, item in value.items():
            if isinstance(item, dict) and item:
                yield from leaves(item, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    composed = OmegaConf.to_container(compose(verb), resolve=False)
    known = {
        key.name
        for key in settings.catalogue(verb, []).keys.values()
        if not key.default or not isinstance(key.default, dict)
    }
    assert known == set(leaves(composed))


# Names


@pytest.mark.parametrize("env_id, name", [
    ("worldmodel/CartpoleSwingup-v0", "cartpole_swingup"), ("HalfCheetah-v5", "half_cheetah"),
    ("dmc/walker-walk", "walker_walk"), ("my_package:MyEnv-v0", "my_env"), ("ALE/Pong-v5", "pong"), ("", "env"),
])  # fmt: skip
def test_an_env_id_becomes_a_folder_name(env_id, name):
    assert settings.slug(env_id) == name


def test_a_sweeps_folder_names_can_be_typed_and_stay_apart():
    assert settings.file_name("env.id-dmc/walker-walk_seed-0") == "env.id-dmc-walker-walk_seed-0"
    long = [settings.file_name("x" * 200 + str(index)) for index in range(2)]
    assert long[0] != long[1] and len(long[0]) <= 100


# Saved settings below the command line's own


@pytest.fixture
def saved():
    saved = compose("train", "env.id=HalfCheetah-v5", "planner.horizon=7", "eval.episodes=3", "seed=5")
    return OmegaConf.create(OmegaConf.to_container(saved, resolve=True))


def merged(saved, *overrides: str):
    return merge_with_saved(saved, compose("evaluate", *overrides), list(overrides), own=("run", "seed"))


def test_saved_settings_stand_where_the_command_line_says_nothing(saved):
    config = merged(saved)
    assert (config.env.id, config.planner.horizon, config.eval.episodes) == ("HalfCheetah-v5", 7, 3)


def test_explicit_overrides_stand_above_saved_settings_even_at_their_defaults(saved):
    config = merged(saved, "eval.episodes=10", "env.image_size=32")
    assert (config.eval.episodes, config.env.image_size, config.env.id) == (10, 32, "HalfCheetah-v5")


def test_an_explicit_choice_of_a_group_replaces_the_saved_group(saved):
    saved.planner.leftover = 1
    config = merged(saved, "planner=mppi", "planner.samples=9")
    assert (config.planner.samples, config.planner.horizon) == (9, compose("evaluate").planner.horizon)
    assert "leftover" not in config.planner


def test_keys_of_a_free_dictionary_can_be_added_and_taken_away(saved):
    assert merged(saved, "+env.kwargs.size=2").env.kwargs == {"size": 2}
    saved.env.kwargs = {"size": 2}
    assert merged(saved, "~env.kwargs").env.get("kwargs") is None


def test_what_a_command_says_for_itself_is_never_taken_from_the_saved_settings(saved):
    config = merged(saved, "run=here")
    assert (config.run, config.seed) == ("here", compose("evaluate").seed)


def test_an_explicit_preset_sets_the_keys_in_its_file_and_no_others(saved):
    config = merge_with_saved(saved, compose("train", "preset=debug"), ["preset=debug"])
    preset = documented.read(CONFIGS / "preset" / "debug.yaml", "")
    for key in preset.keys.values():
        if not isinstance(key.default, dict):
            assert OmegaConf.select(config, key.name) == key.default
    assert config.env.id == "HalfCheetah-v5"


def test_merging_leaves_its_arguments_alone(saved):
    before = OmegaConf.to_yaml(saved)
    merged(saved, "eval.episodes=10")
    assert OmegaConf.to_yaml(saved) == before
