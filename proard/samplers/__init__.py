"""Samplers: which students train in an optimizer step."""

from proard.samplers.base import Sampler, samplers
from proard.samplers.sandwich import Sandwich
from proard.samplers.uniform import Uniform

__all__ = ["Sampler", "Sandwich", "Uniform", "samplers"]
