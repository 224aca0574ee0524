"""Files that people edit, with anything in them: they are read rightly, or refused in words that name what is wrong."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import yaml
from fuzzing import ANYTHING, NASTY, cases, damaged, is_ours, works_or_refuses
from hypothesis import given
from hypothesis import strategies as st

from seglib import actions
from seglib.data.config import read_config
from seglib.data.dataset import load_dataset
from seglib.failures import brush
from seglib.failures.corrections import import_label_studio
from seglib.failures.thresholds import read_threshold
from seglib.failures.verdicts import LONGEST, VERDICTS, VerdictBook
from seglib.options import read_parameters
from seglib.params import NOTEBOOKS, check_chain, read_file
from seglib.reading import brief, load_yaml
from seglib.runs import read_json

pytestmark = pytest.mark.slow

RECIPE = {
    "name": "street",
    "classes": ["road", "car", "person"],
    "colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
    "ignore_ids": [11],
    "id_map": {0: 0, 7: 1, 255: 255},
    "splits": {
        "train": {"images": "train/images/*.png", "masks": "train/masks/*.png"},
        "val": {"images": "../val/images/**/*", "masks": "../val/masks/**/*", "optional": True},
        "held": {"ids": ["a", "b"]},
    },
    "group": "(?P<group>.+)_(?P<frame>[0-9]+)$",
    "exclude": ["street_1"],
}
PARAMS = {
    "run": "mine",
    "dataset": "data/x",
    "epochs": 3,
    "learning_rate": 1e-3,
    "resume": False,
    "scale_tta": "0.5, 2",
}
ACTIONS = {
    "exclude": ["a", {"id": "b", "reason": "blurred"}],
    "relabel": [],
    "augment": [{"name": "blur", "value": 0.3, "reason": "x"}],
    "class_weights": "sqrt_inverse",
}
# YAML that PyYAML's own constructors stumble over, and what grows without bound.
LAUGHS = "\n".join(["a: &a0 [x, x]"] + [f"b{k}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]" for k in range(12)])
MERGES = "\n".join(
    ["a: &a0 {x: 1}"] + [f"b{k}: &a{k + 1} {{<<: [{', '.join([f'*a{k}'] * 9)}]}}" for k in range(12)]
)
ODD = (
    LAUGHS, LAUGHS + "\nclasses: *a12", MERGES, "a: " + "[" * 3000, "? " * 2000, "classes: " + "9" * 5000, "classes: 0x" + "f" * 9000,
    "a: 2024-13-45", "a: !!timestamp x", "a: !!bool perhaps", "a: !!int x", "a: !!float x", "a: 0b_", "a: !!python/name:os.system",
    "a: !!python/object/apply:os.system [id]", "a: !!binary =", "&a a: *a", "a: &b [*b]", "a: *nobody", "a: 1\na: 2", "<<: 1",
    "? [a, [b]]\n: 1", "? {a: b}\n: 1", "\0", "\ufeffa: 1", "%TAG ! x", "--- 1\n--- 2", "a: !!set {b, c}", "a: !!omap [b: 1]",
)  # fmt: skip


@st.composite
def changed(draw, value, junk=ANYTHING):
    """A mapping of plain data in which something, somewhere, is something else, missing or new."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        value = dict(value)
        key = draw(st.sampled_from(sorted(value, key=str)))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[draw(st.sampled_from(NASTY) | st.integers())] = draw(junk)
        else:
            value[key] = draw(changed(value[key], junk))
        return value
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        value = list(value)
        value[draw(st.integers(0, len(value) - 1))] = draw(changed(draw(st.sampled_from(value)), junk))
        return value
    return draw(junk)


def as_yaml(value) -> bytes:
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except ValueError:  # a number of 5000 digits
        return b"a: 0x" + b"f" * 9000


def as_json(value) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:  # a number of 5000 digits
        return b"[" + b"9" * 5000 + b"]"


def texts(good: dict) -> st.SearchStrategy[bytes]:
    whole = yaml.safe_dump(good).encode()
    return st.one_of(
        changed(good).map(as_yaml),
        damaged(whole),
        st.sampled_from(ODD).map(str.encode),
        st.binary(max_size=40),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name in ("train/images/a.png", "train/masks/a.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
    return folder


@cases(20)
@given(text=texts(RECIPE))
def test_dataset_yaml(place, text):
    (place / "dataset.yaml").write_bytes(text)
    with works_or_refuses():
        config = read_config(place / "dataset.yaml")
        assert all(name and name.strip() == name for name in config.classes)
        json.dumps(config.class_map.to_dict()).encode()
        dataset = load_dataset(place, strict=False)
        dataset.samples.to_csv().encode()


@cases(50)
@given(text=texts(PARAMS) | changed(PARAMS, ANYTHING | st.floats()).map(as_json))
def test_parameter_files(place, text):
    (place / "p.yaml").write_bytes(text)
    with works_or_refuses():
        given = read_file(place / "p.yaml")
        shares = check_chain(given)
        for notebook, share in shares.items():  # what is taken is taken whole
            NOTEBOOKS[notebook].check(share)
            assert all(not isinstance(given[n], bool) or isinstance(v, bool) for n, v in share.items())


@cases(80)
@given(
    name=st.sampled_from([*PARAMS, "seed", "threads", "crop_height", "x"]),
    value=st.sampled_from((*NASTY, *ODD)) | st.text(),
)
def test_parameters_at_a_terminal(name, value):
    with works_or_refuses():
        check_chain(read_parameters([f"{name}={value}"]))


@cases(20)
@given(text=texts(ACTIONS))
def test_actions_yaml(place, text):
    (place / "actions.yaml").write_bytes(text)
    with works_or_refuses():
        found = actions.read(place / "actions.yaml")
        assert found.trains_like(found)
        found.changes  # noqa: B018


@cases(60)
@given(
    data=damaged(
        json.dumps(PARAMS | {"predictions": "x", "more": [1, {"a": None}]}).encode(), b"[" * 9999, b"9" * 5000
    )
)
def test_json_of_a_run(place, data):
    (place / "x.json").write_bytes(data)
    with works_or_refuses():
        read_json(place / "x.json", ["run"])["run"]


NAMES = ("sky", "a b", "1", "$x", "<b>", "a=b")


@cases(100)
@given(
    value=st.floats(0, 1) | st.floats(),
    mode=st.sampled_from(["absolute", "percentile", "per_class", ""]),
    text=st.lists(st.sampled_from((*NASTY, *NAMES, "sky 0.5", "1 0.2", "sky nan", "sky: 2"))).map(",".join),
)
def test_class_thresholds(value, mode, text):
    with works_or_refuses():
        found = read_threshold(value, mode, text, NAMES)
        assert all(name in NAMES and 0 <= limit <= 1 for name, limit in found.classes.items())


# verdicts.csv

CELLS = st.sampled_from((*NASTY, *VERDICTS, "x" * 140_000)) | st.text(max_size=20)


@cases(40)
@given(
    notes=st.dictionaries(CELLS.filter(bool), st.tuples(st.sampled_from(["", *VERDICTS]), CELLS), max_size=4)
)
def test_verdicts_come_back_to_the_last_character(place, notes):
    path = place / "verdicts.csv"
    path.unlink(missing_ok=True)
    book, kept = VerdictBook(path), {}
    for sample, (verdict, note) in notes.items():
        if len(sample) > LONGEST:
            continue
        try:
            book.set(sample, verdict, note)
        except UnicodeEncodeError:  # half a surrogate pair
            continue
        except ValueError:
            if len(note) <= LONGEST:
                raise
            continue
        if verdict or note:
            kept[sample] = (verdict, note)
    again = VerdictBook(path)
    assert not again.problem
    assert {sample: (row.verdict, row.note) for sample, row in again.rows.items()} == kept


GOOD = b'id,verdict,note,time\na,label wrong,"two\nlines",t\nb,ignore,,\n"c,d",model wrong,x,\n'


@cases(50)
@given(
    data=damaged(
        GOOD, b"\xef\xbb\xbf" + GOOD, GOOD.replace(b"\n", b"\r\n"), GOOD.replace(b"lines", b"\xe9\0" * 70_000)
    )
)
def test_damaged_verdicts_lose_nothing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("book") / "verdicts.csv"
    path.write_bytes(data)
    book = VerdictBook(path)
    assert all(sample and row.verdict in ("", *VERDICTS) for sample, row in book.rows.items())
    kept = [p.read_bytes() for p in path.parent.iterdir()]
    assert data in kept  # what was there before is there still, under one name or the other
    assert book.problem or kept == [data]
    assert VerdictBook(path).rows == book.rows


def test_one_bad_row_costs_one_verdict(tmp_path):
    for bad in (
        b"x,label wrong,caf\xe9,\n",
        b'x,label wrong,"a"b,\n',
        b"x,label wrong," + b"n" * 200_000 + b",\n",
    ):
        path = tmp_path / "verdicts.csv"
        path.write_bytes(b"id,verdict,note,time\na,ignore,,\n" + bad + b"b,ambiguous,,\n")
        book = VerdictBook(path)
        assert list(book.rows) == ["a", "b"]
        assert "2 verdicts were carried over" in book.problem


# what annotation tools export

SIZE = (6, 9)
MASK = np.arange(54).reshape(SIZE) % 5 == 0
REGION = {
    "type": "brushlabels", "from_name": "mask", "image_rotation": 0, "original_width": 9, "original_height": 6,
    "value": {"format": "rle", "rle": brush.encode(MASK), "brushlabels": ["car"]},
}  # fmt: skip
TASK = {"data": {"sample": "train-a"}, "annotations": [{"updated_at": "2026", "result": [REGION]}]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("annotated")
    for side in ("images", "masks"):
        (root / side).mkdir()
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / side / "train-a.png")
    (root / "dataset.yaml").write_text(
        "classes: [road, car]\nsplits: {train: {images: images/*.png, masks: masks/*.png}}\n"
    )
    return load_dataset(root)


@cases(60)
@given(task=changed(TASK, ANYTHING | st.just(10**12) | st.lists(st.integers(0, 255), max_size=12)))
def test_tasks_of_label_studio(dataset, tmp_path_factory, task):
    folder = tmp_path_factory.mktemp("import")
    (folder / "x.json").write_bytes(as_json([task]))
    with works_or_refuses():
        table = import_label_studio(folder / "x.json", dataset, folder / "out")
        assert set(table["id"]) <= {"train-a"}
        assert ((table["changed"] >= 0) & (table["changed"] <= 54)).all()
    assert {p.name for p in folder.rglob("*") if p.is_file()} <= {"x.json", "train-a.png"}


@cases(80)
@given(rle=damaged(bytes(brush.encode(MASK))).map(list) | ANYTHING)
def test_run_lengths(rle):
    with works_or_refuses():
        mask = brush.decode(rle, *SIZE)
        assert mask.shape == SIZE
        assert mask.dtype == bool


# how long what is said may be


def test_what_is_shown_of_a_bomb_is_short(tmp_path):
    for text, reader in (
        (LAUGHS + "\nclasses: *a12\nsplits: {train: {images: *a12, masks: *a12}}", read_config),
        (LAUGHS + "\nrun: *a12\nepochs: *a12", lambda path: check_chain(read_file(path))),
        (LAUGHS + "\nexclude: *a12\nrelabel: [*a12]", actions.read),
        ("*a12: 1\n", read_config),
    ):
        (tmp_path / "bomb.yaml").write_text(text)
        with pytest.raises(ValueError) as error:  # noqa: PT011
            reader(tmp_path / "bomb.yaml")
        assert is_ours(error.value)
        assert len(str(error.value)) < 6000
    assert len(brief(load_yaml(LAUGHS))) < 2000


def test_doubled_parameters_are_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("epochs: 3\nepochs: 30\n")
    with pytest.raises(ValueError, match=r"line 2, column 1: key 'epochs' stands twice"):
        read_file(tmp_path / "p.yaml")


def test_json_beyond_16_bits_is_read_whole(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps({"dataset": "data/🚢", "run": "x"}))
    assert read_file(tmp_path / "params.json")["dataset"] == "data/🚢"
    assert load_yaml('"\\ud83d"') == "\ud83d"


def test_truth_is_no_number():
    for name, value in (("epochs", True), ("threshold", False)):
        with pytest.raises(ValueError, match=f"{name} = {value}: .*expected a number"):
            check_chain({name: value})
    assert check_chain({"resume": True})["02_train"] == {"resume": True}


def test_csv_reader_is_not_wider_than_a_note():
    assert csv.field_size_limit() > LONGEST
    assert next(csv.reader(io.StringIO("x" * LONGEST))) == ["x" * LONGEST]
