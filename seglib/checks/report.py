"""Read a data check: the conclusion, what to look at, and the files that are written."""

from pathlib import Path

import pandas as pd

from seglib import runs
from seglib.checks import class_balance
from seglib.checks.check import CheckResult
from seglib.checks.image_quality import OUTLIERS
from seglib.checks.masks import SUSPECT
from seglib.checks.splits import balance
from seglib.data import Dataset, DatasetError, explain


def conclusion(check: CheckResult) -> str:
    """Say in one sentence whether the data is sound, and what stands against it."""
    parts = []
    for severity in ("error", "warning"):
        names = check.findings.loc[check.findings["severity"] == severity, "check"].value_counts(sort=False)
        listed, total = ", ".join(f"{n} {name}" for name, n in names.items()), int(names.sum())
        parts.append(f"{total or 'no'} {severity}{'s' * (total != 1)}" + (f" ({listed})" if listed else ""))
    sound = "sound" if parts[0] == "no errors" else "not sound"
    return f"{sound}: {len(check.samples)} pairs, {parts[0]}, {parts[1]}."


def require_sound(check: CheckResult) -> None:
    """Raise DatasetError if the data has errors: the first of each check in each split, and how many."""
    errors = check.findings[check.findings["severity"] == "error"]
    if len(errors):
        detail = f"dataset {check.summary['dataset']!r}: {len(errors)} errors: {explain(errors)}"
        raise DatasetError(detail, str(errors["check"].iloc[0]))


def examples(check: CheckResult, dataset: Dataset, count: int = 8, seed: int = 0) -> list[pd.Series]:
    """Choose rows of samples whose overlays to look at: up to half are suspect masks, the rest is random."""
    suspect = check.findings["check"].isin(SUSPECT)
    readable = check.samples.dropna(subset=["height", "ignore_share"])
    random = readable.sample(min(count, len(readable)), random_state=seed)["id"]
    chosen = pd.unique(pd.concat([check.findings.loc[suspect, "sample"].head(count // 2), random]))[:count]
    samples = dataset.samples.drop_duplicates("id").set_index("id", drop=False)
    return [samples.loc[name] for name in chosen]


def apart(check: CheckResult, count: int = 8) -> pd.Series:
    """Choose images that lie apart from the rest, two of each kind: id -> what ("dark, blurred")."""
    found = check.findings[check.findings["check"].isin(list(OUTLIERS))].groupby("check").head(2)
    kinds = found["check"].str.removesuffix("-image").groupby(found["sample"], sort=False)
    return kinds.agg(", ".join).head(count)


def split_comparison(check: CheckResult) -> pd.DataFrame:
    """Compare the splits as they are with the suggested ones (`<figure>_suggested`), a row a figure."""
    now = balance(check.samples, check.pixel_counts, check.samples["split"])
    new = balance(check.samples, check.pixel_counts, check.suggested) if len(check.suggested) else now
    return now.merge(new, on="split", suffixes=("", "_suggested")).set_index("split").round(3).T


def write(check: CheckResult, folder: str | Path | None = None) -> Path:
    """Write what was found into a folder (`check.folder` by default), and return that.

    A CSV each table; summary.json; data.json, the digest of every file; suggested_split/<split>.txt.
    """
    folder, names, counts = Path(folder or check.folder), check.summary["classes"], check.pixel_counts
    listed = ("findings", "class_stats", "shift", "duplicates", "sequences", "limits")
    tables = {name: getattr(check, name) for name in listed}
    pixels = pd.DataFrame(counts, columns=[f"pixels {name}" for name in names])
    tables["samples"] = pd.concat([check.samples, pixels], axis=1)
    tables["cooccurrence"] = class_balance.cooccurrence(names, counts).reset_index()
    tables["class_weights"] = class_balance.weight_table(names, counts[check.train])
    with runs.replace_folder(folder, ("suggested_split",), last="summary.json") as new:
        for name, table in tables.items():
            runs.write_csv(new / f"{name}.csv", table)
        for split in check.summary["splits"] if len(check.suggested) else ():
            ids = check.samples.loc[check.suggested == split, "id"]
            runs.write_text(new / "suggested_split" / f"{split}.txt", "".join(f"{name}\n" for name in ids))
        runs.write_json(new / "data.json", check.files)
        runs.write_json(new / "summary.json", check.summary | {"conclusion": conclusion(check)})
    return folder
