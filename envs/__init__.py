"""Gymnasium envs with pictures from our own renderer: `make` one by id, or `make_vector` of many."""

from envs.gl import RenderingUnavailable, prepare_gl

prepare_gl()  # before anything imports mujoco or makes a GL context

from envs.catalogue import make, register_built_in
from envs.vector import VectorEnv, make_vector

register_built_in()

__all__ = ["RenderingUnavailable", "VectorEnv", "make", "make_vector"]
