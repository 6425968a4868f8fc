"""What an env shows and takes: all that a model, a store or a policy needs to know of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

SEMANTIC = "semantic"  # key of the semantic tokens among a frame's inputs, float32 [..., K, E]
BLOBS = "blobs"  # key of where a frame's colours are, float32 [..., 2 P]: a training target, see worldmodel/blobs.py


@dataclass(frozen=True)
class Interface:
    """The observation and action layout of one env, as plain data that travels with episodes and checkpoints.

    Attributes:
        cameras: observation key to picture shape `(H, W, 3)`, uint8; empty for a state-only env. One camera has the key
            `image`, several have `image.<name>`.
        state_dim: length of the float32 vector `state`; 0 where the env has none.
        action_dim: length of an action, float32 in [-1, 1]; the number of choices (one-hot) where `discrete`.
        discrete: actions are one-hot vectors of a `gymnasium.spaces.Discrete`.
        privileged_dim: length of the simulator's state, a training target only; 0 where it is not recorded.
        privileged_positions: how many of its leading entries are positions (the rest are velocities).
        fps: agent steps per simulated second.
        action_repeat: env steps per agent step.
    """

    cameras: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    state_dim: int = 0
    action_dim: int = 1
    discrete: bool = False
    privileged_dim: int = 0
    privileged_positions: int = 0
    fps: float = 25.0
    action_repeat: int = 1

    def __post_init__(self):
        object.__setattr__(self, "cameras", {key: tuple(shape) for key, shape in self.cameras.items()})
        if not self.cameras and not self.state_dim:
            raise ValueError("an env must show at least one camera or a state vector; this one shows neither")

    def to_dict(self) -> dict:
        """Plain JSON types; `Interface(**value)` reads it back."""
        return asdict(self)

    def observation_keys(self) -> list[str]:
        """The keys of an observation, pictures first."""
        return [*self.cameras, *(["state"] if self.state_dim else [])]
