"""Which masks are wrong: a probability that is calibrated on the split itself, by injecting faults into its masks.

Every mask is measured as it is, and again with an injected fault of each kind (`evidence`). A logistic
regression learns from images of other sequences what a wrong mask looks like for this model on this data, so
what the model always confuses counts for little, and a weak model names nothing. The faults also tell how much
of each kind would be found. `LabelCheck.judge` decides which masks are named (column `suspect`): `_name` chooses by probability, then
those are left out where the model is unreliable.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import csr_array, vstack
from scipy.special import logit
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from seglib.checks import shift_words
from seglib.data import IGNORE, LABEL_FAULTS, Dataset, LabelFaults
from seglib.failures import evidence

KIND_NAMES = {"swapped_classes": "swapped class", "missing_object": "missing object"}
KIND_NAMES |= {"shifted_mask": "shifted mask", "wrong_mask": "mask of another image"}
KIND_NAMES |= {"crude_outline": "crude outlines", "swollen_outline": "swollen outlines"}
_NUMBER_OF = {kind: k for k, kind in enumerate(("sound", *LABEL_FAULTS))}
SUSPECT = ["label_score", "suspect", "suspect_kind", "suspect_given", "suspect_suggested", "suspect_detail"]
SUSPECT += ["suspect_box", "pixels", "seed", "by_given"]
FEWEST = 30  # images, and faults, without which nothing is calibrated, and nothing named
_FOLDS = 5
_TREES = 100
_INJECTED = 200  # images that get faults
# Share of wrong masks that is expected: in the first two passes much, for those that are there are learned from as if they
# were sound; then what the pass before found, within limits. The first was chosen on the demo's training masks with faults in
# 40 %, passes and limits on two drives of CamVid.
_FIRST, _PASSES, _SHARES = 0.4, 5, (0.05, 0.5)
SURE = 0.5  # probability from which a mask may be named
_FALSE = 0.2  # expected share of sound masks among the named ones
_LOCAL = ("swapped_classes", "missing_object")  # faults of one region
_TIMES = {"swapped_classes": 2, "missing_object": 3}  # faults an image, else one: many ways to be wrong
_FOUND = 0.05  # recall of a class below which the model is no witness against it
_HIT = 0.5  # share of a region in the injected change from which it counts as found
_NONE = -12.0  # log odds where there is no region
_REGION = ["size", "contradicted", "mass", "own", "of_mask", "of_pred", "color", "edge", "edge_own"]
_REGION += ["edge_mask", "rate", "images", "recall", "given_recall", "by_given", "given", "suggested"]
_REGION += ["near_labelled", "near_confused"]
_RECURRING = ["rate", "images", "recall", "given_recall"]
_THUMBNAIL = 32  # columns and rows in which a mask is compared with all predictions


class Findings(NamedTuple):
    """What is known of the masks of a split.

    images: a row an image with `SUSPECT`: label_score, the probability that the mask is wrong (NaN where
    nothing could be calibrated); suspect, whether it is named; the words for it; label_quality, how far the model
    agrees with the pixels that it agrees with least, 0-1 (NaN without probabilities): a rank, no probability.
    kinds: of each kind of injected fault, and of all: injected, found (share that reaches `SURE`), auroc; of "sound" masks
    the share named. Empty where nothing could be calibrated; `told` says so.
    """

    images: pd.DataFrame
    kinds: pd.DataFrame
    told: str


class LabelCheck:
    """Collects the evidence of a split, image by image, and judges it once all are seen."""

    def __init__(self, dataset: Dataset, split: str, seed: int = 0) -> None:
        self.names, self.samples = dataset.classes.names, dataset.split(split).reset_index(drop=True)
        self.dataset, self.rng = dataset, np.random.default_rng(seed)
        count = len(self.samples)
        self.injected = set(np.linspace(0, count - 1, min(count, _INJECTED)).round().astype(int).tolist())
        self.faults: dict[int, LabelFaults] = {}  # by step
        self.rows: list[dict] = []
        self.confusions: list[csr_array] = []  # (1, C * C), most of them empty
        self.regions: list[pd.DataFrame] = []
        self.sizes: dict[int, tuple[int, int, int]] = {}  # step, height, width
        self.small: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # mask and prediction as thumbnails

    def look(
        self, position: int, image: np.ndarray, truth: np.ndarray, probabilities: np.ndarray, pred: np.ndarray
    ) -> None:
        """Measure one image (H, W, 3) uint8 with its mask and prediction (H, W), and faulty copies of the mask."""
        step, (height, width) = -(-max(truth.shape) // evidence.LONG), truth.shape
        self.sizes[position] = step, height, width
        part = np.s_[..., step // 2 :: step, step // 2 :: step]
        truth, pred, probabilities = truth[part], pred[part], probabilities[part]
        grid = [np.linspace(0, n - 1, _THUMBNAIL).round().astype(int) for n in truth.shape]
        self.small[position] = truth[np.ix_(*grid)], pred[np.ix_(*grid)]
        small = Image.fromarray(image).resize(truth.shape[::-1], Image.Resampling.BILINEAR)
        seen = evidence.view(np.asarray(small), probabilities, pred)
        self._add(position, "sound", seen, truth, truth)
        if position not in self.injected or len(self.samples) < FEWEST:
            return
        if step not in self.faults:
            self.faults[step] = LabelFaults(self.dataset, self.samples, self.rng, step)
        for kind in np.repeat(LABEL_FAULTS, [_TIMES.get(kind, 1) for kind in LABEL_FAULTS]):
            if fault := self.faults[step].make(kind, self.samples.iloc[position]):
                self._add(position, kind, seen, truth, fault.mask)

    def _add(
        self, position: int, kind: str, seen: evidence.View, truth: np.ndarray, mask: np.ndarray
    ) -> None:
        found = evidence.measure(seen, mask, (truth != mask) & (kind in _LOCAL))
        self.regions.append(found.regions.assign(row=len(self.rows), position=position))
        dx, dy = found.shift
        self.rows.append({"position": position, "kind": kind, "dx": dx, "dy": dy} | found.numbers)
        self.confusions.append(csr_array(found.confusion.reshape(1, -1)))

    def judge(self, lost: np.ndarray) -> Findings:
        """Compute the probability of every mask to be wrong, and name those that are.

        A mask is not named where the model is unreliable: in the images of (N,) bool `lost` (unsure, degraded), and
        where the mask says a class that the model hardly ever finds in other images.
        """
        count = len(self.samples)
        images = pd.DataFrame(dict.fromkeys(SUSPECT, ""), range(count))
        images = images.assign(label_score=np.nan, suspect=False, pixels=0, seed=-1, by_given=True)
        quality = {row["position"]: row["softmin"] for row in self.rows if row["kind"] == "sound"}
        images["label_quality"] = pd.Series(quality, dtype=float).reindex(images.index)
        faults = sum(row["kind"] != "sound" for row in self.rows)
        if min(count, faults) < FEWEST:
            told = f"{count} images and {faults} faults that fit into their masks are too few to learn from what a"
            kinds = pd.DataFrame(columns=["kind", "injected", "found", "auroc"])
            return Findings(images, kinds, f"{told} wrong mask looks like: no mask is named.")
        rows, regions = pd.DataFrame(self.rows), pd.concat(self.regions, ignore_index=True)
        rows, regions = _recurrence(rows, self.confusions, regions)
        regions[["near_labelled", "near_confused"]] = self._near(regions)
        evident = regions
        if len(self.names) == 2:  # all confuse these two: that it recurs tells nothing
            rows, evident = rows.assign(unusual=0.0), regions.assign(**dict.fromkeys(_RECURRING, 0.0))
        sound = np.flatnonzero(rows["kind"] == "sound")
        parts, wrong = _parts(self.samples), np.zeros(len(rows))
        with threadpool_limits(1):  # faster for so little data, much so on a busy machine
            for k in range(_PASSES):
                prior = _FIRST if k < 2 else float(np.clip(wrong[sound].mean(), *_SHARES))
                as_sound = (1 - pd.Series(wrong)).where(rows["kind"] == "sound", 1.0)
                wrong, kinds, best = _cross_fitted(rows, evident, parts, as_sound, prior)
        images.loc[rows["position"][sound], "label_score"] = wrong[sound]
        for row in sound[_name(wrong[sound])]:
            position, kind = rows["position"][row], LABEL_FAULTS[kinds[row]]
            region = regions.loc[best[row]] if kind in _LOCAL and row in best else None
            if not lost[position] and (region is None or region["given_recall"] >= _FOUND):
                images.loc[position, SUSPECT[1:]] = self._words(rows.loc[row], kind, region)
        return Findings(images, _reliability(rows, wrong), "")

    def _near(self, regions: pd.DataFrame) -> list[tuple[float, float]]:
        """Look at the place of each region in the frames before and after: (0, 0) where there are none.

        The share of it that their masks label as is suggested here, which speaks for an object that is missing here,
        and the share that is confused as here, which speaks for an error of the model; of two frames the larger.
        """
        order = self.samples.sort_values(["group", "frame"], kind="stable")
        place, groups, found = np.argsort(order.index), order["group"].to_numpy(str), []
        dated = (order["frame"].notna() & (order["group"] != "")).to_numpy()
        facts = regions[["position", "box", "given", "suggested"]].itertuples(index=False)
        for position, box, given, suggested in facts:
            at, (step, *size) = place[position], self.sizes[position]
            unit = step * _THUMBNAIL / np.array([*size, *size])
            y0, x0 = np.maximum(0, np.array(box[:2]) * unit[:2] - 1).astype(int)
            y1, x1 = np.ceil(np.array(box[2:]) * unit[2:] + 1).astype(int)
            told = [(0.0, 0.0)]
            for other in (at - 1, at + 1):
                if 0 <= other < len(order) and dated[at] and dated[other] and groups[at] == groups[other]:
                    mask, pred = (ids[y0:y1, x0:x1] for ids in self.small[order.index[other]])
                    same = (mask == given) & (pred == suggested)
                    told.append(((mask == suggested).mean(), same.mean()))
            found.append(tuple(map(max, zip(*told, strict=True))))
        return found

    def _words(self, row: pd.Series, kind: str, region: pd.Series | None) -> list:
        """Say what is wrong with a mask that is named: the cells of `SUSPECT` after the score."""
        position = int(row["position"])
        step, height, width = self.sizes[position]
        if region is None:
            detail = self._whose(position) if kind == "wrong_mask" else ""
            if kind == "shifted_mask":
                detail = f"fits when moved {shift_words(row['dx'] * step, row['dy'] * step)}"
            return [True, KIND_NAMES[kind], "", "", detail, "", 0, -1, True]
        # an object that the mask has under another name is not missing
        kind = "missing_object" if region["of_mask"] < 0.5 else "swapped_classes"
        y0, x0, y1, x1 = (step * side for side in region["box"])
        seed = (step * region["y"] + step // 2) * width + step * region["x"] + step // 2
        words = [KIND_NAMES[kind], self.names[region["given"]], self.names[region["suggested"]], ""]
        box = f"{x0} {y0} {min(x1, width)} {min(y1, height)}"
        return [True, *words, box, region["pixels"] * step**2, seed, region["by_given"]]

    def _whose(self, position: int) -> str:
        """Name the image of the split whose prediction a foreign mask fits much better than its own image's."""
        mask = self.small[position][0]
        fits = {k: ((mask == pred) | (mask == IGNORE)).mean() for k, (_, pred) in self.small.items()}
        best = max(fits, key=fits.__getitem__)
        if fits[best] < 0.5 * (1 + fits[position]):  # half of the disagreement must go
            return ""
        return f"it fits the image {self.samples['id'][best]!r}"


def _recurrence(
    rows: pd.DataFrame, confusions: list[csr_array], regions: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add how usual the confusions of each mask are in the other images of the split, as they are.

    A confusion that recurs is the model's; a wrong label stands alone. Rows get `unusual`, the Kullback-Leibler
    divergence of their confusions from those of the others; regions get the rate of their confusion, the share
    of the images with their given class that have it, and the recall of the two classes.
    """
    counts, sound = vstack(confusions, format="csr"), (rows["kind"] == "sound").to_numpy()  # (R, C * C)
    classes = math.isqrt(counts.shape[1])
    of_class = csr_array(np.kron(np.eye(classes), np.ones((classes, 1))))  # sums over what is predicted
    own, have, image = counts[sound], (counts[sound] @ of_class).toarray(), pd.Index(rows["position"][sound])
    often = own.copy()
    images, pairs = own.nonzero()
    often.data = (own.data > 0.1 * have[images, pairs // classes]).astype(float)
    total, times = own.sum(0), often.sum(0)

    def rate(images: np.ndarray, given: np.ndarray, suggested: np.ndarray) -> np.ndarray:
        """Compute the share of a class that the other images confuse so; none has it: a tenth, over all classes."""
        pairs = given * classes + suggested
        others = total[pairs] - own[images, pairs] + 20 * (0.9 * (given == suggested) + 0.1 / classes)
        return others / (have.sum(0)[given] - have[images, given] + 20)

    row, pair = counts.nonzero()
    share = counts.data / (counts @ of_class).toarray()[row, pair // classes]
    own_image = image.get_indexer(rows["position"])[row]
    unusual = counts.data * np.log(share / rate(own_image, pair // classes, pair % classes))
    unusual = np.bincount(row, unusual, len(rows)) / np.maximum(counts.sum(1), 1)
    given, suggested = (regions[name].to_numpy(int) for name in ("given", "suggested"))
    images = image.get_indexer(regions["position"])
    pairs, shown = given * classes + suggested, have > 0
    spread = times[pairs] - often[images, pairs] + 0.5
    spread = spread / (shown.sum(0)[given] - shown[images, given] + 1)
    facts = {"rate": np.log(rate(images, given, suggested) + 1e-4), "images": np.log(spread)}
    facts |= {"recall": rate(images, suggested, suggested), "given_recall": rate(images, given, given)}
    return rows.assign(unusual=np.log(np.maximum(unusual, 0) + 1e-3)), regions.assign(**facts)


def _cross_fitted(
    rows: pd.DataFrame, regions: pd.DataFrame, parts: np.ndarray, sound: pd.Series, prior: float
) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """Learn from the images of other parts which regions lie in a wrong label and which masks are wrong.

    `sound` tells of each row how much it counts as a sound mask. Returns (R,) the probability of each row to be
    wrong, (R,) its most probable kind as index of `LABEL_FAULTS`, and row -> index of its most suspicious region.
    """
    position, kind = rows["position"].to_numpy(), rows["kind"].map(_NUMBER_OF).to_numpy()
    folds = np.zeros(len(rows), int)
    for k, (_, test) in enumerate(GroupKFold(_FOLDS).split(position, groups=parts[position])):
        folds[test] = k
    odds = _region_odds(rows, regions, folds, sound)
    best = odds.groupby(regions["row"]).idxmax()
    numbers = rows.drop(columns=["position", "kind", "dx", "dy"])
    numbers["region"] = odds.groupby(regions["row"]).max()
    numbers["region_2"] = odds.drop(best).groupby(regions["row"]).max()  # of the second worst
    numbers = numbers.fillna({"region": _NONE, "region_2": _NONE})
    counts = np.bincount(kind, minlength=len(_NUMBER_OF))
    of_fault = prior / (1 - prior) * sound[kind == 0].sum() / np.count_nonzero(counts[1:])  # weight of a kind
    weights = np.where(kind == 0, sound, of_fault / counts[kind])
    chances = np.zeros((len(rows), len(_NUMBER_OF)))
    for k in range(_FOLDS):
        learn, model = folds != k, make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(numbers[learn], kind[learn], logisticregression__sample_weight=weights[learn])
        chances[np.ix_(folds == k, model.classes_)] = model.predict_proba(numbers[folds == k])
    return 1 - chances[:, 0], chances[:, 1:].argmax(1), best.to_dict()


def _region_odds(rows: pd.DataFrame, regions: pd.DataFrame, folds: np.ndarray, sound: pd.Series) -> pd.Series:
    """Compute the log odds of each region to lie in a wrong label, by trees that learned from other folds."""
    row, hit = regions["row"].to_numpy(), regions["hit"].to_numpy() >= _HIT
    # of a faulty mask only the regions in the fault are known to be wrong, and no other is known to be sound
    of_use, features = hit | (rows["kind"].to_numpy()[row] == "sound"), regions[_REGION].astype(float)
    weights, odds = np.where(hit, 1.0, sound.to_numpy()[row]), pd.Series(_NONE, regions.index)
    for k in range(_FOLDS):
        learn, test = of_use & (folds[row] != k), folds[row] == k
        if hit[learn].any() and test.any():
            trees = ExtraTreesClassifier(_TREES, min_samples_leaf=3, random_state=0)
            trees.fit(features[learn], hit[learn], sample_weight=weights[learn])
            odds[test] = logit(trees.predict_proba(features[test])[:, 1].clip(1e-5, 1 - 1e-5))
    return odds


def _parts(samples: pd.DataFrame) -> np.ndarray:
    """Label what is learned from together, (N,): whole sequences, or a tenth of the neighbouring frames."""
    groups, named = samples["group"].to_numpy(str), samples["group"] != ""
    if not named.any():
        return np.arange(len(samples))
    if samples["group"].nunique() >= _FOLDS:
        return np.where(named, np.char.add("/", groups), np.arange(len(samples)).astype(str))
    order = samples.sort_values(["group", "frame"], kind="stable").index
    return np.argsort(order) * 2 * _FOLDS // len(samples)


def _name(wrong: np.ndarray) -> np.ndarray:
    """Choose the masks that are named: (N,) probabilities -> (K,) places.

    As many of the most probable ones, each at least `SURE`, as keep the expected share of sound masks among
    them at `_FALSE` (Mueller, Parmigiani and Rice, FDR and Bayesian multiple comparisons rules, 2006).
    """
    order = np.argsort(-wrong, kind="stable")
    sound = np.cumsum(1 - wrong[order]) / np.arange(1, len(order) + 1)
    return order[(wrong[order] >= SURE) & (sound <= _FALSE)]


def _reliability(rows: pd.DataFrame, wrong: np.ndarray) -> pd.DataFrame:
    """Tell how well the faults that were injected are found: `Findings.kinds`."""
    sound, found, table = (rows["kind"] == "sound").to_numpy(), wrong >= SURE, []
    for kind in (*LABEL_FAULTS, "all"):
        own = ~sound if kind == "all" else (rows["kind"] == kind).to_numpy()
        if own.any():
            auroc = roc_auc_score(own[own | sound], wrong[own | sound])
            table.append((KIND_NAMES.get(kind, kind), own.sum(), found[own].mean(), auroc))
    table.append(("sound", sound.sum(), found[sound].mean(), np.nan))
    return pd.DataFrame(table, columns=["kind", "injected", "found", "auroc"])


def named(suspects: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of suspects.csv, as it is or read as text, that name a wrong mask, most probable first."""
    kept = suspects[suspects["suspect"].astype(str) == "True"].astype({"label_score": float})
    return kept.sort_values("label_score", ascending=False, kind="stable")
