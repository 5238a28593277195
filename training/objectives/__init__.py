"""What a training step minimises, apart from models and data."""

from .dpo import FlowDPO, PreferenceInputs
from .flow_matching import FlowInputs, FlowMatching, flow_error, interpolate, velocity
from .objective import Objective, Ratio, mean_of

__all__ = [
    "FlowDPO",
    "FlowInputs",
    "FlowMatching",
    "Objective",
    "PreferenceInputs",
    "Ratio",
    "flow_error",
    "interpolate",
    "mean_of",
    "velocity",
]
