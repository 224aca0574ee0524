"""What 04 knows beyond the failures folder: every image of the split, an earlier run, the embedding."""

import datetime
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from PIL import Image

from seglib import evaluate, failures, runs
from seglib.browser.layers import pack_arrays, pack_problem, shrink
from seglib.data import Dataset, read_image, read_pair
from seglib.evaluate import Evaluation
from seglib.failures import Analysis, Threshold

_SIMILAR = 8  # images like the one on show
_CHANGES = {"fixed": "fixed", "regressed": "broken"}


@dataclass(frozen=True)
class Details:
    """An analysis as the browser and the report show it.

    Args:
        browse: "failures" or "all": which images are listed at first, and in the report.
        before: an earlier run on the same split; None without.
    """

    analysis: Analysis
    threshold: Threshold
    browse: str = "failures"
    before: Evaluation | None = None

    @classmethod
    def open(
        cls, analysis: Analysis, threshold: Threshold, before: str = "", browse: str = "failures"
    ) -> Self:
        """Open the details of an analysis; `before` names an earlier run that 03 evaluated on the split, if any."""
        own = analysis.evaluation
        found = evaluate.open_evaluation(before, own.name, own.dataset) if before else None
        return cls(analysis, threshold, browse, found)

    def _find(self, sample: str) -> tuple[Dataset, pd.Series]:
        """Find an image of the split, or else of the training dataset; a KeyError if it is neither."""
        evaluation = self.analysis.evaluation
        dataset = evaluation.dataset if sample in self.columns.index else evaluation.training_dataset
        return dataset, dataset.samples.set_index("id", drop=False).loc[sample]

    def add_passing(self, failed: pd.DataFrame) -> pd.DataFrame:
        """Append the images that pass, worst first, to the table of the failures; text that is unknown is ""."""
        images = self.analysis.images
        worst = self.analysis.evaluation.per_image["worst_class"].to_numpy()
        passing = images.assign(worst_class=worst, nearest=images["nearest"].map(json.dumps))
        passing = passing[~images["failed"]].sort_values(["miou", "id"]).reindex(columns=failed.columns)
        table = (
            passing if failed.empty else pd.concat([failed, passing.astype(failed.dtypes)], ignore_index=True)
        )
        text = table.select_dtypes(exclude="number").columns
        return table.assign(**table[text].fillna(""))

    @cached_property
    def columns(self) -> pd.DataFrame:
        """What is listed of every image besides the table, by id.

        failed, miou, pixels ([class id of the truth x C + that of the prediction, pixels, ...] of those that
        occur), x and y (see `_places`), before (IoU of the earlier run), gain, change ("fixed", "broken" or "").
        """
        evaluation, images = self.analysis.evaluation, self.analysis.images
        counts = evaluation.confusions.reshape(len(images), -1)
        image, pair = np.nonzero(counts)
        flat = np.stack([pair, counts[image, pair]], 1)
        edges = np.searchsorted(image, np.arange(1, len(images)))
        table = images.set_index("id")[["failed", "miou"]]
        table["pixels"] = [part.ravel().tolist() for part in np.split(flat, edges)]
        if self.analysis.features is not None:
            table[["x", "y"]] = self._places(self.analysis.features)
        if self.before is not None:
            cutoff = failures.cutoff(evaluation, self.threshold)
            found = evaluate.compare_runs(self.before, evaluation, cutoff).per_image.set_index("id")
            table[["before", "gain"]] = found[["miou_first", "difference"]]
            table["change"] = found["change"].map(_CHANGES).fillna("")
        return table.astype(object).where(table.notna(), None)

    def _places(self, features: np.ndarray) -> np.ndarray:
        """Return features (N, D) on the two main axes of those of the training images, (N, 2)."""
        known = self.analysis.training.features.astype(float)
        centred = known - known.mean(0)
        axes = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
        return ((features - known.mean(0)) @ axes).round(4)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is listed besides the images: browse, before (name or ""), sequences and training (on the map)."""
        evaluation = self.analysis.evaluation
        known = evaluation.dataset.split(evaluation.split)[["id", "group", "frame"]]
        known = known.assign(miou=self.columns["miou"].reindex(known["id"]).to_numpy())
        named = known[known["group"] != ""].sort_values(["frame", "id"]).groupby("group")[["id", "miou"]]
        told = {"browse": self.browse, "before": self.before.run.name if self.before else "", "training": []}
        told["sequences"] = {name: part.to_numpy().tolist() for name, part in named}
        if self.analysis.features is not None:
            samples, places = self.analysis.training.samples, self._places(self.analysis.training.features)
            told["training"] = [[i, *at] for i, at in zip(samples["id"], places.tolist(), strict=True)]
        return told

    def similar(self, sample: str) -> list[str]:
        """Name the images of the split whose features are most like those of one (cosine), the most similar first."""
        ids, features = self.analysis.images["id"], self.analysis.features
        if features is None or sample not in self.columns.index:
            return []
        norms = np.maximum(np.linalg.norm(features, axis=1), 1e-12)
        cosine = features @ features[self.columns.index.get_loc(sample)] / norms
        return [name for name in ids.iloc[np.argsort(-cosine)[: _SIMILAR + 1]] if name != sample][:_SIMILAR]

    def failed(self, sample: str) -> bool:
        """Tell whether an image fails: then its layers lie in the failures folder."""
        return bool(self.columns["failed"].get(sample, False))

    def earlier(self, sample: str) -> dict[str, np.ndarray]:
        """Read the earlier run's prediction of an image (H, W) as a layer; none without such a run."""
        if self.before is None:
            return {}
        folder = self.before.run.evaluation(self.before.name) / "predictions"
        return {"before": evaluate.read_ids(folder / f"{sample}.png")}

    def pack(self, sample: str, most: int, compact: bool = False) -> dict[str, Any]:
        """Pack the layers of an image that is not in the failures folder, as `pack_layers` does."""
        try:
            image, truth = read_pair(*self._find(sample))
            planes = {"truth": truth}
            if sample in self.columns.index:
                planes["prediction"] = evaluate.saved_prediction(
                    self.analysis.evaluation, sample, truth.shape
                )
                planes |= self.earlier(sample)
        except (OSError, ValueError) as error:
            return pack_problem(error)
        return pack_arrays(Image.fromarray(image), planes, most, compact)

    def thumbnail(self, sample: str) -> bytes:
        """Make a small JPEG of an image of the dataset; empty where it cannot be read."""
        try:
            dataset, row = self._find(sample)
            return shrink(Image.fromarray(read_image(dataset.root / row["image"], form=dataset.form)))
        except (KeyError, OSError, ValueError):
            return b""

    def about(self) -> dict[str, str]:
        """Say what the report is about: name -> value."""
        evaluation = self.analysis.evaluation
        run, scores = evaluation.run, evaluation.scores
        params = runs.read_json(run.params) if run.params.is_file() else {}
        model = [str(params[name]) for name in ("architecture", "encoder") if name in params]
        told = {
            "run": run.name, "date": f"{datetime.date.today():%Y-%m-%d}, of this report",
            "model": ", ".join(model) or "predictions of another tool",
            "dataset": evaluation.dataset.name, "split": f"{evaluation.split}, {len(evaluation.per_image):,} images",
            "mean IoU": f"{scores['mean_iou'] or np.nan:.3f}", "a failure is": failures.describe(evaluation, self.threshold),
        }  # fmt: skip
        return told | ({"compared with": self.before.run.name} if self.before else {})
