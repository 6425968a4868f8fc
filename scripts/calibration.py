"""Does the model know when it is wrong? `python -m scripts.calibration checkpoint=<run folder> [data=<folder>]
[horizon=15] [windows=256] [context=8] [seeds=0,1,2]`.

Dreams held-out episodes under their own actions, compares the disagreement of the transition heads with the real error
at each horizon, and writes `calibration.json` and `calibration.png` into the checkpoint's run folder.
"""

from __future__ import annotations

import sys

DEFAULTS = {"checkpoint": "", "data": "", "horizon": "15", "windows": "256", "context": "8", "seeds": "0,1,2"}


def main() -> None:
    """Measure, print a line for each horizon, save."""
    import numpy as np

    from policies.vla.proposals import load_world_model
    from worldmodel.calibration import calibration, draw_calibration, foresee, pooled
    from worldmodel.data import EpisodeStore
    from worldmodel.provenance import result_json, write_json

    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if not given.get("checkpoint") or set(given) - set(DEFAULTS):
        sys.exit((__doc__ or "").split("\n\n")[0])
    settings = DEFAULTS | given
    sizes = {key: int(settings[key]) for key in ("horizon", "windows", "context")}
    seeds = [int(seed) for seed in settings["seeds"].split(",")]
    try:
        agent = load_world_model(settings["checkpoint"])
        data = settings["data"] or agent.config.get("data") or agent.path.parents[1] / "data"
        with EpisodeStore.open(data) as store:
            store.require_interface(agent.interface)
            found = [foresee(agent.model, store, **sizes, seed=seed) for seed in seeds]
        reports = [calibration(each) for each in found]
        whole = calibration(pooled(found))
    except (ValueError, OSError) as error:
        sys.exit(f"scripts.calibration: {error}")
    values = [float(np.mean([at["spearman"] or 0.0 for at in report])) for report in reports]
    folder = agent.path.parents[1] if agent.path.parent.name == "checkpoints" else agent.path
    result = result_json(
        f"{agent.config['env']['id']}: rank correlation of the transition heads' disagreement with the real open-loop "
        f"error of held-out episodes, mean over 1 to {sizes['horizon']} steps",
        " ".join(["python -m scripts.calibration", *sys.argv[1:]]),
        seeds,
        values,
        None,
        checkpoint=str(agent.path),
        data=str(data),
        ensemble=agent.model.config.ensemble,
        **sizes,
        horizons=whole,
    )
    path = write_json(folder / "calibration.json", result)
    picture = draw_calibration(whole, folder / "calibration.png", agent.config["env"]["id"])
    print("steps  spearman  predicted  error  within 1 sd (.68)  within 2 sd (.95)")
    for at in whole:
        ranked = "       -" if at["spearman"] is None else f"{at['spearman']:8.2f}"
        print(
            f"{at['horizon']:5d}  {ranked}  {at['predicted']:9.3f}  {at['error']:5.3f}  {at['coverage']['1']:17.2f}  "
            f"{at['coverage']['2']:17.2f}"
        )
    print(f"{path} {picture}")


if __name__ == "__main__":
    main()
