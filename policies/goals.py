"""Goal images, as objectives for planning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from policies.planners.objective import GoalObjective, root_mean_square
from policies.policy import Observation
from policies.video import read_picture

if TYPE_CHECKING:
    from policies.agent import Agent


class Goals:
    """Goal images of an agent, as objectives.

    Args:
        agent: whose latents are compared.
        image: a picture file that is the goal of every row; None takes each row's from its observations.
        learned: by the agent's learned distance where it has one, else by the latents' own.

    Raises:
        ValueError: the model sees no pictures, or several cameras and one picture is given.
    """

    def __init__(self, agent: Agent, image: str | None, learned: bool):
        self.agent, self.picture = agent, None
        cameras = agent.interface.cameras
        if not cameras or agent.interface.state_dim:
            raise ValueError(
                "objective=goal_image needs a world model that sees pictures and nothing else; this one sees "
                f"{', '.join(agent.interface.observation_keys())}"
            )
        self.distance = agent.goal_value.distance if learned and agent.goal_value is not None else root_mean_square
        if image is not None:
            if len(cameras) > 1:
                raise ValueError(f"objective.image is one picture, and the model has the cameras {', '.join(cameras)}")
            ((key, shape),) = cameras.items()
            self.picture = {key: torch.as_tensor(read_picture(image, shape[0], shape[1]))[None]}

    @torch.no_grad()
    def objective(self, observation: Observation) -> GoalObjective:
        """To be where the goals in `observation` (or the file) show."""
        model = self.agent.model
        pictures = self.picture
        if pictures is None:
            keys = {key: "goal" + key.removeprefix("image") for key in self.agent.interface.cameras}
            missing = [goal for goal in keys.values() if goal not in observation]
            if missing:
                raise ValueError(
                    f"objective=goal_image finds no {', '.join(missing)} in the observations: set env.goal_image=true "
                    "where the env can draw its solved task, or give objective.image=<file>"
                )
            pictures = {key: torch.as_tensor(observation[goal]) for key, goal in keys.items()}
        training = model.training
        latent = model.eval().encode({key: picture.to(model.device) for key, picture in pictures.items()})
        model.train(training)
        return GoalObjective(latent, distance=self.distance)
