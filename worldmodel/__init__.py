"""Latent world models: learn an env's dynamics from pixels, imagine trajectories, decode them to video."""

from worldmodel.config import LossWeights, ModelConfig
from worldmodel.imagination import Trajectory, imagine
from worldmodel.interface import Interface
from worldmodel.model import WorldModel
from worldmodel.transformer import Memory

__version__ = "0.1.0"

__all__ = ["Interface", "LossWeights", "Memory", "ModelConfig", "Trajectory", "WorldModel", "imagine"]
