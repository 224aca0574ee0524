"""How the sequences of a split fare: a table of means, no claim about other sequences."""

import pandas as pd

from seglib.failures.analyse import Analysis


def sequence_means(analysis: Analysis) -> pd.DataFrame:
    """Tabulate the sequences of the split, the lowest mean first.

    Returns:
        sequence ("" for images without one), images, failures, miou (mean over its images; NaN without a score).
    """
    groups = analysis.images.groupby("group", sort=True)
    table = groups.agg(images=("id", "size"), failures=("failed", "sum"), miou=("miou", "mean"))
    return table.rename_axis("sequence").sort_values("miou", kind="stable").reset_index()
