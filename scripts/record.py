"""worldmodel record: film a policy beside what the model sees and dreams."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from scripts.assemble import chosen_policy, env_factories, look_at, make_policy, with_checkpoint, with_objective
from scripts.help import console
from scripts.verb import resolved, verb


@verb("record")
def main(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Write `folder/videos/<policy>_<seed>.mp4` for each episode, and print the paths."""
    from policies.rollout import film
    from policies.video import View, record

    config, agent = with_checkpoint(config, overrides)
    config, name = resolved(with_objective(config)), chosen_policy()
    make_vector, make_env = env_factories(config, [name])
    interface, neutral_action = look_at(make_env)
    policy = make_policy(name, config.policy, agent, interface, neutral_action, config.seed)
    view = (lambda episode, open_loop_step: View()) if agent is None else agent.view
    wanted, out = config.record, console()
    vector_env = make_vector(1)
    try:
        for seed in range(wanted.seed, wanted.seed + wanted.episodes):
            with out.status(f"filming {name}, seed {seed}"):
                episode, pictures = film(policy, vector_env, seed, wanted.size, wanted.max_steps, name=name)
                made = record(
                    view,
                    episode,
                    folder / "videos" / f"{name}_{seed}.mp4",
                    context=wanted.context,
                    horizon=wanted.horizon,
                    fps=interface.fps,
                    title="  ".join(
                        [
                            episode["info"].get("instruction") or config.env.id,
                            name,
                            f"seed {seed}",
                            f"return {episode['info']['return']:.1f}",
                        ]
                    ),
                    pictures=pictures,
                )
            error = "" if made["dream_error"] is None else f"  dream's error {made['dream_error']:.1f} of 255"
            line = f"{made['path']}  {made['frames']} frames  return {episode['info']['return']:.1f}{error}"
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    finally:
        vector_env.close()


if __name__ == "__main__":
    main()
