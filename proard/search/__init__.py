"""Choosing architectures: labels, a predictor of them, NSGA-II, and a front that is measured."""
