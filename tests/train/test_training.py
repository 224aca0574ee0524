"""`fit` on a tiny dataset: its files, its schedule, and above all that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from seglib.claims import in_use
from seglib.train.batches import training_batches
from seglib.train.optimizer import make_optimizer, rate
from seglib.train.trials import plan_training
from seglib.train.views import crop_size, geometry

from seglib.checks.class_balance import class_weights
from seglib.data.dataset import load_dataset, read_pair
from seglib.params import ParameterError
from seglib.runs import Run, read_json
from seglib.train import trainer
from seglib.train.augment import Colour, Geometry
from seglib.train.distributed import World
from seglib.train.fitting import fit, start_run
from seglib.train.loader import build_cache
from seglib.train.model import ModelError, ModelSpec, build, load_checkpoint, save_checkpoint
from seglib.train.trainer import NonFiniteLossError

HISTORY = [
    "epoch", "train_loss", "train_ce", "train_dice", "train_focal", "val_loss", "val_miou", "val_pixel_accuracy",
    "grad_norm", "learning_rate", "skipped_steps", "micro_batch", "images_per_second", "seconds", "seconds_left", "best",
]  # fmt: skip


def new_model(params, seed: int = 0):
    torch.manual_seed(seed)
    return build(ModelSpec(params.architecture, params.encoder, load_dataset(params.dataset).classes))


def train(params, model=None, on_epoch=None) -> tuple[Run, pd.DataFrame]:
    dataset = load_dataset(params.dataset)
    splits = [
        build_cache(dataset, s, original_masks=s == "val", cache=params.cache) for s in ("train", "val")
    ]
    run = start_run(params)
    model = model or new_model(params)
    return run, fit(run, model, *splits, params, plan_training(params, model, *splits), on_epoch)


def without_times(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns=["seconds", "seconds_left", "images_per_second"])


@pytest.mark.parametrize(
    ("sizes", "asked", "expected"),
    [
        ([(40, 56)], (0, 0), (32, 32)),
        ([(360, 480)], (0, 0), (352, 480)),
        ([(10, 20)], (0, 0), (32, 32)),
        ([(3000, 4000)], (0, 0), (512, 512)),
        ([(40, 56)], (33, 64), (64, 64)),
        ([(100, 100), (200, 300), (300, 500)], (0, 0), (192, 288)),
        ([(360, 480)], (0, 1), (352, 32)),
    ],
)
def test_crops_fit_the_stride_and_the_median_image(sizes, asked, expected):
    class Sizes:
        image_sizes = np.array(sizes)

    assert crop_size(Sizes, *asked) == expected


def test_rate_warms_up_and_ends_on_one_percent():
    shares = [rate(step, 100, 10) for step in range(101)]
    assert shares[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert shares[10] == 1
    assert np.all(np.diff(shares[10:]) < 0)
    assert shares[55] == pytest.approx(0.505)
    assert shares[100] == pytest.approx(0.01)
    assert rate(0, 1, 0) == 1
    assert rate(0, 5, 8) == pytest.approx(1 / 8)  # a warm-up longer than the training


def test_optimizer_holds_every_parameter_once_and_decays_matrices_alone(tiny_root, tiny_params):
    params = tiny_params(encoder_lr_factor=0.1, weight_decay=0.02)
    model = new_model(params)
    optimizer = make_optimizer(model, params)
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in model.parameters())
    encoder = {id(weight) for weight in model.net.encoder.parameters()}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            assert group["weight_decay"] == (0.02 if weight.ndim > 1 else 0)
            assert group["lr"] == pytest.approx(params.learning_rate * (0.1 if id(weight) in encoder else 1))


def test_start_run_writes_parameters(tiny_root, tiny_params):
    params = tiny_params()
    run = start_run(params)
    assert run.path == tiny_root / "artifacts" / "runs" / "tiny"
    assert json.loads(run.params.read_text()) == params.model_dump()


@pytest.mark.slow
def test_fit_writes_history_and_checkpoints(trained_root):
    run = Run.open("tiny")
    history = pd.read_csv(run.history)
    assert list(history.columns) == sorted(HISTORY, key=list(history.columns).index)
    assert set(history.columns) == set(HISTORY)
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert np.isfinite(history.drop(columns="best").to_numpy(float)).all()
    # The weights of all three terms are 1.
    np.testing.assert_allclose(
        history[["train_ce", "train_dice", "train_focal"]].sum(axis=1), history["train_loss"], rtol=1e-5
    )
    assert history["learning_rate"].iloc[-1] < 0.3 * 3e-3
    running_best = history["val_miou"].cummax()
    assert history["best"].tolist() == [True, *(running_best.diff().iloc[1:] > 0)]
    best = load_checkpoint(run.best_checkpoint)[1]
    assert best["epoch"] == history["epoch"][history["val_miou"].idxmax()]
    assert best["val_miou"] == pytest.approx(history["val_miou"].max(), rel=1e-12)
    assert load_checkpoint(run.last_checkpoint)[1]["epoch"] == 3
    environment = read_json(run.path / "environment.json")
    assert environment["packages"]["torch"]
    assert environment["plan"]["device"] == "cpu"
    steps = pd.read_csv(run.steps)
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert steps["epoch"].tolist() == [1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(steps.groupby("epoch")["loss"].mean(), history["train_loss"], rtol=1e-5)
    assert (steps[["grad_norm", "learning_rate", "images_per_second"]] > 0).all().all()
    assert not list(run.path.rglob(".*")), "temporary files are left"


def test_validation_score_is_that_of_the_predictions(trained_root):
    run = Run.open("tiny")
    dataset = load_dataset("data/tiny")
    model, facts = load_checkpoint(run.best_checkpoint, dataset.classes)
    pairs = [read_pair(dataset, sample) for sample in dataset.split("val").itertuples()]
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        pred = model.logits(images).argmax(1).numpy()
    truth = np.stack([mask for _, mask in pairs])
    pred[truth == 255] = 255
    union = [((truth == c) | (pred == c)).sum() for c in range(3)]
    ious = [((truth == c) & (pred == c)).sum() / n for c, n in enumerate(union) if n]
    assert facts["val_miou"] == pytest.approx(np.mean(ious), abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"workers": 2},
        {"ema_decay": 0.9},
        {"freeze_epochs": 3, "batch_size": 4, "micro_batch": 2},
        {"cache": "none", "workers": 2},
    ],
    ids=str,
)
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_root, tiny_params, how):
    straight, expected = train(tiny_params(run="straight", epochs=4, **how))

    def stop_after_two(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_params(run="cut", epochs=4, **how), on_epoch=stop_after_two)
    resumed = tiny_params(run="cut", epochs=4, resume=True, **how)
    run, history = train(resumed, new_model(resumed, seed=99))
    pd.testing.assert_frame_equal(without_times(history), without_times(expected), check_exact=True)
    pd.testing.assert_frame_equal(
        without_times(pd.read_csv(run.history)), without_times(pd.read_csv(straight.history))
    )
    for name in ("best_checkpoint", "last_checkpoint"):
        wanted, got = (load_checkpoint(getattr(r, name))[0].state_dict() for r in (straight, run))
        assert all(torch.equal(wanted[key], got[key]) for key in wanted), name
    without_pace = [pd.read_csv(r.steps).drop(columns="images_per_second") for r in (straight, run)]
    pd.testing.assert_frame_equal(*without_pace)
    again = train(resumed)[1]  # nothing is left to do
    pd.testing.assert_frame_equal(again, history)


def test_resuming_with_other_parameters_is_refused(trained_root, tiny_params):
    with pytest.raises(
        ParameterError, match=r"'tiny' was started with other parameters \(epochs: 3 -> 5, seed: 0 -> 1\)"
    ):
        start_run(tiny_params(epochs=5, seed=1, resume=True))
    assert read_json(Run.open("tiny").params)["epochs"] == 3


@pytest.mark.slow
def test_a_run_may_go_on_on_another_machine(tiny_root, tiny_params):
    """How it is computed may change; what it learns from may not. A micro-batch that fitted before is not exceeded."""

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_params(micro_batch=2), on_epoch=stop)
    changed = {"micro_batch": 0, "precision": "bf16", "memory_format": "channels_last", "threads": 1, "workers": 1,
               "cache": "disk", "track": "csv"}  # fmt: skip
    run, history = train(tiny_params(resume=True, **changed))
    assert history["micro_batch"].tolist() == [2, 2, 2]
    assert read_json(run.params)["precision"] == "bf16"
    assert read_json(run.path / "environment.json")["plan"]["precision"] == "bf16"


@pytest.mark.slow
def test_resuming_takes_the_micro_batch_that_is_asked_for(tiny_root, tiny_params):
    crop = {"crop_height": 64, "crop_width": 64}

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_params(micro_batch=1, **crop), on_epoch=stop)
    assert train(tiny_params(resume=True, micro_batch=3, **crop))[1]["micro_batch"].tolist() == [1, 3, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "epoch"),
    [("history.csv", 2), ("steps.csv", 2), ("best.pth", 1), ("last.pth", 1), ("last.pth", 2)],
)
def test_whatever_a_kill_leaves_unwritten_is_whole_after_resuming(
    tiny_root, tiny_params, monkeypatch, name, epoch
):
    """Killed before the file of that epoch is put in place."""
    expected, history = train(tiny_params(run="straight", epochs=2))
    put, seen = os.replace, []

    def killed(source, target):
        seen.append(os.path.basename(target))
        if seen.count(name) == epoch:
            raise KeyboardInterrupt
        put(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_params(run="cut", epochs=2))
    monkeypatch.setattr(os, "replace", put)
    run, again = train(tiny_params(run="cut", epochs=2, resume=True))
    pd.testing.assert_frame_equal(without_times(again), without_times(history), check_exact=True)
    for table in ("history", "steps"):
        straight, cut = (pd.read_csv(getattr(r, table)) for r in (expected, run))
        times = [c for c in straight if c in ("seconds", "seconds_left", "images_per_second")]
        pd.testing.assert_frame_equal(cut.drop(columns=times), straight.drop(columns=times), rtol=1e-12)


@pytest.mark.slow
def test_resuming_from_what_is_damaged_is_refused(trained_root, tiny_params):
    run, resumed = Run.open("tiny"), tiny_params(resume=True)
    steps = run.steps.read_text()
    for text, told in (
        ("x\n1\n", r"steps\.csv does not tell the epoch of every step"),
        ("", r"steps\.csv is no table that can be read"),
    ):
        run.steps.write_text(text)
        with pytest.raises(ValueError, match=told):
            train(resumed)
    run.steps.write_text(steps)
    shutil.copy(
        run.best_checkpoint, run.last_checkpoint
    )  # the best model, where the last one's optimiser should be
    with pytest.raises(
        ModelError, match=r"last\.pth does not hold what resuming needs \(KeyError: 'optimizer'\)"
    ):
        train(resumed)


def test_a_trained_run_is_not_overwritten(trained_root, tiny_params):
    with pytest.raises(FileExistsError, match="'tiny' exists and holds a trained model"):
        start_run(tiny_params())
    assert Run.open("tiny").best_checkpoint.exists()


@pytest.mark.slow
def test_a_stopped_training_is_not_begun_again_over_its_epochs(tiny_root, tiny_params):
    """What somebody does who stops a notebook's cell and starts it again."""
    params = tiny_params()
    dataset = load_dataset(params.dataset)
    splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
    run, model = start_run(params), new_model(params)
    plan = plan_training(params, model, *splits)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(run, model, *splits, params, plan, on_images=stop)  # before anything is kept
    with pytest.raises(KeyboardInterrupt):
        fit(run, model, *splits, params, plan, on_epoch=stop)
    kept = run.last_checkpoint.read_bytes()
    with pytest.raises(FileExistsError, match=r"'tiny' has trained some epochs already.*resume = True"):
        fit(run, model, *splits, params, plan)
    assert run.last_checkpoint.read_bytes() == kept
    assert not in_use(run.training_claim)
    history = train(tiny_params(resume=True), model)[1]
    expected = train(tiny_params(run="straight"))[1]
    pd.testing.assert_frame_equal(without_times(history), without_times(expected), check_exact=True)


def test_the_demo_run_is_made_anew(trained_root, tiny_params):
    folder = Run.open("tiny").path
    folder.rename(folder.parent / "demo")
    run = start_run(tiny_params(run="demo"))
    assert not run.last_checkpoint.exists()
    assert not run.best_checkpoint.exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_samples(tiny_root, tiny_params):
    params = tiny_params()
    model = new_model(params)
    with torch.no_grad():
        next(model.net.segmentation_head.parameters()).fill_(float("nan"))
    with pytest.raises(
        NonFiniteLossError,
        match=r"the loss is nan in epoch 1, step 1, on the samples t0\d, t0\d, t0\d\. Try a lower",
    ):
        train(params, model)
    assert not Run(Run.folder("tiny")).last_checkpoint.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqrt_inverse", "median_frequency"])
def test_class_weights_reach_the_loss(tiny_root, tiny_params, kind, monkeypatch):
    seen = []
    loss = trainer.HybridLoss
    monkeypatch.setattr(
        trainer, "HybridLoss", lambda *args, **how: seen.append(args[3]) or loss(*args, **how)
    )
    history = train(tiny_params(epochs=1, class_weights=kind))[1]
    counts = build_cache(load_dataset("data/tiny"), "train").pixel_counts
    np.testing.assert_array_equal(seen[0], class_weights(counts, kind))
    assert np.isfinite(history["train_loss"]).all()


def test_scales_in_the_wrong_order_are_refused(tiny_root, tiny_params):
    packed = build_cache(load_dataset("data/tiny"), "train")
    with pytest.raises(ParameterError, match=r"scale_min = 2\.0 is larger than scale_max = 1\.5"):
        geometry(packed, tiny_params(scale_min=2.0))


@pytest.mark.slow
def test_validation_masks_without_a_label_still_leave_a_model(tiny_root, tiny_params):
    from PIL import Image

    for path in (tiny_root / "data" / "tiny" / "val" / "masks").iterdir():
        Image.fromarray(np.full((40, 56), 255, np.uint8)).save(path)
    run, history = train(tiny_params(epochs=1))
    assert history["val_miou"].isna().all()
    assert run.best_checkpoint.exists()


@pytest.mark.slow
def test_a_frozen_encoder_stays_as_it_is(tiny_root, tiny_params):
    params = tiny_params(epochs=2, freeze_epochs=1)
    model, seen = new_model(params), []

    def look(_):
        seen.append(load_checkpoint(Run(Run.folder(params.run)).last_checkpoint)[0].state_dict())

    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(params, model, look)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), (
        "fit trains a copy"
    )
    encoder = [name for name in before if name.startswith("net.encoder.")]
    assert all(torch.equal(before[name], seen[0][name]) for name in encoder)
    assert not all(torch.equal(before[name], seen[0][name]) for name in before)
    assert not any(
        torch.equal(seen[0][name], seen[1][name]) for name in encoder if name.endswith("conv.weight")
    )


@pytest.mark.slow
def test_the_averaged_weights_are_validated_and_kept(tiny_root, tiny_params):
    run, history = train(tiny_params(epochs=3, ema_decay=0.5))
    best, facts = load_checkpoint(run.best_checkpoint)
    last, extra = load_checkpoint(run.last_checkpoint)
    assert facts["val_miou"] == history["val_miou"].max()
    if facts["epoch"] == 3:
        assert all(torch.equal(extra["average"][name], value) for name, value in best.state_dict().items())
    assert not torch.equal(
        extra["average"]["net.segmentation_head.0.weight"],
        last.state_dict()["net.segmentation_head.0.weight"],
    )


@pytest.mark.slow
def test_training_stops_when_nothing_gets_better(tiny_root, tiny_params):
    # A rate too small to change a prediction: the first epoch stays the best.
    params = tiny_params(epochs=9, learning_rate=1e-12, patience=2)
    history = train(params)[1]
    assert history["best"].tolist() == [True, False, False]
    again = train(tiny_params(epochs=9, learning_rate=1e-12, patience=2, resume=True))[1]
    assert len(again) == 3


@pytest.mark.slow
def test_micro_batches_give_the_gradient_of_the_batch(tiny_root, tiny_params):
    """With normalisation asleep and cross-entropy alone, where the parts' sum is exact."""
    gradients = {}
    for micro_batch in (6, 3, 2):
        params = tiny_params(batch_size=6, micro_batch=micro_batch, dice_weight=0.0)
        steps = one_step(params)
        gradients[micro_batch] = [weight.grad.clone() for weight in steps.model.parameters()]
    for micro_batch in (3, 2):
        for mine, whole in zip(gradients[micro_batch], gradients[6], strict=True):
            assert (mine - whole).norm() <= 1e-3 * whole.norm() + 1e-7


def one_step(params):
    """A trainer that has computed the gradient of its first batch; every pixel scored, normalisation in eval mode."""
    dataset = load_dataset(params.dataset)
    splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
    model = new_model(params)
    plan = plan_training(params, model, *splits)
    job = trainer.Trainer(start_run(params), model, *splits, params, plan, World())
    job._wake(1)
    job.model.eval()
    job.geometry = Geometry((32, 32), flip=0, scale=(1, 1), rotation=0)
    batch = next(training_batches(splits[0], job.geometry, Colour(0, 0, 0), params.batch_size, 0, 1))
    batch.masks.masked_fill_(batch.masks == 255, 0)
    job._gradient(batch, len(batch.index))
    return job


class Hungry(torch.nn.Module):
    """A model that runs out of memory with more than so many images."""

    def __init__(self, model, images, error=torch.OutOfMemoryError):
        super().__init__()
        self.inner, self.images, self.error = model, images, error
        model.net.encoder.register_forward_pre_hook(self.weigh)

    def weigh(self, _, inputs):
        if len(inputs[0]) > self.images:
            raise self.error("cannot allocate memory, pretended")


@pytest.mark.slow
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_micro_batch_and_goes_on(tiny_root, tiny_params, capsys, error):
    params = tiny_params(
        epochs=2, batch_size=6, precision="fp32", memory_format="contiguous", micro_batch=6, compile="off"
    )
    model = new_model(params)
    Hungry(model, 2, error)
    run, history = train(params, model)
    assert history["micro_batch"].tolist() == [2, 2]
    assert np.isfinite(history["train_loss"]).all()
    assert len(pd.read_csv(run.steps)) == 2, "the batch is still one step"
    text = "".join(capsys.readouterr())
    assert "Out of memory with 6 images at a time: going on with 3" in text
    assert "going on with 2" in text


def test_out_of_memory_with_a_single_image_says_what_to_do(tiny_root, tiny_params):
    params = tiny_params(precision="fp32", memory_format="contiguous", micro_batch=3, compile="off")
    model = new_model(params)
    Hungry(model, 0)
    with pytest.raises(
        trainer.OutOfMemoryError, match=r"out of memory with 1 images of 32x32 pixels.*crop_height"
    ):
        train(params, model)


def test_other_runtime_errors_are_not_taken_for_a_lack_of_memory(tiny_root, tiny_params):
    params = tiny_params(precision="fp32", memory_format="contiguous", micro_batch=3, compile="off")
    model = new_model(params)

    def fail(*_):
        raise RuntimeError("something else")

    model.net.encoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        train(params, model)


def test_moments_are_there_before_the_first_batch_and_change_no_step(tiny_root, tiny_params):
    """So that a lack of memory for them shows where a batch can be made smaller."""
    params = tiny_params(encoder_lr_factor=0.5)
    ours, plain = new_model(params), new_model(params)
    optimizer = make_optimizer(ours, params)
    weights = list(ours.parameters())
    assert all(set(optimizer.state[w]) == {"step", "exp_avg", "exp_avg_sq"} for w in weights)
    pairs = dict(zip(weights, plain.parameters(), strict=True))
    groups = [g | {"params": [pairs[w] for w in g["params"]]} for g in optimizer.param_groups]
    usual = torch.optim.AdamW(groups)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        for mine, theirs in pairs.items():
            mine.grad = torch.randn(mine.shape, generator=random)
            theirs.grad = mine.grad.clone()
        optimizer.step()
        usual.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs.items())
    assert {name: value for w in weights[:1] for name, value in optimizer.state[w].items()}["step"] == 3


@pytest.mark.slow
def test_no_micro_batch_is_a_single_image_where_that_cannot_be_trained(tiny_root, tiny_params):
    """DeepLabV3 normalises averages over whole images."""
    how = {"architecture": "DeepLabV3", "encoder": "resnet18", "epochs": 1}
    assert np.isfinite(train(tiny_params(run="three", micro_batch=2, **how))[1]["train_loss"]).all()
    seen = []
    params = tiny_params(
        run="others",
        micro_batch=2,
        crop_height=64,
        crop_width=64,
        epochs=1,
        memory_format="contiguous",
        compile="off",
    )
    model = new_model(params)
    model.net.encoder.register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0])) if module.training else None
    )
    train(params, model)
    assert [n for n in seen if n > 1] == [2, 2], "others never take more than asked for"
    assert seen.count(1) >= 2
    with pytest.raises(
        ModelError, match="DeepLabV3 cannot be trained on one image of 32x32 pixels at a time"
    ):
        train(tiny_params(run="one", micro_batch=1, **how))


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_told_from_the_loss(tiny_root, tiny_params):
    params = tiny_params(precision="fp32", memory_format="contiguous", micro_batch=3, compile="off")
    model = new_model(params)
    model.net.segmentation_head.register_full_backward_hook(
        lambda _, grads, __: tuple(g * float("inf") for g in grads)
    )
    with pytest.raises(NonFiniteLossError, match=r"the gradient's norm is (nan|inf) in epoch 1, step 1,"):
        train(params, model)


def test_a_resumed_optimizer_computes_as_this_machine_does(tiny_root, tiny_params):
    """Checkpoints tell how the machine that wrote them took its steps."""
    params = tiny_params(epochs=1)
    run, _ = train(params)
    model, extra = load_checkpoint(run.last_checkpoint)
    for group in extra["optimizer"]["param_groups"]:
        group["fused"] = None
    save_checkpoint(run.last_checkpoint, model, **extra)
    dataset = load_dataset(params.dataset)
    splits = build_cache(dataset, "train"), build_cache(dataset, "val", original_masks=True)
    plan = plan_training(params, new_model(params), *splits)
    job = trainer.Trainer(run, new_model(params), *splits, params, plan, World())
    job.resume()
    assert [group["fused"] for group in job.optimizer.param_groups] == [True] * len(
        job.optimizer.param_groups
    )
    job.train_epoch(1, lambda _: None)


@pytest.mark.slow
def test_steps_that_the_scaler_leaves_out_are_counted_and_no_error(tiny_root, tiny_params, monkeypatch):
    class Scaler:
        """Finds the first step's gradient infinite, as a real one does with too large a scale."""

        def __init__(self, enabled):
            self.factor, self.seen = 8.0, 0

        def is_enabled(self):
            return True

        def scale(self, loss):
            return loss

        def unscale_(self, optimizer):
            self.seen += 1
            if self.seen == 1:
                optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))

        def get_scale(self):
            return self.factor

        def step(self, optimizer):
            if self.seen > 1:
                optimizer.step()

        def update(self):
            self.factor = 4.0

        def state_dict(self):
            return {}

    monkeypatch.setattr(trainer.torch.amp, "GradScaler", Scaler)
    history = train(tiny_params(epochs=2))[1]
    assert history["skipped_steps"].tolist() == [1, 0]

    class Hopeless(Scaler):
        def step(self, optimizer):
            pass

        def update(self):
            self.factor /= 2

    monkeypatch.setattr(trainer.torch.amp, "GradScaler", Hopeless)
    with pytest.raises(
        NonFiniteLossError,
        match=r"no gradient was finite in the last 25 steps up to epoch 13, step 1 \(samples t0\d, t",
    ):
        train(tiny_params(run="hopeless", epochs=20))
    assert load_checkpoint(Run.open("hopeless").last_checkpoint)[1]["epoch"] == 12
