"""Was it right? What is stated against what was planted, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd

from seglib import failures
from seglib.failures import trust


def test_answers_are_counted_by_kind(tmp_path, monkeypatch):
    faults = dict(
        zip("abcdex", ("wrong_mask", "wrong_mask", "blur", "far_tiny", "dark", "blur"), strict=True)
    )
    rows = [(name, "test", kind, "mild", "", "") for name, kind in faults.items()]
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
