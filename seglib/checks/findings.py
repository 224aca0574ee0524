"""The checks of a dataset, besides errors of reading and pairing: findings.csv says how bad each is, and what to do."""

from pathlib import Path

import pandas as pd

SEVERITIES = ("error", "warning", "info")
_CHECKS = pd.read_csv(Path(__file__).with_name("findings.csv"), index_col="check", keep_default_na=False)
Finding = tuple[str, str, str, str, str, str]


def finding(check: str, sample: str, split: str, detail: str, suggestion: str = "") -> Finding:
    """Make a row of the findings table; `sample` and `split` are "" for all of them, `suggestion` for the usual one."""
    severity, usual = _CHECKS.loc[check]
    return severity, check, sample, split, detail, suggestion or usual
