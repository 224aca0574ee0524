"""plots."""

from seglib.plots.diagrams import run_comparison

__all__ = ["run_comparison"]
