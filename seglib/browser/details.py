"""What 04 knows beyond the failures folder: every image of the split, an earlier run, the embedding."""

import datetime
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from seglib import evaluate, failures, runs
from seglib.browser.layers import pack_arrays, shrink
from seglib.data import Dataset, DatasetError, read_image, read_pair
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
        passing = passing.astype(failed.dtypes)
        table = passing if failed.empty else pd.concat([failed, passing], ignore_index=True)
        return table.fillna(dict.fromkeys(table.select_dtypes(exclude="number"), ""))

    @cached_property
    def columns(self) -> pd.DataFrame:
        """What is listed of every image besides the table, by id.

        failed, miou, pixels ([truth x C + prediction, pixels, ...] of the pairs that occur), x and y (on the map),
        before (IoU of the earlier run), gain, change ("fixed", "broken" or "").
        """
        evaluation, images = self.analysis.evaluation, self.analysis.images
        table = images.set_index("id")[["failed", "miou"]]
        occurring = ((counts, np.flatnonzero(counts)) for counts in map(np.ravel, evaluation.confusions))
        table["pixels"] = [
            np.stack([pairs, counts[pairs]], 1).ravel().tolist() for counts, pairs in occurring
        ]
        if self.analysis.features is not None:
            table[["x", "y"]] = self._places[-len(images) :]
        if self.before is not None:
            cutoff = failures.cutoff(evaluation, self.threshold)
            found = evaluate.compare_runs(self.before, evaluation, cutoff).per_image.set_index("id")
            table[["before", "gain"]] = found[["miou_first", "difference"]]
            table["change"] = found["change"].map(_CHANGES).fillna("")
        return table.astype(object).where(table.notna(), None)

    @cached_property
    def _places(self) -> np.ndarray:
        """(N, 2) places on the map: those of the training images, then those of the split."""
        features = np.concatenate([self.analysis.training.features, self.analysis.features])
        return PCA(2, random_state=0).fit_transform(features).round(4)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is listed besides the images: browse, before (name or ""), sequences and training (on the map)."""
        evaluation = self.analysis.evaluation
        known = evaluation.dataset.split(evaluation.split)[["id", "group", "frame"]]
        known = known.assign(miou=self.columns["miou"].reindex(known["id"]).to_numpy())
        named = known[known["group"] != ""].sort_values(["frame", "id"]).groupby("group")[["id", "miou"]]
        training = []
        if self.analysis.features is not None:
            places = zip(self.analysis.training.samples["id"], self._places.tolist(), strict=False)
            training = [[name, *place] for name, place in places]
        before = self.before.run.name if self.before else ""
        sequences = {name: part.to_numpy().tolist() for name, part in named}
        return {"browse": self.browse, "before": before, "sequences": sequences, "training": training}

    def similar(self, sample: str) -> list[str]:
        """Name the images of the split whose features are most like those of one (cosine), the most similar first."""
        if self.analysis.features is None or sample not in self.columns.index:
            return []
        features = pd.DataFrame(normalize(self.analysis.features), self.columns.index)
        return (features @ features.loc[sample]).drop(sample).nlargest(_SIMILAR).index.tolist()

    def earlier(self, sample: str) -> dict[str, np.ndarray]:
        """Read the earlier run's prediction of an image (H, W) as a layer; none where there is none."""
        if self.before is None:
            return {}
        folder = self.before.run.evaluation(self.before.name) / "predictions"
        try:
            return {"before": evaluate.read_ids(folder / f"{sample}.png")}
        except (OSError, DatasetError):
            return {}

    def pack(self, sample: str, most: int, compact: bool = False) -> dict[str, Any]:
        """Pack the layers of an image that is not in the failures folder, as `pack_layers` does."""
        try:
            image, truth = read_pair(*self._find(sample))
            planes = {"truth": truth}
            if sample in self.columns.index:
                prediction = evaluate.saved_prediction(self.analysis.evaluation, sample, truth.shape)
                planes |= {"prediction": prediction} | self.earlier(sample)
        except (OSError, ValueError) as error:
            return {"layers": {}, "problems": [str(error)]}
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
        model = ", ".join(params[name] for name in ("architecture", "encoder") if params.get(name))
        told = {
            "run": run.name, "date": f"{datetime.date.today():%Y-%m-%d}, of this report",
            "model": model or "predictions of another tool",
            "dataset": evaluation.dataset.name, "split": f"{evaluation.split}, {len(evaluation.per_image):,} images",
            "mean IoU": f"{scores['mean_iou'] or np.nan:.3f}", "a failure is": failures.describe(evaluation, self.threshold),
        }  # fmt: skip
        return told | ({"compared with": self.before.run.name} if self.before else {})
