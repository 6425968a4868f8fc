"""The vision-language-action policy: pictures, state and a sentence to chunks of actions, learned from demonstrations."""

from policies.vla.agent import VLAAgent
from policies.vla.config import VLAConfig
from policies.vla.execution import ChunkPolicy
from policies.vla.model import VLA
from policies.vla.proposals import ProposePolicy
from policies.vla.statistics import Statistics, StatisticsError

__all__ = ["VLA", "ChunkPolicy", "ProposePolicy", "Statistics", "StatisticsError", "VLAAgent", "VLAConfig"]
