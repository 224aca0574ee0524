"""Where a training run's figures go: history.csv always, TensorBoard or Weights & Biases when asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pandas as pd

from seglib.runs import Run


class Tracker(Protocol):
    """What `fit` asks of a tracker."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record scalars at an optimiser step (1-based)."""

    def log_steps(self, steps: pd.DataFrame) -> None:
        """Record the rows of steps.csv."""

    def close(self) -> None:
        """Flush and end."""


class _Base:
    def log(self, values: Mapping[str, float], step: int) -> None:
        pass

    def log_steps(self, steps: pd.DataFrame) -> None:
        for row in steps.to_dict("records"):
            self.log(
                {f"step/{name}": float(value) for name, value in row.items() if name != "step"},
                int(row["step"]),
            )

    def close(self) -> None:
        pass


class _TensorBoard(_Base):
    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(run.path / "tensorboard")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB(_Base):
    def __init__(self, run: Run, params: Mapping[str, Any]) -> None:
        import wandb

        self.session = wandb.init(
            project="seglib", name=run.name, id=run.name, resume="allow", dir=run.path, config=dict(params)
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.session.log(dict(values), step=step)

    def close(self) -> None:
        self.session.finish()


def make_tracker(kind: str, run: Run, params: Mapping[str, Any]) -> Tracker:
    """A tracker of the kind "csv" (none beside history.csv), "tensorboard" or "wandb" (offline with WANDB_MODE=offline).

    Raises:
        ModuleNotFoundError: the optional package is not installed; says how to get it.
    """
    try:
        if kind == "tensorboard":
            return _TensorBoard(run)
        if kind == "wandb":
            return _WandB(run, params)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"track={kind!r} needs a package that is not installed: run `pip install -e '.[{kind}]'`, or set track='csv'."
        ) from error
    return _Base()
