"""Latent world models: learn an env's dynamics from pixels, imagine trajectories, decode them to video."""

import os

# Threads that wait for each other asleep and not spinning: as fast on an idle machine, and ten times as fast beside
# another busy process. Read when torch loads its OpenMP runtime, so it must be set before.

from worldmodel.config import LossWeights, ModelConfig  # noqa: E402
from worldmodel.imagination import Trajectory, imagine  # noqa: E402
from worldmodel.interface import Interface  # noqa: E402
from worldmodel.model import WorldModel  # noqa: E402
from worldmodel.transformer import Memory  # noqa: E402

__version__ = "0.1.0"

__all__ = ["Interface", "LossWeights", "Memory", "ModelConfig", "Trajectory", "WorldModel", "imagine"]
