"""What a run looks like: pictures for people, made from its metrics, and a page about all of it."""

from proard.report.command import write_report
from proard.report.sampling import SampledPhase, sampled_phases, sampling_figure, write_sampling_plot

__all__ = ["SampledPhase", "sampled_phases", "sampling_figure", "write_report", "write_sampling_plot"]
