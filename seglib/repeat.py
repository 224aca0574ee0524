"""Repeating a run from its folder: its parameters, its plan on the same machine, and what is no longer as it was."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from seglib.runs import Run, environment, portable, read_json

_TIMES = {"seconds", "seconds_left", "images_per_second"}  # columns of history.csv that no two trainings share


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
        values["actions"] = portable(folder / "actions.yaml")
    then = read_json(folder / "environment.json")
    print(f"Repeating run {values.get('run', folder.name)!r} of {then.get('time', 'unknown time')}.")
    settings = _settings(then, given)
    for line in [*_changed(then, environment()), *_changed_data(values | given, then.get("data"))]:
        print(f"Not as it was: {line}.")
    return values | settings


def _settings(then: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that ask for the plan of then, if this is such a machine and nobody asks for another."""
    from seglib.hardware import HardwarePlan
    from seglib.machine import Machine

    try:
        plan = HardwarePlan(**then["plan"])
    except (KeyError, TypeError):
        print("Not as it was: environment.json tells no plan that this version knows; one is chosen anew.")
        return {}
    settings = plan.settings() | {"processes": plan.processes}
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
    pairs |= {name: (then.get("packages", {}).get(name), version) for name, version in now["packages"].items()}
    return [
        f"{name} was {old or 'absent'} and is {new or 'absent'}" for name, (old, new) in pairs.items() if old != new
    ]


def _changed_data(values: Mapping[str, Any], then: Any) -> list[str]:
    """What decodes to other bytes than when the run was trained. It costs no time: 02 finds the decoded data ready."""
    from seglib.actions import follow
    from seglib.dataset import DatasetError, load_dataset
    from seglib.loading import pack
    from seglib.params import Train, check_chain

    params = Train.check(check_chain(values)["02_train"])
    if not isinstance(then, Mapping):
        return ["environment.json does not tell what the dataset held; it may have changed"]
    told = []
    with suppress(DatasetError):  # 01 will tell it better, or make the demo dataset
        params, dataset = follow(params, load_dataset(params.dataset, params.recipe))
        for split in ("train", "val"):
            masks, shown = split == "val", sys.stderr.isatty()
            packed = pack(dataset, split, params.long_side, original_masks=masks, cache=params.cache, progress=shown)
            if packed.content != then.get(split):
                told.append(f"split {split!r} of {params.dataset} holds other images or masks")
    return told


def compare(before: Path, run: str) -> None:
    """Print whether a repeated training went as the first did, by their history.csv."""
    first, second = _history(before / "history.csv"), _history(Run(Run.folder(run)).history)
    if not first or not second:
        return
    if first == second:
        print(f"history    identical to that of run {before.name!r} in all {len(first)} epochs")
        return
    pairs = list(zip(first, second, strict=False))
    apart = next((k for k, (a, b) in enumerate(pairs, start=1) if a != b), len(pairs) + 1)
    most = max((abs(_number(a) - _number(b)) for a, b in pairs), default=math.nan)
    print(
        f"history    differs from that of run {before.name!r} from epoch {apart} on; val mean IoU by at most {most:.4f}"
    )


def _history(path: Path) -> list[dict[str, str]]:
    with suppress(FileNotFoundError), path.open(encoding="utf-8", newline="") as file:
        return [{n: v for n, v in row.items() if n not in _TIMES} for row in csv.DictReader(file)]
    return []


def _number(row: Mapping[str, str]) -> float:
    return float(row.get("val_miou") or "nan")
