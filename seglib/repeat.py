"""Repeating a run from its folder: its parameters, its plan on the same machine, and what is no longer as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from seglib.runs import Run, display_path, environment, read_json, read_table, stored_path

_TIMES = {
    "seconds",
    "seconds_left",
    "images_per_second",
}  # columns of history.csv that no two trainings share


def is_of_a_run(path: Path) -> bool:
    """Whether a parameter file is params.json of a folder in which something was trained, here or elsewhere."""
    return path.name == "params.json" and (path.parent / "environment.json").is_file()


def prepare(path: Path, values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that repeat a run; prints what is taken over, and what is not as it was.

    On the same kind of machine the plan that was found then is asked for, so that neither a new trial nor the memory that
    is free by chance changes the numbers. `resume` is dropped, and the actions are those that the run kept a copy of.

    Args:
        path: the run's params.json.
        values: what it holds.
        given: parameters that are to differ, which go before these.

    Raises:
        ValueError: environment.json is damaged.
    """
    folder, values = path.parent, dict(values)
    values.pop("resume", None)
    if values.get("actions") and (folder / "actions.yaml").is_file():
        values["actions"] = stored_path(folder / "actions.yaml")
    then = read_json(folder / "environment.json")
    print(f"Repeating run {values.get('run', folder.name)!r} of {then.get('time', 'unknown time')}.")
    settings = _settings(then, given)
    for line in [*_changed(then, environment()), *_changed_data(Run(folder), values | given)]:
        print(f"Not as it was: {line}.")
    return values | settings


def _settings(then: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that ask for the plan of then, if this is such a machine and nobody asks for another."""
    from seglib.params import Train
    from seglib.train import DevicePlan, Machine

    try:
        plan = DevicePlan(**then["plan"])
        settings = plan.settings() | {"processes": plan.processes}
        Train.check(settings)
    except (KeyError, TypeError, AttributeError, ValueError):
        print("Not as it was: environment.json tells no plan that this version knows; one is chosen anew.")
        return {}
    here = Machine.here().name
    if then.get("machine") != here:
        print(f"Not as it was: the machine was {then.get('machine', 'not noted')} and is {here}.")
        print("The plan is chosen anew: expect close numbers, not equal ones.")
        return {}
    asked = sorted(settings.keys() & given.keys())
    if asked:
        print(f"Not as it was: {', '.join(asked)} asked for, so the plan is chosen anew.")
        return {}
    print(f"The same kind of machine, so the same plan: {plan.device}, {plan.label}, {plan.threads} threads.")
    return settings


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    pairs = {"Python": (then.get("python"), now["python"])}
    packages = then.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    pairs |= {name: (packages.get(name), version) for name, version in now["packages"].items()}
    return [
        f"{name} was {old or 'absent'} and is {new or 'absent'}"
        for name, (old, new) in pairs.items()
        if old != new
    ]


def _changed_data(run: Run, values: Mapping[str, Any]) -> list[str]:
    from seglib.data import DatasetError, load_dataset
    from seglib.evaluate import changed_since_training
    from seglib.params import Train, check_chain

    if not run.data.is_file():
        return ["the run kept no data.json: whether the dataset changed cannot be told"]
    params = Train.check(check_chain(values)["02_train"])
    with suppress(DatasetError):  # 01 will tell it better, or make the demo dataset
        changed = changed_since_training(run, load_dataset(params.dataset, params.config))
        return [changed.removesuffix(".")] if changed else []
    return []


def compare(before: Path, run: str) -> None:
    """Print whether a repeated training went as the first did, by their history.csv."""
    try:
        first, second = _history(before / "history.csv"), _history(Run(Run.folder(run)).history)
    except ValueError as error:
        print(f"history    cannot be compared: {error}")
        return
    if not first or not second:
        return
    if first == second:
        print(f"history    identical to that of run {before.name!r} in all {len(first)} epochs")
        return
    pairs = list(zip(first, second, strict=False))
    apart = next((k for k, (a, b) in enumerate(pairs, start=1) if a != b), len(pairs) + 1)
    known = [d for a, b in pairs if not math.isnan(d := abs(_number(a) - _number(b)))]
    most = f"; val mean IoU by at most {max(known):.4f}" if known else ""
    print(f"history    differs from that of run {before.name!r} from epoch {apart} on{most}")


def _history(path: Path) -> list[dict[str, str]]:
    """Its rows without their times; none where there is no such file. ValueError: it is no history."""
    if not path.is_file():
        return []
    rows = read_table(path).drop(columns=list(_TIMES), errors="ignore").to_dict("records")
    for row in rows:
        try:
            _number(row)
        except (KeyError, ValueError):
            raise ValueError(
                f"{display_path(path)} holds no val_miou of every epoch, or none that is a number."
            ) from None
    return rows


def _number(row: Mapping[str, str]) -> float:
    return float(row["val_miou"] or "nan")
