"""What a training step minimises, apart from models and data."""

from .flow_matching import FlowInputs, FlowMatching, flow_error, interpolate, velocity
from .objective import Objective, Ratio, mean_of

__all__ = ["FlowInputs", "FlowMatching", "Objective", "Ratio", "flow_error", "interpolate", "mean_of", "velocity"]
