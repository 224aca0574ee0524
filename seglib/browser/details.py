"""What 04 knows of the images of a split: measures and causes, an earlier run, the map, the layers of each."""

import datetime
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.preprocessing import minmax_scale, normalize

from seglib import evaluate, failures, runs
from seglib.browser.layers import pack_layers, thumbnail
from seglib.data import Dataset, read_image, read_pair
from seglib.evaluate import Evaluation
from seglib.failures import Analysis, Threshold

_SIMILAR = 8  # images like the one on show
_CHANGES = {"fixed": "fixed", "regressed": "broken"}


@dataclass(frozen=True)
class Details:
    """An analysis as the browser and the report show it."""

    analysis: Analysis
    threshold: Threshold
    browse: str = "failures"  # or "all": which images are listed at first, and in the report
    before: Evaluation | None = None  # an earlier run on the same split

    folder = property(lambda self: self.analysis.folder)
    evaluation = property(lambda self: self.analysis.evaluation)
    classes = property(lambda self: self.evaluation.classes)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every image of the split, indexed by id, those that fail first, the worst first; None where unknown.

        The columns of `Analysis.failures` (of an image that passes what was measured), failed, worst_class, pixels
        ([truth x C + prediction, pixels, ...] of the pairs that occur), x and y (on the map), before (IoU of the
        earlier run), gain, change ("fixed", "broken" or "").
        """
        evaluation, images = self.evaluation, self.analysis.images.set_index("id", drop=False)
        failed = self.analysis.failures.set_index("id")
        more = failed[failed.columns.difference(images.columns)].reindex(images.index)
        table = images.join(more).assign(worst_class=evaluation.per_image["worst_class"].to_numpy())
        counts = evaluation.confusions.reshape(len(images), -1)
        occurring = zip(counts, map(np.flatnonzero, counts), strict=True)
        table["pixels"] = [np.stack([pairs, n[pairs]], 1).ravel().tolist() for n, pairs in occurring]
        if self.analysis.features is not None:
            table[["x", "y"]] = self._places[-len(images) :]
        if self.before is not None:
            cutoff = failures.cutoff(evaluation, self.threshold)
            found = evaluate.compare_runs(self.before, evaluation, cutoff).per_image.set_index("id")
            table[["before", "gain"]] = found[["miou_first", "difference"]]
            table["change"] = found["change"].map(_CHANGES).fillna("")
        table = table.rename_axis(None).sort_values(["failed", "miou", "id"], ascending=[False, True, True])
        return table.astype(object).where(table.notna(), None)

    @cached_property
    def class_ious(self) -> pd.DataFrame:
        """The IoU of each class in each image, by id; NaN where the class does not count."""
        return self.evaluation.per_image_class_iou.set_index("id")[list(self.classes.names)]

    @cached_property
    def _places(self) -> np.ndarray:
        """(N, 2) places on the map, 0-1: those of the training images, then those of the split."""
        features = np.concatenate([self.analysis.training.features, self.analysis.features])
        return minmax_scale(PCA(2, random_state=0).fit_transform(features)).round(4)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is listed besides the images: browse, before (name or ""), sequences and training (on the map)."""
        samples, training = self.evaluation.dataset.split(self.evaluation.split), []
        ordered = self.table.assign(frame=samples.set_index("id")["frame"]).sort_values(["frame", "id"])
        groups = ordered[ordered["group"] != ""].groupby("group")[["id", "miou"]]
        if self.analysis.features is not None:
            places = zip(self.analysis.training.samples["id"], self._places.tolist(), strict=False)
            training = [[name, *place] for name, place in places]
        before = self.before.run.name if self.before else ""
        sequences = {name: part.to_numpy().tolist() for name, part in groups}
        return {"browse": self.browse, "before": before, "sequences": sequences, "training": training}

    @cached_property
    def _unit(self) -> pd.DataFrame:
        """The features of each image of the split, of length 1, by id."""
        return pd.DataFrame(normalize(self.analysis.features), self.analysis.images["id"])

    def similar(self, sample: str) -> list[str]:
        """Name the images of the split whose features are most like those of one (cosine), the most similar first."""
        if self.analysis.features is None:
            return []
        return (self._unit @ self._unit.loc[sample]).drop(sample).nlargest(_SIMILAR).index.tolist()

    def _find(self, sample: str, training: bool) -> tuple[Dataset, pd.Series]:
        dataset = self.evaluation.training_dataset if training else self.evaluation.dataset
        return dataset, dataset.samples.set_index("id", drop=False).loc[sample]

    def pack(self, sample: str, training: bool, most: int, compact: bool = False) -> dict[str, Any]:
        """Pack the layers of an image as `pack_layers` does, with `problems`: what cannot be read, as text.

        The suspect region is one of them only where the label is stated to be wrong.
        """
        try:
            image, truth = read_pair(*self._find(sample, training))
        except (OSError, ValueError) as error:
            return {"layers": {}, "problems": [str(error)]}
        planes, problems = {"truth": truth}, []
        for name, folder in {} if training else self._folders(sample).items():
            path = folder / f"{sample}.png"
            if path.is_file() or name == "prediction":  # not every image has the others
                try:
                    planes[name] = evaluate.read_ids(path, truth.shape)
                except (OSError, ValueError) as error:
                    problems.append(str(error))
        return pack_layers(image, planes, most, compact) | {"problems": problems}

    def _folders(self, sample: str) -> dict[str, Path]:
        """Name the folders of the layers of an image of the split."""
        row, scored = self.table.loc[sample], {"prediction": self.evaluation, "before": self.before}
        folders = {n: e.run.evaluation(e.name) / "predictions" for n, e in scored.items() if e is not None}
        folders["confidence"] = self.folder / "confidences"
        if row["suspect"] or row["cause"] == "label error":
            folders["suspect"] = self.folder / "suspects"
        return folders

    def thumbnail(self, sample: str, training: bool) -> bytes:
        """Make a small JPEG of an image; empty where it cannot be read."""
        dataset, row = self._find(sample, training)
        try:
            return thumbnail(read_image(dataset.root / row["image"], form=dataset.form))
        except (OSError, ValueError):
            return b""  # `pack` says why when a person opens it

    def about(self) -> dict[str, str]:
        """Say what the report is about: name -> value."""
        evaluation = self.evaluation
        run, scores = evaluation.run, evaluation.scores
        params = runs.read_json(run.params)
        model = ", ".join(params[name] for name in ("architecture", "encoder") if params.get(name))
        told = {
            "run": run.name, "date": f"{datetime.date.today():%Y-%m-%d}, of this report",
            "model": model or "predictions of another tool",
            "dataset": evaluation.dataset.name, "split": f"{evaluation.split}, {len(evaluation.per_image):,} images",
            "mean IoU": f"{scores['mean_iou'] or np.nan:.3f}", "a failure is": failures.describe(evaluation, self.threshold),
        }  # fmt: skip
        return told | ({"compared with": self.before.run.name} if self.before else {})
