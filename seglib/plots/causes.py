"""What explains failures, drawn: qualities of images beside the training images', slices, and what confidence foretells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from seglib.checks import KINDS, QUALITY_OF, Reference
from seglib.failures import EarlyWarning
from seglib.plots.style import INK, MUTED, axes, empty, sheet, style, text

_TRAIN, _SOUND, _FAILED = "#c9d6df", "#0072b2", "#d55e00"  # Okabe and Ito's blue and vermilion
_AXES = {
    "sharpness": "sharpness",
    "noise": "noise, grey levels",
    "highlights": "grey value of the brightest hundredth",
    "contrast_ratio": "contrast (deviation / mean of grey values)",
}
_LOGARITHMIC = ("sharpness", "noise", "contrast_ratio")
_LEAST = {"sharpness": 1e-2, "noise": 0.1, "contrast_ratio": 1e-2}  # below it nothing differs to the eye


@style()
def degradation_sheet(training: pd.DataFrame, images: pd.DataFrame, failed: np.ndarray) -> Figure:
    """`quality_plot` of every kind of degradation, two by two."""
    fig, axs = sheet(2, 2, 9.4, 5.8)
    entries: dict[str, Artist] = {}
    for kind, ax in zip(KINDS, axs.flat, strict=True):
        quality_plot(kind, training, images, failed, ax)
        entries |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if entries:
        fig.legend(entries.values(), entries, loc="outside upper left", ncols=len(entries), columnspacing=1.4)
    return fig


@style()
def quality_plot(
    kind: str, training: pd.DataFrame, images: pd.DataFrame, failed: np.ndarray, ax: Axes | None = None
) -> Axes:
    """Where the images of a split lie in the training images' distribution of the quality that tells a degradation.

    Args:
        kind: one of `KINDS`.
        training, images: `qualities`, a row an image.
        failed: (N,) bool, of `images`.

    The hatched side of the limit is where an image counts as degraded.
    """
    ax, failed = axes(ax, 4.8, 2.9), np.asarray(failed, bool)
    quality = QUALITY_OF[kind]
    least = _LEAST.get(quality, 0.0)
    known, asked = (np.maximum(table[quality].to_numpy(float), least) for table in (training, images))
    everything = np.concatenate([known, asked])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        return empty(ax, f"no image tells its {quality.replace('_', ' ')}")
    limit = Reference.of(training).limit(kind)
    low, high = everything.min(), everything.max()
    if np.isfinite(limit):
        low, high = min(low, limit), max(high, limit)
    if quality in _LOGARITHMIC:
        low, high = low / 1.15, high * 1.15
        edges = np.geomspace(low, high, 45)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(_log_ticks(low, high)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        margin = 0.03 * (high - low) or 1.0
        low, high = low - margin, high + margin
        edges = np.linspace(low, high, 45)
    counts, _, _ = ax.hist(known[np.isfinite(known)], bins=edges, color=_TRAIN, label="training images")
    top = max(1.0, float(counts.max()))
    # Sound and failed ones in a strip each below the axis: ticks over the bars could not be told apart.
    for chosen, place, color, name in ((~failed, -0.1, _SOUND, "fine"), (failed, -0.22, _FAILED, "failed")):
        values = asked[chosen & np.isfinite(asked)]
        ax.scatter(
            values, np.full(len(values), place * top), marker="|", s=46, color=color, linewidth=1.3, clip_on=False,
            label=f"{name} ({chosen.sum()})", zorder=3,
        )  # fmt: skip
    if np.isfinite(limit):
        below = limit < np.median(known[np.isfinite(known)])
        ends = (low, limit) if below else (limit, high)
        ax.axvspan(
            *ends,
            facecolor="none",
            edgecolor="#d9d9d9",
            hatch="///",
            linewidth=0,
            zorder=0,
            label="counts as degraded",
        )
        ax.axvline(limit, color=INK, linewidth=1, linestyle="--")
    ax.axhline(0, color=MUTED, linewidth=0.8)
    ax.set(xlim=(low, high), ylim=(-0.3 * top, 1.12 * top), xlabel=_AXES[quality], ylabel="training images")
    ax.set_title(kind.capitalize())
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.12 * top])
    return ax


def _log_ticks(low: float, high: float) -> np.ndarray:
    """Round values between two positive ones: 1, 2, 3 and 5 of every power of ten, or even steps where those are too few."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
    ticks = np.outer(powers, (1, 2, 3, 5)).ravel()
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    if len(ticks) > 7:
        ticks = ticks[np.isclose(np.log10(ticks) % 1, 0) | np.isclose(np.log10(ticks / 3) % 1, 0)]
    return ticks if len(ticks) > 2 else MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)


@style()
def risk_coverage_plot(found: EarlyWarning, ax: Axes | None = None) -> Axes:
    """The failure rate that is left when only the most confident images are kept.

    Between the dashed line (a signal that knows nothing) and the dotted curve (one that knows the failures): the lower, the
    better confidence warns. The mark: how many images may be kept at half the failure rate.
    """
    ax = axes(ax, 4.8, 3.6)
    if not found.images:
        return empty(ax, f"no image has a {found.signal}")
    if found.failures in (0, found.images):
        return empty(ax, f"{'no' if not found.failures else 'every'} image fails: nothing to tell apart")
    curve, rate = found.curve, found.aurc_random
    coverage = np.linspace(1 / found.images, 1, 400)
    best = np.maximum(0, 1 - (1 - rate) / coverage)
    ax.axhline(rate, color=MUTED, linestyle="--", linewidth=1, label="any image left out by chance")
    ax.plot(coverage, best, color=MUTED, linestyle=":", linewidth=1.4, label="the failures left out first")
    ax.plot(
        curve["coverage"],
        curve["risk"],
        color=_SOUND,
        linewidth=1.8,
        label=f"lowest {text(found.signal)} left out first",
    )
    if np.isfinite(found.half_coverage):
        at = curve.loc[curve["coverage"] == found.half_coverage, "risk"].iloc[0]
        ax.scatter(
            [found.half_coverage], [at], s=44, marker="D", color=_FAILED, edgecolor=INK, zorder=4, linewidth=0.8,
            clip_on=False, label=f"at most half the failure rate: {found.half_coverage:.0%} kept",
        )  # fmt: skip
    percent = FuncFormatter(lambda value, _: f"{value:.0%}")
    ax.xaxis.set_major_formatter(percent)
    ax.yaxis.set_major_formatter(percent)
    told = f", AUROC {found.auroc.value:.2f}" if np.isfinite(found.auroc.value) else ""
    ax.set(
        xlim=(0, 1), ylim=(0, 1.06 * max(float(curve["risk"].max()), rate)), xlabel="images kept, most confident first",
        ylabel="of those, failed", title=f"Risk and coverage{told}",
    )  # fmt: skip
    ax.grid(axis="y")
    ax.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.18), ncols=1)
    return ax


@style()
def slice_plot(slices: pd.DataFrame, most: int = 15, ax: Axes | None = None) -> Axes:
    """Slices by how much lower the mean IoU of their images is than elsewhere, the claimed ones on top, and of them the costliest.

    Args:
        slices: as `find_slices` returns it.
        most: how many are drawn.

    Filled: claimed after correction for all slices looked at; hollow: may be chance. Lines: each slice's own 95 % interval.
    """
    table = slices.head(most)
    ax = axes(ax, 7.6, 1.5 + 0.3 * max(2, len(table)))
    if not len(table):
        return empty(ax, "no slice holds enough images")
    rows = np.arange(len(table))
    lock = table["claimed"].to_numpy(bool)
    colors = np.where(lock, _FAILED, MUTED)
    ax.axvline(0, color=INK, linewidth=0.9)
    ax.hlines(rows, 100 * table["low"], 100 * table["high"], color=colors, linewidth=1.6, zorder=2)
    looks: Mapping[str, tuple] = {
        "more than chance": (lock, _FAILED, INK),
        "may be chance": (~lock, "white", MUTED),
    }
    for name, (chosen, face, edge) in looks.items():
        if chosen.any():
            ax.scatter(
                100 * table["difference"][chosen], rows[chosen], s=44, color=face, edgecolor=edge, linewidth=1, zorder=3,
                label=name,
            )  # fmt: skip
    beside = ax.get_yaxis_transform()
    ax.text(1.02, -0.75, "images (failed)", va="bottom", fontsize=8, color=MUTED, transform=beside)
    for row, images, failures in zip(rows, table["images"], table["failures"], strict=True):
        ax.text(1.02, row, f"{images} ({failures})", va="center", fontsize=8, transform=beside)
    ax.set_yticks(rows, [text(words, 58) for words in table["slice"]])
    ax.set(
        ylim=(len(table) - 0.4, -0.7), xlabel="mean IoU of the slice's images less that of all others, points",
        title="Slices, the costliest on top",
    )  # fmt: skip
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1, handletextpad=0.4)
    ax.set_title(ax.get_title(loc="left"), pad=26)
    return ax
