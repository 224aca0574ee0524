"""The demo dataset: the same pixels everywhere, every fault where it is recorded, nothing of the user's overwritten."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seglib.data import demo
from seglib.data import demo_canvas
from seglib.data import demo_faults
from seglib.checks.check import check_dataset
from seglib.data.dataset import load_dataset, read_pair
from seglib.checks.degradation import qualities
from seglib.data.demo_paint import SPECK, render
from seglib.data.demo_scenes import CLASSES, UNSCORED, WEATHER, build_street

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return demo.make_demo(tmp_path_factory.mktemp("data") / "demo")


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    return demo.make_demo(tmp_path_factory.mktemp("data") / "demo_broken", broken=True)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def inside(box: str, shape: tuple[int, int]) -> np.ndarray:
    x0, y0, x1, y1 = map(int, box.split())
    assert 0 <= x0 < x1 <= shape[1]
    assert 0 <= y0 < y1 <= shape[0]
    where = np.zeros(shape, bool)
    where[y0:y1, x0:x1] = True
    return where


def test_checksums(made, broken):
    assert demo.checksum(made) == demo.DEMO_SHA256  # drawn on this machine, with this numpy
    assert demo.checksum(broken) == demo.BROKEN_SHA256


def test_checksum_sees_pixels_and_not_compression(broken, tmp_path):
    copy = Path(shutil.copytree(broken, tmp_path / "copy"))
    path = copy / "val" / "images" / "linden_0000.png"
    pixels = read(path)
    Image.fromarray(pixels).save(path, compress_level=0)
    assert demo.checksum(copy) == demo.BROKEN_SHA256
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    assert demo.checksum(copy) != demo.BROKEN_SHA256


@pytest.mark.parametrize("weather", WEATHER)
def test_frames_are_drawn_again_alike(weather):
    first, again = (render(build_street(40, "avenue", weather, signs=1), 3) for _ in range(2))
    assert first.image.shape == (96, 128, 3)
    assert first.image.dtype == first.mask.dtype == np.uint8
    assert (first.image == again.image).all()
    assert (first.mask == again.mask).all()


def test_a_larger_picture_is_painted_and_not_enlarged():
    street = build_street(40, "avenue", "dusk", signs=2)
    small, large = render(street, 3), render(street, 3, scale=2.5)
    assert large.image.shape == (240, 320, 3)
    assert large.mask.shape == large.things.shape == (240, 320)
    rows, cols = (np.arange(side) * 2 // 5 for side in large.mask.shape)
    assert (small.mask[rows][:, cols] == large.mask).mean() > 0.95
    enlarged = np.asarray(Image.fromarray(small.image).resize((320, 240), Image.Resampling.BILINEAR))
    assert qualities(large.image)["sharpness"] > 1.3 * qualities(enlarged)["sharpness"]


def test_colours_are_float32_throughout(monkeypatch):
    # A float64 number among them would be rounded by one numpy version and not by another.
    fill, kinds = demo_canvas.Patch.fill, set()

    def spy(patch, where, color, shine=False):
        kinds.update(array.dtype for array in (patch.x, patch.y, color) if isinstance(array, np.ndarray))
        fill(patch, where, color, shine)

    monkeypatch.setattr(demo_canvas.Patch, "fill", spy)
    for style, weather in zip(
        ("terrace", "suburb", "centre", "avenue"), ("sunny", "rain", "dusk", "night"), strict=True
    ):
        render(build_street(50, style, weather, signs=3), 2)
    assert kinds == {np.dtype(np.float32)}


def test_nothing_shows_as_a_speck():
    street = build_street(60, "suburb", "overcast", signs=3)
    for number in range(0, 12, 4):
        frame = render(street, number)
        for index in np.unique(frame.things[frame.things >= 0]):
            if street.things[index].kind in ("tree", "car", "person", "sign"):
                assert (frame.things == index).sum() >= SPECK


def test_neighbouring_frames_look_alike(made):
    first, next_, other = (
        read(made / "train" / "images" / f"{n}.png").astype(int) for n in ("beech_0000", "beech_0001", "holly_0001")
    )
    assert 0 < abs(first - next_).mean() < 0.7 * abs(first - other).mean()


def test_the_demo_loads_as_a_dataset(made):
    dataset = load_dataset(made)
    assert dataset.name == "demo"
    assert dataset.classes.names == CLASSES
    assert dataset.samples["split"].value_counts().to_dict() == {"train": 156, "test": 63, "val": 40}
    groups = dataset.samples[~dataset.samples["group"].eq("stray")].groupby("group")["split"].nunique()
    assert len(groups) == 22
    assert (groups == 1).all()  # whole sequences: no neighbour of a train frame is in val or test
    image, mask = read_pair(dataset, next(dataset.samples.itertuples()))
    assert image.shape == (96, 128, 3)
    assert set(np.unique(mask)) <= {*range(8), 255}
    assert (mask == 255).any()


def test_masks_hold_the_classes_and_the_unscored_band(made):
    present = {split: np.zeros(9, int) for split in ("train", "val", "test")}
    for path in sorted(made.glob("*/masks/*.png")):
        ids = np.unique(read(path))
        assert ids.max() == UNSCORED
        present[path.parts[-3]][ids] += 1
    assert all((counts > 0).all() for counts in present.values())
    signs, images = present["train"][CLASSES.index("sign")], 156
    assert 10 <= signs <= 0.2 * images  # rare, and yet enough to learn from
    (row,) = demo.planted(made).query("kind == 'rare_class'").itertuples()
    assert row.detail == f"sign; in {signs} of {images} images"


def test_the_plan(made):
    table = demo.planted(made)
    assert list(table.columns) == demo_faults.PLANTED_COLUMNS
    assert set(table["severity"]) == {"mild", "moderate", "severe"}
    test = table[table["split"] == "test"]
    counts = Counter(test["kind"])
    assert all(counts[kind] == 3 for kind in (*demo_faults.LABEL_FAULTS, *demo_faults.DEGRADATIONS, "far_tiny"))
    assert counts["unseen_condition"] == 6
    assert counts["near_duplicate"] == 2
    assert test["sample"].is_unique
    assert len(test) <= 0.6 * 63
    assert (table["split"].eq("train") & table["kind"].isin(demo_faults.LABEL_FAULTS)).sum() <= 6


def test_label_faults_are_where_they_are_said_to_be(made):
    rows = demo.planted(made).query("kind in @demo_faults.LABEL_FAULTS")
    for row in rows.itertuples():
        stored, clean = read(made / row.split / "masks" / f"{row.sample}.png"), demo.clean_mask(made, row.sample)
        changed = stored != clean
        assert changed.any(), row
        assert not changed[clean == UNSCORED].any(), row
        if row.box:
            where = inside(row.box, changed.shape)
            assert not changed[~where].any(), row
            assert changed[where].any(axis=0).all() or row.kind != "missing_object", row  # the box is tight
        share = changed.sum() / (clean != UNSCORED).sum()
        assert row.detail.endswith(f"changed {share:.3f}"), row
    assert {path.stem for path in (made / "clean_masks").iterdir()} == set(rows["sample"])
    untouched = read(made / "train" / "masks" / "alder_0000.png")
    assert (demo.clean_mask(made, "alder_0000") == untouched).all()


def test_wrong_masks_are_the_other_sample_s(made):
    for row in demo.planted(made).query("kind == 'wrong_mask'").itertuples():
        other = row.detail.split(";")[0].removeprefix("mask of ")
        assert (read(made / row.split / "masks" / f"{row.sample}.png") == demo.clean_mask(made, other)).all()


def test_degraded_images_measure_as_such(made):
    table = demo.planted(made).query("kind in @demo_faults.DEGRADATIONS")
    drawn = {
        name: (seed, style, weather, options) for _, _, name, seed, style, weather, options in demo_faults._STREETS
    }
    for row in table.itertuples():
        name, number = row.sample.split("_")
        seed, style, weather, options = drawn[name]
        if "far" in options:
            options = options | {"far": None}
        sound = render(build_street(seed, style, weather, **options), int(number)).image.astype(float)
        found = read(made / row.split / "images" / f"{row.sample}.png").astype(float)
        change = {
            "blur": np.diff(found, axis=1).std() / np.diff(sound, axis=1).std(),
            "noise": np.diff(sound, axis=1).std() / np.diff(found, axis=1).std(),
            "dark": found.mean() / sound.mean(),
            "washed_out": found.std() / sound.std(),
        }[row.kind]
        assert change < {"mild": 0.85, "moderate": 0.65, "severe": 0.5}[row.severity], (row, change)


def test_far_things_are_tiny_and_boxed(made):
    for row in demo.planted(made).query("kind == 'far_tiny'").itertuples():
        kind, count = row.detail.split("; pixels ")
        where = read(made / row.split / "masks" / f"{row.sample}.png") == CLASSES.index(kind)
        assert not where[~inside(row.box, where.shape)].any()  # the only one of its class in the image
        assert where.sum() == int(count) < SPECK


def test_near_duplicates_and_the_unseen_condition(made):
    table = demo.planted(made)
    for row in table.query("kind == 'near_duplicate'").itertuples():
        source = row.detail.removeprefix("of ").removesuffix(" in train")
        first, second = (
            read(made / split / "images" / f"{sample}.png").astype(int)
            for split, sample in (("train", source), (row.split, row.sample))
        )
        assert 0 < abs(first - second).mean() < 3
        assert (read(made / row.split / "masks" / f"{row.sample}.png") == demo.clean_mask(made, source)).all()
    night = set(table.query("kind == 'unseen_condition'")["sample"])
    grey = {path.stem: read(path).mean() for path in made.glob("*/images/*.png")}
    dark = set(table.query("kind == 'dark'")["sample"])
    assert max(grey[sample] for sample in night) < min(
        value for name, value in grey.items() if name not in night | dark
    )


@pytest.fixture(scope="module")
def checked(made):
    return check_dataset(load_dataset(made))


def test_near_duplicates_are_found_and_no_neighbouring_frame(made, checked):
    rows = demo.planted(made).query("kind == 'near_duplicate'")
    expected = {(f"train/{row.detail.split()[1]}", f"{row.split}/{row.sample}") for row in rows.itertuples()}
    table = checked.duplicates
    found = set(zip(table["split_1"] + "/" + table["id_1"], table["split_2"] + "/" + table["id_2"], strict=True))
    assert found == expected
    assert len(expected) == 3
    told = checked.findings[checked.findings["check"].str.contains("duplicate")]
    assert told[["check", "severity"]].values.tolist() == [["near-duplicate-across-splits", "warning"]] * 3


def test_faults_that_show_without_a_model_are_found(made, checked):
    findings, rows = checked.findings, demo.planted(made)
    told = {check: set(part["sample"]) for check, part in findings.groupby("check")}
    kinds = {kind: set(part["sample"]) for kind, part in rows.groupby("kind")}
    assert kinds["shifted_mask"] <= told["mask-beside-edges"] <= kinds["shifted_mask"] | kinds["wrong_mask"]
    shared = findings.loc[findings["check"] == "mask-of-another-image", "detail"]
    assert all(shared.str.contains(sample).any() for sample in kinds["wrong_mask"])
    assert len(shared) == len(kinds["wrong_mask"])
    assert told["blurred-image"] == kinds["blur"]
    assert told["dark-image"] == kinds["dark"] | kinds["unseen_condition"]
    assert told["bright-image"] == kinds["washed_out"]
    assert kinds["noise"] <= told["grainy-image"] <= kinds["noise"] | kinds["dark"]
    degraded = set().union(*(kinds[kind] for kind in demo_faults.DEGRADATIONS))
    assert told["low-contrast-image"] | told["low-entropy-image"] <= degraded
    assert not {"specks", "pinholes", "sequence-leakage", "odd-size", "grey-image"} & set(told)


def test_sequences_are_guessed_where_no_pattern_is_given(made, checked, tmp_path):
    text = (made / "dataset.yaml").read_text(encoding="utf-8")
    config = tmp_path / "dataset.yaml"
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("group")), encoding="utf-8")
    guessed = check_dataset(load_dataset(made, config))
    assert guessed.summary["checks"]["sequences-guessed"] == 1
    assert guessed.samples[["group", "frame"]].equals(checked.samples[["group", "frame"]])


def test_the_suggested_split_keeps_streets_and_copies_whole(checked):
    place = dict(zip(checked.samples["id"], checked.suggested, strict=True))
    streets = checked.samples[checked.samples["group"] != "stray"]
    assert streets["id"].map(place).groupby(streets["group"]).nunique().eq(1).all()
    for row in checked.duplicates.itertuples():
        assert place[row.id_1] == place[row.id_2]


def test_checks_find_every_fault_of_the_broken_twin(broken):
    check = check_dataset(load_dataset(broken, strict=False))
    found = Counter(map(tuple, check.findings[["sample", "split", "check"]].to_numpy()))
    rows = demo.planted(broken)
    planted = Counter(map(tuple, rows[["sample", "split", "kind"]].to_numpy()))
    assert planted - found == Counter()
    assert {kind for _, _, kind in found - planted} == {
        "small-split"
    }  # it is a small dataset, and nothing else is wrong


def test_a_whole_demo_is_left_alone(broken, monkeypatch):
    monkeypatch.setattr(demo, "write_broken", lambda folder: pytest.fail("drawn again"))
    before = contents(broken)
    assert demo.make_demo(broken, broken=True) == broken
    assert contents(broken) == before


@pytest.mark.parametrize("change", ["mask", "file", "planted", "other"])
def test_a_changed_folder_is_not_overwritten(change, broken, tmp_path):
    folder = tmp_path / "demo_broken"
    if change == "other":
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    else:
        shutil.copytree(broken, folder)
    if change == "mask":
        ids = read(folder / "val" / "masks" / "linden_0001.png")
        Image.fromarray(255 - ids).save(folder / "val" / "masks" / "linden_0001.png")
    elif change == "file":
        (folder / "train" / "images" / "mine.png").write_bytes(b"mine")
    elif change == "planted":
        pd.DataFrame(columns=demo_faults.PLANTED_COLUMNS).to_csv(folder / "planted.csv", index=False)
    before = contents(folder)
    with pytest.raises(FileExistsError, match=r"demo_broken differs from the broken twin .* not overwritten: rename"):
        demo.make_demo(folder, broken=True)
    assert contents(folder) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full"), MemoryError])
def test_an_interrupted_generation_leaves_nothing(error, tmp_path, monkeypatch):
    def interrupted(folder: Path) -> None:
        (folder / "train").mkdir()
        (folder / "train" / "half.png").write_bytes(b"half")
        raise error

    monkeypatch.setattr(demo, "write_demo", interrupted)
    with pytest.raises(error if isinstance(error, type) else OSError):
        demo.make_demo(tmp_path / "data" / "demo")
    assert list((tmp_path / "data").iterdir()) == []


def test_other_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "write_demo", lambda folder: (folder / "planted.csv").write_text("sample\n"))
    with pytest.raises(RuntimeError, match=r"came out with checksum [0-9a-f]{64}; expected [0-9a-f]{64} .*report it"):
        demo.make_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_make_it_at_once(broken, tmp_path, monkeypatch):
    folder = tmp_path / "demo_broken"

    def slower(temporary: Path) -> None:
        shutil.copytree(broken, temporary, dirs_exist_ok=True)
        shutil.copytree(broken, folder)  # meanwhile the other one is done

    monkeypatch.setattr(demo, "write_broken", slower)
    assert demo.make_demo(folder, broken=True) == folder
    assert [path.name for path in tmp_path.iterdir()] == ["demo_broken"]


def test_an_empty_folder_is_filled(broken, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "write_broken", lambda folder: shutil.copytree(broken, folder, dirs_exist_ok=True))
    (tmp_path / "demo_broken").mkdir()
    assert demo.checksum(demo.make_demo(tmp_path / "demo_broken", broken=True)) == demo.BROKEN_SHA256


def test_ensure_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLIB_ROOT", str(tmp_path))
    calls = []
    monkeypatch.setattr(demo, "make_demo", lambda folder, broken=False: calls.append((folder, broken)))
    for dataset in ("data/camvid", "elsewhere/demo", str(tmp_path / "demo")):
        demo.ensure_demo(dataset)
    assert calls == []
    demo.ensure_demo("data/demo")
    demo.ensure_demo(tmp_path / "data" / "demo_broken")
    root = tmp_path.resolve()
    assert calls == [(root / "data" / "demo", False), (root / "data" / "demo_broken", True)]
    (tmp_path / "data" / "demo").mkdir(
        parents=True
    )  # there, whatever it holds: make_demo would judge it, not a notebook
    demo.ensure_demo("data/demo")
    assert len(calls) == 2


def test_clean_mask_names_what_it_misses(broken):
    with pytest.raises(FileNotFoundError, match=r"no sample 'nowhere_0001' in .*demo_broken: expected a name such as"):
        demo.clean_mask(broken, "nowhere_0001")
