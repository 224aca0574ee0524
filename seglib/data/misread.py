"""What to write into dataset.yaml for masks that are not what they seem: smeared, shifted by one, instances."""

import numpy as np

from seglib.data.classes import APART, IGNORE, ClassMap

_MANY, _RARE = 12, 0.2  # values in a smeared mask, and the share of the pixels that the rare ones cover


def lines(values: list[int], ignored: list[int] = ()) -> str:
    """Write the line of dataset.yaml that gives stored values the class ids 0, 1, ... in their order."""
    named = [f"{value}: {IGNORE}" for value in ignored] + [f"{value}: {c}" for c, value in enumerate(values)]
    return f"id_map: {{{', '.join(named)}}}"


def suggest(stored: np.ndarray, classes: ClassMap) -> str:
    """Suggest what to do about a mask with unknown values, (H, W) ids or (H, W, 3) colours."""
    color, last = stored.ndim == 3, len(classes) - 1
    pixels = stored.astype(np.int64) @ [65536, 256, 1] if color else stored.astype(np.int64)
    values, counts = np.unique(pixels, return_counts=True)
    common = values[counts > 0.02 * pixels.size].tolist()
    rare = counts[~np.isin(values, common)].sum() / pixels.size
    if len(values) > max(_MANY, 2 * len(common)) and rare < _RARE:
        order, kept = values[np.argsort(-counts)], []
        for value in order[np.isin(order, common)].tolist():  # what lies about a common value is its noise
            kept += [value] if all(abs(value - other) >= APART for other in kept) else []
        named = "" if classes.id_map or color else f" and {lines(sorted(kept))}"
        told = "Its values are smeared, by JPEG or by smooth edges: export it as PNG without smoothing, or write "
        return f"{told}snap: true{named} into dataset.yaml: each pixel is then read as the nearest value that is named there."
    if color:
        return "Correct the mask, or dataset.yaml."
    ids, found = values.tolist(), [v for v in values.tolist() if v not in (0, IGNORE)]
    if ids[0] < 0:
        return f"If they are ignored, write ignore_ids: {[v for v in ids if v < 0]} into dataset.yaml."
    if found and min(found) >= 1000:
        return "They look like instance numbers (class x 1000 + number): name masks of class ids (labelIds)."
    if found == list(range(1, last + 2)) or (not classes.id_map and found and found[-1] == last + 1):
        known = lines(list(range(1, last + 2)), [0] if ids[0] == 0 else [])
        return f"If ids begin at 1, write {known} into dataset.yaml ({IGNORE}: ignored)."
    if len(found) > last + 1 and found == list(range(1, len(found) + 1)):
        return "Are they instance numbers? Export class ids; or, if all are of one class, id_map: {0: 0, 1: 1, 2: 1, ...}."
    if not classes.id_map and 1 < len(ids) <= len(classes):
        return f"If they are the classes in this order, write {lines(ids)} into dataset.yaml."
    return "Correct the mask, or dataset.yaml."
