"""What 04 knows of the images of a split, as plain data for the front end: listed, described, and their layers."""

import datetime
import importlib
import io
import math
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import minmax_scale, normalize

from seglib import evaluate, failures, runs
from seglib.data import Dataset, read_image, read_pair
from seglib.evaluate import Evaluation
from seglib.failures import ERROR_KINDS, VERDICTS, Analysis, Threshold, VerdictBook

LARGEST = 2048 * 1024  # pixels of a picture that the browser gets at most
_SIMILAR = 8  # images like the one on show
_NEIGHBOURS = 15  # that UMAP keeps together; fewer images are laid out by PCA
_CHANGES = {"fixed": "fixed", "regressed": "broken"}
LOW_IOU = 0.5  # the IoU of a class below it counts as low
UNKNOWN = "unknown"
NO_VERDICT = "none yet"
VIEWS = "views.json"
# What the list can be sorted by: words, column, and whether the largest comes first.
SORTS = [["IoU, worst first", "miou", False], ["IoU, best first", "miou", True], ["id", "id", False]]
SORTS += [["cause", "cause", False], ["worst class", "worst_class", False]]
SORTS += [["most suspicious label", "label_score", True], ["largest gain by one fix", "best_fix_gain", True]]
SORTS += [["most confident", "confidence", True], ["least like training", "novelty", True]]
SORTS += [["last verdict first", "time", True], ["gained most", "gain", True], ["lost most", "gain", False]]
_LISTED = ["id", "miou", "group", "cause", "worst_class", "top_confusion", "best_fix", "suspect_kind"]
_LISTED += ["evidence", "label_score", "best_fix_gain", "confidence", "novelty", "failed", "pixels"]
_LISTED += ["x", "y", "before", "gain", "change"]
# What is said of an image: name -> columns, each with the form of its value.
_FACTS = {
    "mean IoU": {"miou": "{:.3f}", "severity": "{}"},
    "worst class": {"worst_class": "{}", "worst_class_iou": "IoU {:.3f}"},
    "top confusion": {"top_confusion": "{}", "top_confusion_share": "{:.1%} of the pixels"},
    "best fix": {"best_fix": "{}", "best_fix_gain": "{:+.3f} mean IoU"},
    "label": {"label_score": "probability {:.2f}", "suspect_kind": "{}", "suspect_given": "{} given"}
    | {"suspect_suggested": "{} suggested"},
    "confidence": {"confidence": "{:.2f}, mean over the image"},
    "degradation": {"degradation": "{}", "degradation_z": "{:.1f} robust sd from training"},
    "novelty": {"novelty": "{:.2f} (1: like no training image)"},
    "sequence": {"group": "{}"},
}
_EMPTY = {"best_fix": "none", "degradation": "none found"}  # what an empty cell says


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
            table[["x", "y"]] = self.places[-len(images) :]
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
    def places(self) -> np.ndarray:
        """(N, 2) places on the map, 0-1: those of the training images, then those of the split."""
        features = np.concatenate([self.analysis.training.features, self.analysis.features])
        flat = PCA(2, random_state=0)
        if len(features) > _NEIGHBOURS:
            with suppress(ImportError):  # the extra `map`
                flat = importlib.import_module("umap").UMAP(_NEIGHBOURS, random_state=0, n_jobs=1)
        return minmax_scale(flat.fit_transform(features)).round(4)

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
            "run": run.name, "date": f"{datetime.date.today():%Y-%m-%d}",
            "model": model or "predictions of another tool",
            "dataset": evaluation.dataset.name, "split": f"{evaluation.split}, {len(evaluation.per_image):,} images",
            "mean IoU": f"{scores['mean_iou'] or np.nan:.3f}", "a failure is": failures.describe(evaluation, self.threshold),
        }  # fmt: skip
        return told | ({"compared with": self.before.run.name} if self.before else {})


def listing(details: Details, book: VerdictBook, most: int | None = None) -> dict[str, Any]:
    """List the images, at most so many, as the front end shows, filters and sorts them.

    Returns:
        what is the same for all images, such as the classes, and rows: one mapping an image with columns of
        `Details.table`, the verdict, and `low`, the ids of its classes with a low IoU.
    """
    evaluation, analysis, table = details.evaluation, details.analysis, details.table
    frames, training = evaluation.dataset.split(evaluation.split).set_index("id")["frame"], []
    ordered = table.assign(frame=frames).sort_values(["frame", "id"])
    groups = ordered[ordered["group"] != ""].groupby("group")[["id", "miou"]]
    sequences = {name: part.to_numpy().tolist() for name, part in groups}
    if analysis.features is not None:  # where the training images lie on the map
        places = zip(analysis.training.samples["id"], details.places.tolist(), strict=False)
        training = [[name, *place] for name, place in places]
    try:  # filters that a person named and saved
        views = runs.read_json(details.folder / VIEWS)
    except (OSError, ValueError):
        views = {}
    table = table.head(most)[[name for name in _LISTED if name in table]]
    low = details.class_ious.loc[table["id"]].to_numpy(float) < LOW_IOU
    rows = table.to_dict("records")
    for row, under in zip(rows, low, strict=True):
        row |= book.get(row["id"])._asdict() | {"low": np.flatnonzero(under).tolist()}
    known = {"time", *table.columns[table.notna().any()]}
    before = details.before.run.name if details.before else ""
    return {
        "names": list(details.classes.names), "verdicts": list(VERDICTS), "none": NO_VERDICT,
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in details.classes.colors],
        "rules": ["is the worst class", f"has IoU below {LOW_IOU:g}"],
        "sorts": [sort for sort in SORTS if sort[1] in known], "problem": book.problem, "views": views,
        "browse": details.browse, "before": before, "sequences": sequences, "training": training, "rows": rows,
    }  # fmt: skip


def describe(row: Mapping, ious: Iterable[float] = ()) -> dict[str, Any]:
    """Describe an image, a row of `Details.table`, as plain text and figures; `UNKNOWN` where it does not say.

    Returns:
        cause, sureness, evidence and suggestion (text), lost [(error kind, IoU points)], rows [(name, text)], ious
        [(class id, IoU)] of the classes that count in the image, the lowest first, and nearest training images.
    """

    def told(name: str, form: str = "{}") -> str:
        value = row.get(name)
        value = _EMPTY.get(name) if value == "" else value
        return form.format(value) if isinstance(value, str) or _known(value) else ""

    rows, failed = [], row.get("failed", True)
    for name, columns in _FACTS.items():
        said = ", ".join(filter(None, (told(column, form) for column, form in columns.items())))
        rows += [(name, said or UNKNOWN)] if said or (failed and name != "sequence") else []
    lost = [(kind, row.get(f"lost_{kind}")) for kind in ERROR_KINDS]
    scored = [(c, iou) for c, iou in enumerate(ious) if _known(iou)]
    return {
        "cause": told("cause") or ("cause unknown" if failed else "no failure"), "evidence": told("evidence"),
        "suggestion": told("suggestion"), "sureness": told("cause_strength", "strength of the evidence {:.2f}"),
        "lost": lost if all(_known(points) for _, points in lost) else [],
        "rows": rows, "ious": sorted(scored, key=lambda pair: pair[1]), "nearest": row["nearest"],
    }  # fmt: skip


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def pack_layers(
    image: np.ndarray, planes: Mapping[str, np.ndarray], most: int, compact: bool = False
) -> dict[str, Any]:
    """Pack an image (H, W, 3) uint8 and its planes, name -> (H, W) uint8, as the front end takes them.

    Planes are one deflated byte a pixel: no colour management comes between a pixel and its value. A picture of
    more than `most` pixels is reduced by a whole number, `step`: averaged ids would be other classes. `compact`, for
    a file of many failures, gives confidences in steps of 1/15.
    """
    step = max(1, math.ceil(math.sqrt(image.shape[0] * image.shape[1] / most)))
    picture = Image.fromarray(image).reduce(step)
    layers = {"image": _jpeg(picture, 80, -1) if compact else _jpeg(picture, 95)}
    for name, plane in planes.items():
        coarse = plane[::step, ::step]
        if compact and name == "confidence":
            coarse = (coarse >> 4) * 17
        layers[name] = zlib.compress(np.ascontiguousarray(coarse), 6 if compact else 1)
    return {"width": picture.width, "height": picture.height, "step": step, "layers": layers}


def thumbnail(image: np.ndarray, width: int = 156) -> bytes:
    """Make a small JPEG of an image (H, W, 3) uint8."""
    picture = Image.fromarray(image)
    picture.thumbnail((width, 3 * width // 4), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _jpeg(picture, 80)


def _jpeg(picture: Image.Image, quality: int, subsampling: int = 0) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, subsampling=subsampling)
    return stream.getvalue()
