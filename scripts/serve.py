"""worldmodel serve: answer observations with actions over a websocket."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from scripts.assemble import (
    EXPERT,
    chosen_policy,
    env_factories,
    look_at,
    make_policy,
    with_checkpoint,
    with_objective,
)
from scripts.settings import SettingsError
from scripts.verb import resolved, verb


@verb("serve")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Serve until SIGINT or SIGTERM; print the address as soon as clients may come."""
    import asyncio
    from importlib.metadata import version

    from policies.serving.server import Served, serve

    config, agent = with_checkpoint(config, overrides)
    config, name = resolved(with_objective(config)), chosen_policy()
    if name == EXPERT:
        raise SettingsError(
            "policy=expert needs the simulator's state and acts where the env is: evaluate policy=expert"
        )
    if agent is None:
        interface, neutral_action = look_at(env_factories(config)[1])
    else:
        interface, neutral_action = agent.interface, None
    make = partial(make_policy, name, config.policy, agent, interface, neutral_action, config.seed)
    make()  # what is wrong with it is said here, and not to the first client
    about = {
        "version": version("worldmodel"),
        "policy": name,
        "checkpoint": None if agent is None else str(agent.path),
    }

    def ready(address: str) -> None:
        print(f"serving {name} at {address}; Ctrl-C ends it", flush=True)

    asyncio.run(
        serve(
            Served(make, interface, about),
            config.host,
            config.port,
            max_mb=config.max_mb,
            max_clients=config.max_clients,
            ready=ready,
        )
    )


if __name__ == "__main__":
    main()
