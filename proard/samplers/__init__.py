"""Samplers: which students train in an optimizer step."""

from proard.samplers.base import Sampler, Signals, samplers
from proard.samplers.robustness import Robustness
from proard.samplers.sandwich import Sandwich
from proard.samplers.uniform import EpochUniform, Uniform

__all__ = ["EpochUniform", "Robustness", "Sampler", "Sandwich", "Signals", "Uniform", "samplers"]
