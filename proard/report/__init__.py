"""What a run looks like: pictures for people, made from its metrics, and a page about all of it."""

from proard.report.sampling_plot import SampledPhase, sampled_phases, sampling_figure, write_sampling_plot

__all__ = ["SampledPhase", "sampled_phases", "sampling_figure", "write_sampling_plot"]
