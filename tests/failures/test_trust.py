"""How far to trust it: AUROC against scikit-learn, p against all permutations and on noise; what was planted, by hand."""

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from seglib import failures
from seglib.failures import trust
from seglib.failures.analyse import class_confidence
from seglib.failures.trust import LEVEL, early_warning


def case(seed: int, units: int = 12, size: int = 6, knows: float = 0.0):
    """A signal and failures that both go with the sequence, and with each other as far as the signal `knows`."""
    random, codes = np.random.default_rng(seed), np.repeat(np.arange(units), size)
    hard = random.standard_normal(units)[codes] + random.standard_normal(len(codes))
    signal = random.standard_normal(units)[codes] + random.standard_normal(len(codes)) - knows * hard
    return np.round(signal, 1), hard > np.quantile(hard, 0.6), codes


def test_auroc_is_scikit_learns_and_p_that_of_all_permutations():
    signal, failed, units = case(1, units=5, size=9, knows=0.3)
    auroc, p = early_warning(signal, failed, units, draws=2000)
    assert auroc == pytest.approx(roc_auc_score(failed, -signal), abs=1e-12)
    parts = np.array(np.split(signal, 5))
    drawn = [roc_auc_score(failed, -np.concatenate(parts[list(order)])) for order in permutations(range(5))]
    # Inside a unit the order starts anywhere: compared with all orders of units it is the same on average.
    assert p == pytest.approx(np.mean(np.array(drawn) >= auroc), abs=0.05)


@pytest.mark.parametrize("sizes", ["images", "sequences"])
def test_noise_is_seldom_claimed(sizes):
    """A claim in 5 % of 200 cases would be 10; 11 or more of a rate of 2.5 % happen once in 100 times."""
    shape = {"units": 60, "size": 1} if sizes == "images" else {"units": 10, "size": 7}
    assert sum(early_warning(*case(seed, **shape), draws=99)[1] <= LEVEL for seed in range(200)) <= 10


def said(confidence, by_class, failed) -> list[str]:
    """The warnings of a split of images without sequences."""
    columns = {"confidence": confidence, "class_confidence": by_class, "failed": failed, "miou": 0.5}
    images = pd.DataFrame(columns)
    samples = pd.DataFrame({"group": "", "frame": pd.NA, "id": images.index.astype(str)})
    evaluation = SimpleNamespace(dataset=SimpleNamespace(split=lambda name: samples), split="test")
    return failures.warnings_of(SimpleNamespace(images=images, evaluation=evaluation)).splitlines()


def test_a_signal_that_knows_everything_or_nothing_and_one_of_fewer_than_ten_failures():
    _, failed, _ = case(2)
    knowing, blind = said(-failed.astype(float), 1.0, failed)
    assert knowing.endswith("AUROC 1.00 for failures, permutation p 0.001; it warns of failures.")
    assert "class: AUROC 0.50 for failures, permutation p 1.000; not distinguishable from chance" in blind
    signal, failed = np.arange(30.0), np.arange(30) < 9
    for some in (failed, ~failed):
        assert "at least 10 of each are needed" in said(signal, signal, some)[0]
    failed[9] = True
    whole, part = said(signal, np.where(np.arange(30) == 9, np.nan, signal), failed)
    assert "warns of failures" in whole
    assert part.startswith("9 failed and 20 passed images")


def test_class_confidence_by_hand():
    pixels, total = np.array([6, 0, 0, 1, 1]), np.array([5.4, 0, 0, 0.4, 0.7])
    assert class_confidence(pixels, total) == pytest.approx((0.9 + 0.4 + 0.7) / 3)
    assert np.isnan(class_confidence(0 * pixels, total))


def test_what_was_planted_and_found_is_counted_by_kind(tmp_path, monkeypatch):
    kinds = "wrong_mask", "wrong_mask", "blur", "far_tiny", "dark", "blur"
    rows = [(name, "test", kind, "mild", "", "") for name, kind in zip("abcdex", kinds, strict=True)]
    columns = ["sample", "split", "kind", "severity", "box", "detail"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "planted.csv", index=False)
    images = pd.DataFrame({"id": list("abcdefg"), "suspect": [True, *[False] * 5, True]})
    stated = {"b": "degraded image", "c": "degraded image", "d": "unexplained", "f": "rare class"}
    failed = pd.DataFrame({"id": list(stated), "cause": list(stated.values())})
    monkeypatch.setattr(trust, "find_failures", lambda evaluation, threshold: failed)
    monkeypatch.setattr(trust, "explain_failures", lambda evaluation, found, images: found)
    evaluation = SimpleNamespace(dataset=SimpleNamespace(root=tmp_path))
    table = failures.was_it_right(SimpleNamespace(evaluation=evaluation, images=images)).set_index("fault")
    assert table.loc["wrong_mask"].tolist() == [2, 1, 0, 0, 1, "label error 1, degraded image 1"]
    assert table.loc["blur"].tolist() == [1, 1, 0, 0, 0, "degraded image 1"]
    assert table.loc["far_tiny"].tolist() == [1, 0, 0, 1, 0, "unexplained 1"]
    assert table.loc["dark"].tolist() == [1, 0, 1, 0, 0, ""]
    # without a fault: a cause of the model's is no wrong answer, a label that is called wrong is one
    assert table.loc["no fault"].tolist() == [2, 1, 0, 0, 1, "rare class 1, label error 1"]
    (tmp_path / "planted.csv").unlink()
    assert failures.was_it_right(SimpleNamespace(evaluation=evaluation, images=images)) is None
