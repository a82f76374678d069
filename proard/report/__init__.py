"""What a run looks like: pictures for people, made from its metrics."""

from proard.report.sampling import SampledPhase, sampled_phases, sampling_figure, write_sampling_plot

__all__ = ["SampledPhase", "sampled_phases", "sampling_figure", "write_sampling_plot"]
