"""Command lines to configs: what `key=value` may say, checked against the YAML files before anything is composed.

Hydra composes; this module knows before it what can be composed, so that a mistake costs a few lines and no traceback.
There is no second table of keys: names, types and choices are read from the YAML files and their comments
(`scripts.documented` tells the convention), groups and their choices from the folders of `configs/`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scripts.documented import Document, Key, nearest, read

CONFIGS = "pkg://configs"  # where Hydra looks


class SettingsError(ValueError):
    """A command line that says something the configs do not know; its text is for the user."""


def slug(env_id: str) -> str:
    """An env's id as a folder name: `worldmodel/CartpoleSwingup-v0` is `cartpole_swingup`."""
    name = re.sub(r"-v\d+$", "", str(env_id).replace(":", "/").rstrip("/").rsplit("/", 1)[-1])
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "env"


def file_name(text: str, longest: int = 100) -> str:
    """Any text as one file name that needs no quotes on a command line; a longer one ends in a hash of the whole."""
    name = re.sub(r"[^\w.-]+", "-", str(text)).strip("-")
    return name if len(name) <= longest else f"{name[: longest - 9]}-{hashlib.sha1(name.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("slug", slug, replace=True)
OmegaConf.register_new_resolver("file_name", file_name, replace=True)


@dataclass(frozen=True)
class Catalogue:
    """All that can be said to one verb, given its group choices: keys by dotted name, the choices of each group."""

    verb: str
    document: Document
    keys: dict[str, Key]
    groups: dict[str, list[str]]
    chosen: dict[str, Any]

    def leaves(self) -> list[Key]:
        """The keys that hold values, without sections and Hydra's own `_target_`."""
        own = [key for key in self.keys.values() if not key.name.rsplit(".", 1)[-1].startswith("_")]
        return [key for key in own if not isinstance(key.default, dict) or key.free]


def _loader(config_dir: str | None = None):
    """Hydra's loader of our configs, with a folder of the user's own searched first."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    version.setbase("1.3")
    search_path = create_config_search_path(CONFIGS)
    if config_dir is not None:
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}")
    return ConfigLoaderImpl(config_search_path=search_path)


def _folders(loader) -> list[tuple[Path, str]]:
    """The folders that hold YAML files, in Hydra's order, and how to call each in a message."""
    from importlib.util import find_spec

    folders = []
    for source in loader.repository.get_sources():
        if source.scheme() == "file":
            folders.append((Path(source.path), str(source.path)))
        elif source.scheme() == "pkg" and not source.path.startswith("hydra"):
            folders += [(Path(place), source.path) for place in find_spec(source.path).submodule_search_locations]
    return folders


def catalogue(verb: str, overrides: list[str], config_dir: str | None = None) -> Catalogue:
    """What `worldmodel <verb>` can be told. Of `overrides`, only group choices matter here.

    Raises:
        hydra.errors.HydraException: Hydra cannot put the config files together.
    """
    from hydra.types import RunMode

    loader = _loader(config_dir)
    folders = _folders(loader)
    defaults = loader.compute_defaults_list(verb, overrides, RunMode.RUN)
    keys: dict[str, Key] = {}
    document = None
    for default in defaults.defaults:
        path = default.config_path
        if path is None or path.split("/")[0] == "hydra" or default.package == "hydra":
            continue
        for folder, name in folders:
            if (folder / f"{path}.yaml").is_file():
                package = "" if default.package in (None, "_global_") else default.package
                found = read(folder / f"{path}.yaml", f"{name}/{path}.yaml", package)
                document = found if path == verb else document
                for key in found.keys.values():
                    keys.setdefault(key.name, key)
                break
    known = defaults.overrides.known_choices
    order = dict.fromkeys(default.override_key for default in defaults.defaults if default.override_key in known)
    choices = {group: known[group] for group in [*order, *known] if group.split("/")[0] != "hydra"}
    groups = {group: loader.get_group_options(group.split("@")[0]) for group in choices}
    return Catalogue(verb, document, keys, groups, choices)


def check(verb: str, overrides: list[str], multirun: bool = False, config_dir: str | None = None) -> list[str]:
    """Check a command line; return its overrides as Hydra wants them.

    Args:
        verb: name of the config file and of the verb.
        overrides: `key=value` and `group=choice` as typed.
        multirun: whether several values, as in `seed=0,1`, are a sweep.
        config_dir: a folder of the user's own with more YAML files.

    Raises:
        SettingsError: naming every mistake, what it may have meant, and where the key is documented.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    loader = _loader(config_dir)
    parser = OverridesParser.create(config_loader=loader)
    parsed, problems = [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            problems.append(_unreadable(text, error))
    base = catalogue(verb, [], config_dir)

    choosing: list[list[str]] = []
    valued = []
    for override in parsed:
        if override.is_hydra_override() or override.key_or_group.split("/")[0] == "hydra":
            continue
        if override.is_sweep_override() and not multirun:
            problems.append(f"{override.input_line}: several values are a sweep: add -m, or write a list as [a,b]")
            continue
        group = override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"
        options = base.groups.get(group) or (override.is_add() and loader.get_group_options(override.key_or_group))
        if not options:
            valued.append(override)
        elif not override.is_delete():
            chosen = _values(override)
            wrong = [choice for choice in chosen if not isinstance(choice, list) and str(choice) not in options]
            inside = [key for key in base.keys if key.startswith(f"{group}.")]
            problems += [_no_choice(override.input_line, group, str(choice), options, inside) for choice in wrong]
            choosing.append([f"{override.get_key_element()}={choice}" for choice in chosen if choice not in wrong])

    swept = {choice.split("=")[0].lstrip("+") for choices in choosing for choice in choices if len(choices) > 1}
    variants = [catalogue(verb, list(choice), config_dir) for choice in itertools.product(*choosing) if choice] or [
        base
    ]
    checked = {override.input_line: _check_value(override, variants, swept) for override in valued}
    problems += [problem for _, problem in checked.values() if problem]
    if problems:
        problems = list(dict.fromkeys(problems))
        raise SettingsError(problems[0] if len(problems) == 1 else "\n" + "\n".join(problems))
    return [checked[text][0] if text in checked else text for text in overrides]


def folder_names(overrides: list[str]) -> str:
    """The override that names the folder of each job of a sweep after what differs between the jobs, and that alone."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=_loader()).parse_overrides(overrides)
    same = [override.key_or_group for override in parsed if not override.is_sweep_override()]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(same)}]"


def _values(override) -> list:
    """Every value that an override gives its key; one, unless it is a sweep that can be listed."""
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep():  # an interval: its sweeper draws from it
        return []
    from hydra.core.override_parser.types import Override

    return [Override._convert_value(value) for value in override.sweep_iterator()]


def _check_value(override, variants: list[Catalogue], swept: set[str]) -> tuple[str, str | None]:
    """An override as Hydra wants it, and what is wrong with it in any of the variants of the config."""
    name, line = override.key_or_group, override.input_line
    adapted = line
    for known in variants:
        parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
        plain = not (override.is_add() or override.is_force_add() or override.is_delete())
        if any(parent in known.keys and known.keys[parent].free for parent in parents):
            adapted = f"++{line}" if plain else line
            continue
        if name not in known.keys:
            return line, _no_key(override, known, swept)
        key = known.keys[name]
        for value in [] if override.is_delete() else _values(override):
            if type(value).__module__ == "builtins" and (problem := key.problem(value)):
                default = "" if key.default is None else f"default {key.typed_default}, "
                return line, f"{override.input_line}: {problem} ({default}{key.place})"
            if plain and key.free and isinstance(value, dict):
                adapted = f"++{line}"
    return adapted, None


def _no_key(override, known: Catalogue, swept: set[str]) -> str:
    name = override.key_or_group
    which = "".join(f" with {group}={choice}" for group, choice in known.chosen.items() if group in swept)
    text = f"{override.input_line}: no key '{name}'{which}"
    near = nearest(name, [*known.keys, *known.groups])
    inside = [key for key in known.keys if key.startswith(f"{name.rsplit('.', 1)[0]}.")]
    if near:
        places = [f"{key} ({known.keys[key].place})" if key in known.keys else f"{key} (a group)" for key in near]
        text += f"\n  did you mean {' or '.join(places)}?"
    elif inside:
        text += f"\n  there are {', '.join(inside)}"
    free = [key.name for key in known.keys.values() if key.free]
    if override.is_add() and free:
        text += f"\n  + adds keys to {', '.join(free)} only"
    return text


def _no_choice(line: str, group: str, choice: str, options: list[str], inside: list[str]) -> str:
    near = nearest(choice, options)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    folder = f"configs/{group.split('@')[0]}/"
    text = f"{line}: no {group} '{choice}'\n  {meant}{group} is one of {', '.join(options)} ({folder})"
    return text if near or not inside else f"{text}; a value is set by its key: {', '.join(inside[:4])}, ..."


def _unreadable(text: str, error: Exception) -> str:
    if "=" not in text and not text.startswith("~"):
        return f"{text}: not a setting; settings are written key=value"
    reason = str(error).splitlines()[0]
    advice = "quote values with special characters, for the shell and for Hydra: 'key=\"a value\"'"
    return f"{text}: cannot be read ({reason})\n  {advice}"


def merge_with_saved(
    saved: DictConfig, config: DictConfig, overrides: list[str], own: Container[str] = ("run", "resume")
) -> DictConfig:
    """The settings of a saved run with this command line's explicit overrides on top.

    Args:
        saved: the config in a run or checkpoint folder.
        config: what Hydra composed for this command line, defaults included.
        overrides: what the command line said. Only these win over `saved`: a value, or all values of a group's choice
            (`planner=cem`; of a choice with `# @package _global_`, such as a preset, the keys that its file sets).
        own: top-level keys that are about this command, not about the run: always `config`'s.

    Returns:
        A new config with the keys of both. The arguments are unchanged.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    merged = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    for key in saved:
        if key not in own:
            merged[key] = saved[key]
    loader = _loader()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(overrides):
        name = override.key_or_group
        if override.is_hydra_override() or name in own:
            continue
        if override.is_delete():
            section, _, last = name.rpartition(".")
            (OmegaConf.select(merged, section) if section else merged).pop(last, None)
            continue
        for explicit in _explicit(name, override, loader):
            value = OmegaConf.select(config, explicit, throw_on_missing=False)
            OmegaConf.update(merged, explicit, value, merge=False, force_add=True)
    return merged


def _explicit(name: str, override, loader) -> list[str]:
    """The dotted keys that an override sets."""
    if not loader.get_group_options(name):
        return [name]
    choice = override.value()
    for folder, _ in _folders(loader):
        path = folder / name / f"{choice}.yaml"
        if path.is_file() and re.search(r"^#\s*@package\s+_global_", path.read_text(encoding="utf-8"), re.MULTILINE):
            return [key.name for key in read(path, str(path)).keys.values() if not isinstance(key.default, dict)]
    return [override.package or name.replace("/", ".")]
