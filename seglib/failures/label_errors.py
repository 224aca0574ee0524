"""Suspected label errors: where the model disagrees with a mask surely, deeply, and otherwise than it usually errs.

A model disagrees with every mask somewhere: along outlines, and where it always confuses the same two classes. Such places say
nothing against the mask. `look` measures, image by image, the regions of disagreement with their boundary band taken off;
`judge` then asks of each how often the model errs as badly by the same confusion in the other images of the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from seglib.data import IGNORE, label_regions
from seglib.metrics import boundary_width

# Score from which a label is called wrong: on planted faults of the demo and of CamVid, few sound masks reach it.
SURE = 0.87
KINDS = ("swapped class", "missing object", "shifted mask", "mask of another image")

BAND = 0.005  # of the diagonal: this far into a disagreement it may be a matter of the outline; Cityscapes' boundary width
REGIONS = 16  # regions kept an image; the rest are smaller
_FLOOR = 1e-5  # probabilities below it count as equally impossible
_NOISE = 1e-3  # evidence a scored pixel that any image may hold: a few pixels surely wrong
# How much it counts that another image has the same confusion; the same given class, the same suggested class; any confusion.
_KINSHIP = (1.0, 0.1, 0.1, 0.3)

_COARSE = 64  # longer side of the grid on which shifts are tried
_REACH = 0.15  # of the longer side: the farthest shift that is tried
_MENDED = 0.5  # share of the disagreement that moving the mask must take away for it to be called shifted
_FOREIGN = 3.0  # times the usual disagreement, beyond what the worst class explains: nothing fits, as of another image
_OBJECT = 0.05  # of the scored pixels: what is larger was not left out, it has another name
_WHOLE, _PART = (
    0.6,
    0.4,
)  # shares of the given regions that disagree: above, a whole was swapped; below, a part is missing


@dataclass(frozen=True)
class Look:
    """What one image tells; small, whatever the image's size. R regions of disagreement, largest evidence first.

    Args:
        pixels: scored pixels.
        agreement: share of them on which prediction and mask agree; NaN without any.
        doubt: mean of 1 - top-1 probability over them. It does not depend on the mask.
        given, suggested: (R,) class ids: what the mask says, what the model says.
        mass: (R,) float64, evidence: sum over the region's inner pixels of log(probability of the prediction / of the mask)^2.
        size: (R,) pixels, the band along the outline included.
        whole: (R,) share of the mask's regions they lie in that the model rejects: near 1, outlines agree and the class does not.
        box: (R, 4) x0, y0, x1, y1, ends exclusive.
        seed: (R,) flat index of a pixel of the region; `suspect_region` grows it again.
        by_given: (R,) bool: all that is given as one class, whatever is suggested, or the other way round.
        shift: dx, dy in pixels by which the mask agrees best with the prediction, and the share of the disagreement that goes.
    """

    pixels: int
    agreement: float
    doubt: float
    given: np.ndarray
    suggested: np.ndarray
    mass: np.ndarray
    size: np.ndarray
    whole: np.ndarray
    box: np.ndarray
    seed: np.ndarray
    by_given: np.ndarray
    shift: tuple[int, int, float]


@dataclass(frozen=True)
class Suspicion:
    """How suspicious the mask of one image is, and where.

    Args:
        score: in [0, 1]: 1 - the share of the other images in which the model errs as badly by a like confusion, less the part
            that moving the mask would mend.
        kind: one of `KINDS`; "" where the evidence does not tell, or there is hardly any suspicion.
        given, suggested: class ids of the most suspicious region; -1 without one.
        box: x0, y0, x1, y1 of it, ends exclusive; None without one.
        pixels: of the region.
        seed, by_given: for `suspect_region`.
    """

    score: float
    kind: str = ""
    given: int = -1
    suggested: int = -1
    box: tuple[int, int, int, int] | None = None
    pixels: int = 0
    seed: int = -1
    by_given: bool = True


def look(
    truth: np.ndarray, probabilities: np.ndarray, pred: np.ndarray | None = None, band: float = BAND
) -> Look:
    """Measure the disagreement of one image.

    Args:
        truth: (H, W) uint8 class ids; 255 is not scored.
        probabilities: (C, H, W) floating point, summing to 1 over classes.
        pred: (H, W) uint8 class ids, where the prediction is kept already; that of the highest probability by default.
        band: width of the boundary band, as a share of the diagonal.

    Raises:
        ValueError: shapes that do not fit, or an id outside the classes.
    """
    classes = len(probabilities)
    if probabilities.shape[1:] != truth.shape:
        raise ValueError(
            f"truth is {truth.shape}, probabilities {probabilities.shape}; expected (C, H, W) of its size."
        )
    scored = truth != IGNORE
    if scored.any() and truth[scored].max() >= classes:
        raise ValueError(
            f"truth holds id {truth[scored].max()}; there are probabilities of {classes} classes."
        )
    pixels = int(np.count_nonzero(scored))
    pred = probabilities.argmax(0).astype(np.uint8) if pred is None else pred
    top = np.take_along_axis(probabilities, pred[None].astype(np.intp), 0)[0].astype(np.float32)
    ids = np.where(scored, truth, 0)
    apart = scored & (pred != truth)
    of_mask = np.take_along_axis(probabilities, ids[None].astype(np.intp), 0)[0].astype(np.float32)
    # The band is taken off the disagreement itself: slivers along any outline vanish, islands keep their inside.
    inner = ndimage.minimum_filter(apart, 2 * boundary_width(truth.shape, band) + 1)
    # Squared: the model's own errors leave the true class some probability, a wrong label is out of the question.
    weight = np.where(inner, np.log(np.maximum(top, _FLOOR) / np.maximum(of_mask, _FLOOR)) ** 2, 0)
    found = [_regions(truth, pred, apart, weight, by_given, classes) for by_given in (True, False)]
    parts = [np.concatenate(part) for part in zip(*found, strict=True)]
    order = np.argsort(-parts[2], kind="stable")[:REGIONS]
    given, suggested, mass, size, whole, box, seed, by_given = (part[order] for part in parts)
    agreement = 1 - np.count_nonzero(apart) / pixels if pixels else np.nan
    doubt = float(1 - top[scored].mean(dtype=np.float64)) if pixels else np.nan
    shift = _best_shift(truth, pred)
    return Look(pixels, agreement, doubt, given, suggested, mass, size, whole, box, seed, by_given, shift)


def _regions(
    truth: np.ndarray, pred: np.ndarray, apart: np.ndarray, weight: np.ndarray, by_given: bool, classes: int
) -> tuple[np.ndarray, ...]:
    """The connected disagreements of one given class (or one suggested class): the fields of `Look` from `given` on."""
    one, other = (truth, pred) if by_given else (pred, truth)
    labels, value, size = label_regions(np.where(apart, one, IGNORE).astype(np.uint8))
    flat, w = labels.ravel(), weight.ravel()
    mass = np.bincount(flat, w, minlength=len(value))
    chosen = np.flatnonzero((value != IGNORE) & (mass > 0))
    chosen = chosen[np.argsort(-mass[chosen], kind="stable")][:REGIONS]
    place = np.full(len(value), -1)
    place[chosen] = np.arange(len(chosen))
    inside = np.flatnonzero(place[flat] >= 0)
    where = place[flat[inside]]
    # The other class of a region is the one that carries most of its evidence.
    votes = np.bincount(where * classes + other.ravel()[inside], w[inside], minlength=len(chosen) * classes)
    second = votes.reshape(len(chosen), classes).argmax(1)
    first = value[chosen].astype(np.intp)
    given, suggested = (first, second) if by_given else (second, first)
    boxes = np.zeros((len(chosen), 4), np.int64)
    slices = ndimage.find_objects(np.where(place[labels] >= 0, place[labels] + 1, 0), max_label=len(chosen))
    for k, (rows, cols) in enumerate(slices):
        boxes[k] = cols.start, rows.start, cols.stop, rows.stop
    seed = np.zeros(len(chosen), np.int64)
    seed[where[::-1]] = inside[::-1]
    # Of the given regions that a disagreement lies in for the most part, how much does it cover?
    labels_given, _, size_given = label_regions(truth)
    of = labels_given.ravel()[inside]
    pairs, overlap = np.unique(where * len(size_given) + of, return_counts=True)
    owner, region = np.divmod(pairs, len(size_given))
    covered = overlap >= 0.1 * size[chosen][owner]
    total = np.bincount(owner[covered], size_given[region[covered]], minlength=len(chosen))
    share = np.bincount(owner[covered], overlap[covered], minlength=len(chosen)) / np.maximum(total, 1)
    return given, suggested, mass[chosen], size[chosen], share, boxes, seed, np.full(len(chosen), by_given)


def _best_shift(truth: np.ndarray, pred: np.ndarray) -> tuple[int, int, float]:
    """dx, dy that move the mask onto the prediction best, and the share of the disagreement that goes away.

    The agreement at every shift is a sum of cross-correlations, one a class: products of Fourier transforms on a coarse grid.
    """
    step = max(1, -(-max(truth.shape) // _COARSE))
    offset = step // 2
    t, p = truth[offset::step, offset::step], pred[offset::step, offset::step]
    if not t.size or (t == IGNORE).all():
        return 0, 0, 0.0
    reach = max(1, round(_REACH * max(t.shape)))
    size = [fft.next_fast_len(side + reach, real=True) for side in t.shape]

    def spectrum(where: np.ndarray) -> np.ndarray:
        return fft.rfft2(where.astype(np.float32), size)

    both = np.zeros(1)
    for c in np.union1d(np.unique(t[t != IGNORE]), np.unique(p)):
        both = both + spectrum(p == c) * np.conj(spectrum(t == c))
    # Pixels of the mask that land in the picture: agreement is compared as a share of them.
    landed = spectrum(np.ones_like(p)) * np.conj(spectrum(t != IGNORE))
    dy, dx = np.meshgrid(*(np.arange(-reach, reach + 1),) * 2, indexing="ij")
    agreed, total = (fft.irfft2(part, size)[dy, dx] for part in (both, landed))
    share = np.where(total > 0.5 * np.count_nonzero(t != IGNORE), agreed / np.maximum(total, 1), 0)
    still, best = share[reach, reach], np.unravel_index(share.argmax(), share.shape)
    gone = (share[best] - still) / max(1 - still, 1e-9)
    return int(dx[best]) * step, int(dy[best]) * step, float(np.clip(gone, 0, 1))


def judge(looks: Sequence[Look]) -> list[Suspicion]:
    """How suspicious each mask of a split is, measured against the other images: none excuses itself.

    A region's evidence m is compared with the largest evidence a_j of the same confusion in each other image j, which counts
    min(1, a_j / m); images with only the same given class, the same suggested class or any confusion count for less. The
    share of images that err like this, and a trace for noise, is the chance that it is the model's own error. The evidence of
    images of which the model is less sure than usual (darkness, blur, the unseen) is discounted first: there it errs in new ways.
    Where moving the whole mask takes more of the disagreement away than it usually does, the chance falls by as much: sound
    masks gain nothing.

    Args:
        looks: of every image of the split, in any order; without others to compare with, scores stay below 0.5.
    """
    doubts = np.array([one.doubt for one in looks])
    typical = np.nanmedian(doubts) if np.isfinite(doubts).any() else 0.0
    trust = np.minimum(1, np.divide(typical, doubts, out=np.ones(len(looks)), where=doubts > 0)) ** 2
    image = np.repeat(np.arange(len(looks)), [len(one.mass) for one in looks])
    if not len(image):
        return [Suspicion(0.0) for _ in looks]
    given, suggested, mass = (
        np.concatenate([getattr(one, field) for one in looks]) for field in ("given", "suggested", "mass")
    )
    mass = mass * trust[image]
    far = int(max(given.max(), suggested.max())) + 1
    alike = (given * far + suggested, given, suggested, np.zeros_like(given))
    like = sum(weight * _others(key, image, mass) for weight, key in zip(_KINSHIP, alike, strict=True))
    noise = _NOISE * np.array([one.pixels for one in looks])[image]
    # As of a rank among n others, (r + 1) / (n + 1): the fewer there are to compare with, the less can be said.
    share = (like + 0.5 + 0.5 * np.minimum(1, noise / mass)) / (sum(_KINSHIP) * (len(looks) - 1) + 1)
    agreement = np.nanmedian([one.agreement for one in looks])
    still = np.array([1 - one.shift[2] for one in looks])
    still = np.minimum(1, still / max(np.median(still), _FLOOR))
    result = []
    for i, one in enumerate(looks):
        own = np.flatnonzero(image == i)
        if not len(own):
            result.append(Suspicion(0.0))
            continue
        k = int(share[own].argmin())
        score = float(np.clip(1 - share[own[k]] * still[i], 0, 1))
        result.append(
            Suspicion(
                score, _kind(one, k, score, agreement), int(one.given[k]), int(one.suggested[k]),
                tuple(map(int, one.box[k])), int(one.size[k]), int(one.seed[k]), bool(one.by_given[k]),
            )
        )  # fmt: skip
    return result


def _others(key: np.ndarray, image: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Of each region: the sum over other images of min(1, a / mass), a: the largest mass of the same key there, 0 without."""
    result = np.zeros(len(mass))
    for value in np.unique(key):
        where = np.flatnonzero(key == value)
        images, place = np.unique(image[where], return_inverse=True)
        most = np.zeros(len(images))
        np.maximum.at(most, place, mass[where])
        ranked = np.sort(most)
        below = np.concatenate([[0], np.cumsum(ranked)])
        at = np.searchsorted(ranked, mass[where])
        total = len(ranked) - at + below[at] / mass[where]
        result[where] = total - np.minimum(1, most[place] / mass[where])
    return result


def _kind(one: Look, k: int, score: float, agreement: float) -> str:
    """What kind of label error the evidence points to; `agreement`: of the typical mask."""
    if score < 0.5:
        return ""
    dx, dy, gone = one.shift
    if gone >= _MENDED and (dx or dy):
        return "shifted mask"
    alike = one.size[one.by_given & (one.given == one.given[k])].sum()
    if 1 - one.agreement - alike / one.pixels > _FOREIGN * (1 - agreement):
        return "mask of another image"
    if one.whole[k] >= _WHOLE or one.size[k] > _OBJECT * one.pixels:
        return "swapped class"
    return "missing object" if one.whole[k] <= _PART else ""


def suspect_region(truth: np.ndarray, pred: np.ndarray, suspicion: Suspicion) -> np.ndarray:
    """The suspicious region, grown again from the mask and the prediction it was found with.

    Args:
        truth, pred: (H, W) class ids.
        suspicion: of that image.

    Returns:
        (H, W) bool; nothing is true where there is no region.
    """
    if suspicion.seed < 0:
        return np.zeros(truth.shape, bool)
    apart = (truth != IGNORE) & (truth != pred)
    labels, _, _ = label_regions(
        np.where(apart, truth if suspicion.by_given else pred, IGNORE).astype(np.uint8)
    )
    return labels == labels.ravel()[suspicion.seed]
