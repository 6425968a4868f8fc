"""worldmodel collect: add episodes of a policy to a folder of episodes."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from scripts.assemble import EXPERT, chosen_policy, env_factories, look_at, make_policy, with_checkpoint
from scripts.help import console
from scripts.verb import resolved, verb

if TYPE_CHECKING:
    from worldmodel.data import EpisodeStore
    from worldmodel.interface import Interface


@verb("collect")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Append at least `collect.steps` agent steps to the store in `data`, and print what was added."""
    from policies.collect import collect, next_seed
    from policies.schedule import COLLECTION_SEED
    from worldmodel.data import check_disk, footprint
    from worldmodel.progress import Progress

    config, agent = with_checkpoint(config, overrides)
    config, name = resolved(config), chosen_policy()
    make_vector, make_env = env_factories(config, [name])
    wanted, out = config.collect, console()
    interface, neutral_action = look_at(make_env)
    need = footprint(interface, wanted.steps)
    free = check_disk(config.data, need["disk_bytes"], "data=<a folder on a larger disk>, or fewer collect.steps")
    out.print(
        f"{wanted.steps:,} steps take {_size(need['disk_bytes'])} of disk ({_size(free)} free) "
        f"and {_size(need['ram_bytes'])} of memory"
    )
    store = _open(
        Path(config.data),
        interface,
        {"env": OmegaConf.to_container(config.env), "command": ["worldmodel collect", *overrides]},
    )
    for problem in store.problems:
        out.print(f"warning: {problem}", markup=False)
    first = next_seed(store, COLLECTION_SEED * (1 + config.seed), COLLECTION_SEED)  # evaluation's lie far below
    policy = make_policy(name, config.policy, agent, interface, neutral_action, first)
    vector_env = make_vector(wanted.envs, workers=wanted.workers)
    try:
        added = collect(
            policy,
            vector_env,
            store,
            wanted.steps,
            count(first),
            broad_fraction=wanted.broad_fraction,
            max_steps=wanted.max_steps,
            successful_only=name == EXPERT if wanted.successful_only is None else wanted.successful_only,
            name=name,
            progress=Progress(out),
        )
    finally:
        vector_env.close()
        store.close()
    out.print(_table(added, store, config.data))


def _open(folder: Path, interface: Interface, meta: dict) -> EpisodeStore:
    """The store in `folder`, a new one if there is none; it must be of the same env."""
    from worldmodel.data import EpisodeStore

    if not (folder / "store.json").exists():
        return EpisodeStore.create(folder, interface, meta)
    store = EpisodeStore.open(folder, writable=True)
    store.require_interface(interface)
    return store


def _table(added: dict, store: EpisodeStore, folder: str):
    from rich.table import Table

    table = Table("", "added", "in all", title=f"episodes in {folder}", title_justify="left")
    table.add_row("episodes", f"{added['episodes']:,}", f"{len(store):,}")
    table.add_row("steps", f"{added['steps']:,}", f"{store.steps:,}")
    if added["return_mean"] is not None:
        table.add_row("mean return", f"{added['return_mean']:.1f}", "")
    if added["success_rate"] is not None:
        table.add_row("success", f"{added['success_rate']:.0%}", "")
    if added["dropped"]:
        table.add_row("failed, not stored", f"{added['dropped']:,}", "")
    table.add_row("seconds", f"{added['seconds']:.0f} ({added['steps_per_second']:,.0f} steps/s)", "")
    return table


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
