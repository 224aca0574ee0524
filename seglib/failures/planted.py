"""Was it right? What the analysis says of faults that somebody planted in the dataset and recorded."""

import pandas as pd

from seglib.data import LABEL_FAULTS, planted
from seglib.failures.analyse import Analysis, explain_failures
from seglib.failures.find import find_failures

_EXPECTED = dict.fromkeys(LABEL_FAULTS, "label error")
_EXPECTED |= dict.fromkeys(("blur", "noise", "dark", "washed_out"), "degraded image")
_OF_THE_MODEL = ("rare class", "small objects", "systematic confusion", "class confusion")
_EXPECTED |= {"unseen_condition": "unlike training", "far_tiny": "small objects", "rare_class": "rare class"}


def was_it_right(analysis: Analysis, threshold: float = 0.65) -> pd.DataFrame | None:
    """Compare what is stated of the images below a threshold with the faults that planted.csv records.

    Args:
        threshold: an image of a lower mIoU fails. A wrong label counts as found when it is named, failed or not.

    Returns:
        A row a kind of fault of this split, and one of the images without a fault: planted (images), found (by
        the right cause; without a fault, a cause that lies in the model), passed (above the threshold, so nothing
        is stated), unexplained, blamed_wrongly, and stated, the causes with their numbers. None where the dataset
        has no planted.csv.
    """
    dataset = analysis.evaluation.dataset
    if not (dataset.root / "planted.csv").is_file():
        return None
    faults = planted(dataset.root).set_index("sample")["kind"]
    faults = faults[faults.isin(list(_EXPECTED))]
    failed = explain_failures(
        analysis.evaluation, find_failures(analysis.evaluation, threshold), analysis.images
    )
    images = analysis.images.set_index("id")
    stated = failed.set_index("id")["cause"].reindex(images.index, fill_value="passed")
    stated = stated.mask(images["suspect"], "label error")
    kind = faults[~faults.index.duplicated()].reindex(images.index).fillna("no fault")
    expected = kind.map(_EXPECTED)
    result = pd.Series("blamed_wrongly", images.index)
    for name in ("passed", "unexplained"):
        result[stated == name] = name
    result[stated == expected] = "found"
    result[(kind == "no fault") & stated.isin(_OF_THE_MODEL)] = "found"
    table = pd.crosstab(kind, result).reindex(
        columns=["found", "passed", "unexplained", "blamed_wrongly"], fill_value=0
    )
    table.insert(0, "planted", kind.value_counts())
    named = stated[stated != "passed"].groupby(kind[stated != "passed"])
    table["stated"] = named.agg(
        lambda causes: ", ".join(f"{name} {n}" for name, n in causes.value_counts().items())
    )
    return table.fillna({"stated": ""}).rename_axis("fault").rename_axis(columns=None).reset_index()
