"""What explains failures, drawn: what the axes say, and what they say where there is nothing to draw."""

import numpy as np
import pandas as pd
import pytest

from seglib.checks.degradation import KINDS, QUALITIES, Reference
from seglib.failures.confidence import early_warning
from seglib.failures.slices import find_slices
from seglib.plots.causes import _log_ticks, degradation_sheet, quality_plot, risk_coverage_plot, slice_plot


def _qualities(images: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({name: random.lognormal(1, 0.2, images) for name in QUALITIES})


def _words(ax) -> list[str]:
    legend = ax.get_legend()
    return [label.get_text() for label in legend.get_texts()] if legend else []


@pytest.mark.parametrize("kind", KINDS)
def test_quality_shows_the_limit_and_who_failed(kind):
    training, images = _qualities(60), _qualities(20, 1)
    ax = quality_plot(kind, training, images, np.arange(20) < 4)
    assert ax.get_title(loc="left") == kind.capitalize()
    limit = Reference.of(training).limit(kind)
    assert any(line.get_xdata()[0] == limit for line in ax.lines if line.get_linestyle() == "--")
    fine, failed = ax.collections[:2]
    assert (len(fine.get_offsets()), len(failed.get_offsets())) == (16, 4)
    ax.figure.canvas.draw()


@pytest.mark.slow
def test_qualities_that_are_unknown_few_or_all_alike():
    few, none = _qualities(3), _qualities(0)
    failed = np.array([True, False, False])
    sheet = degradation_sheet(few, few, failed)
    assert len(sheet.axes) == 4
    assert [t.get_text() for t in sheet.legends[0].get_texts()] == [
        "training images",
        "fine (2)",
        "failed (1)",
    ]
    told = degradation_sheet(_qualities(60), few, failed).legends[0].get_texts()
    assert told[-1].get_text() == "counts as degraded"
    ax = quality_plot("blur", few.assign(sharpness=np.nan), few.assign(sharpness=np.nan), failed)
    assert "no image tells its sharpness" in ax.texts[0].get_text()
    same = few.assign(highlights=255.0, noise=0.0)
    for figure in (
        degradation_sheet(same, same, failed),
        degradation_sheet(_qualities(30), none, failed[:0]),
    ):
        figure.canvas.draw()


@pytest.mark.parametrize(
    ("low", "high"), [(0.5, 3.3), (1.6, 2.7), (0.1, 22), (0.02, 0.9), (1.05, 1.06), (0.01, 900)]
)
def test_a_logarithmic_axis_has_round_values_over_all_of_it(low, high):
    ticks = _log_ticks(low, high)
    inside = ticks[(ticks >= low) & (ticks <= high)]
    assert 3 <= len(inside) <= 11
    gaps = np.diff(np.log([low, *inside, high])) / np.log(high / low)
    assert gaps.max() < 0.46  # no half of it without a value


def test_risk_coverage_starts_and_ends_where_it_must():
    random = np.random.default_rng(0)
    failed = random.random(50) < 0.3
    found = early_warning(random.random(50) - failed, failed)
    ax = risk_coverage_plot(found)
    assert f"AUROC {found.auroc.value:.2f}" in ax.get_title(loc="left")
    curve = ax.lines[2]
    assert curve.get_xdata()[-1] == 1
    assert curve.get_ydata()[-1] == pytest.approx(failed.mean())
    assert any("half the failure rate" in word for word in _words(ax))
    ax.figure.canvas.draw()


def test_risk_coverage_says_why_there_is_nothing_to_draw():
    for signal, failed, words in (
        (np.ones(3), np.zeros(3, bool), "no image fails"),
        (np.ones(3), np.ones(3, bool), "every image fails"),
        (np.full(3, np.nan), np.ones(3, bool), "no image has a confidence"),
    ):
        assert words in risk_coverage_plot(early_warning(signal, failed)).texts[0].get_text()


def test_slices_are_named_and_counted():
    random = np.random.default_rng(1)
    miou = random.random(60)
    poor = np.arange(60) < 20
    table = find_slices(miou - 0.5 * poor, {"with $pole$": poor, "noise": random.random(60)}, resamples=200)
    ax = slice_plot(table)
    assert ax.get_yticklabels()[0].get_text() == r"with \$pole\$"
    assert any(word.get_text() == f"20 ({table['failures'].iloc[0]})" for word in ax.texts)
    assert _words(ax)[0] == "more than chance"
    ax.figure.canvas.draw()
    assert len(slice_plot(table, most=1).get_yticks()) == 1
    assert "no slice" in slice_plot(table.head(0)).texts[0].get_text()
