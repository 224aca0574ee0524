"""`fit` on a tiny dataset: its files, its schedule, and above all that a resumed run equals an uninterrupted one."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import prepared, raised, trained
from PIL import Image
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex

from seglib import checks, train
from seglib.data import DatasetError, load_dataset, read_pair
from seglib.params import ParameterError
from seglib.runs import Run, lock, read_json
from seglib.train import trainer
from seglib.train.trainer import make_optimizer, moving_average, rate

HISTORY = "epoch train_loss train_ce train_dice train_focal val_loss val_miou val_pixel_accuracy grad_norm "
HISTORY += "best learning_rate skipped_steps micro_batch images_per_second seconds seconds_left "
HISTORY += "val_iou_sky val_iou_road val_iou_car"
STEPS = ["epoch", "step", "loss", "ce", "dice", "focal", "grad_norm", "learning_rate", "images_per_second"]
TIMES = ["seconds", "seconds_left", "images_per_second"]
PLAIN = {"memory_format": "contiguous", "accelerate": False}
PARTS = {"batch_size": 4, "micro_batch": 2, "ema_decay": 0.9}
NOT_FINITE = ("loss", "nan.* norm nan"), ("gradient", r"\d\.\d+ .* norm (nan|inf)")


def new_model(params, seed: int = 0):
    return train.build_model(params.model_copy(update={"seed": seed}), load_dataset(params.dataset).classes)


def stop(history):
    """End a training after its second epoch."""
    if len(history) == 2:
        raise KeyboardInterrupt


def assert_same(run: Run, other: Run) -> None:
    for name in ("history", "steps"):
        tables = (pd.read_csv(getattr(r, name)).drop(columns=TIMES, errors="ignore") for r in (run, other))
        pd.testing.assert_frame_equal(*tables, rtol=1e-12)
    for name in ("best_checkpoint", "last_checkpoint"):
        ours, theirs = (train.load_checkpoint(getattr(r, name))[0].state_dict() for r in (run, other))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # of torch's own SequentialLR, in 2.8
def test_rate_is_that_of_torch_s_schedulers():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 10, total_iters=9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90, 0.01)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [10])
    for step in range(100):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate(step, 100, 10)), step
        optimizer.step()
        schedule.step()
    assert rate(0, 1, 0) == 1
    assert rate(0, 5, 8) == pytest.approx(1 / 8)  # a warm-up longer than the training


def test_optimizer_holds_every_parameter_once_and_decays_matrices_alone(tiny_root, tiny_params):
    params = tiny_params(encoder_lr_factor=0.1, weight_decay=0.02)
    model = new_model(params)
    groups = make_optimizer(model, params).param_groups
    held = [(id(w), group["lr"], group["weight_decay"]) for group in groups for w in group["params"]]
    encoder = {id(w) for w in model.net.encoder.parameters()}
    rates = {w: params.learning_rate * (0.1 if id(w) in encoder else 1) for w in model.parameters()}
    assert sorted(held) == sorted((id(w), lr, 0.02 if w.ndim > 1 else 0) for w, lr in rates.items())


def test_the_average_is_that_of_weights_and_statistics():
    """Against its definition, written out in float64; the first update takes the weights as they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    average, expected = moving_average(model, 0.6), {}
    for updates in range(12):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value))
        model(torch.randn(2, 3, 8, 8))  # moves the statistics and counts the batch
        now = {name: value.double() for name, value in model.state_dict().items()}
        keep = min(0.6, (1 + updates) / (10 + updates)) if updates else 0
        expected = {name: keep * expected.get(name, 0) + (1 - keep) * now[name] for name in now}
        average.update_parameters(model)
    expected["1.num_batches_tracked"] = torch.tensor(12.0, dtype=torch.float64)
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_run_follows_its_actions_and_no_others(tiny_root, tiny_params):
    path, how = tiny_root / "actions.yaml", {"actions": "actions.yaml", "epochs": 1}
    path.write_text("exclude: [t01]\naugment: [{name: blur, value: 0.5}]\n")
    params = train.open_dataset(tiny_params(**how))[0]
    assert params.blur == 0.5
    assert json.loads(trained(params)[0].params.read_text()) == params.model_dump()
    path.write_text("exclude: [t02]\n")
    with pytest.raises(ParameterError, match=r"actions\.yaml is not artifacts/runs/tiny/actions\.yaml"):
        train.start_run(tiny_params(resume=True, **how))


def test_fit_writes_history_and_checkpoints_and_scores_its_predictions(run):
    history = pd.read_csv(run.history)
    assert set(history.columns) == set(HISTORY.split())
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert np.isfinite(history.drop(columns="best").to_numpy(float)).all()
    terms = history[["train_ce", "train_dice", "train_focal"]].sum(axis=1)
    np.testing.assert_allclose(terms, history["train_loss"], rtol=1e-5)  # their weights are 1
    assert history["best"].tolist() == [True, *(history["val_miou"].cummax().diff().iloc[1:] > 0)]
    best = train.load_checkpoint(run.best_checkpoint)[1]
    assert best["epoch"] == history["epoch"][history["val_miou"].idxmax()]
    of_classes = history[["val_iou_sky", "val_iou_road", "val_iou_car"]].mean(axis=1)
    np.testing.assert_allclose(of_classes, history["val_miou"])
    steps = pd.read_csv(run.steps)
    assert list(steps) == STEPS
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert steps["epoch"].tolist() == [1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(steps.groupby("epoch")["loss"].mean(), history["train_loss"], rtol=1e-5)
    assert (steps[["grad_norm", "learning_rate", "images_per_second"]] > 0).all().all()
    assert not [left for left in run.path.rglob(".*") if left.name != ".training"], "temporary files are left"
    dataset = load_dataset("data/tiny")
    model, facts = train.load_checkpoint(run.best_checkpoint, dataset.classes)
    reference = MulticlassJaccardIndex(3, ignore_index=255)
    for sample in dataset.split("val").itertuples():
        image, mask = (torch.tensor(array)[None] for array in read_pair(dataset, sample))
        reference.update(model.logits(image.permute(0, 3, 1, 2)).argmax(1), mask.long())
    assert facts["val_miou"] == pytest.approx(reference.compute().item(), abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"workers": 2, "cache": "none"}, PARTS], ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_root, tiny_params, how):
    """Nor can it be begun again over its epochs, by starting the notebook's cell once more."""
    straight, _ = trained(tiny_params(run="straight", epochs=4, **how))
    params = tiny_params(run="cut", epochs=4, **how)
    (splits, model, plan), run = prepared(params), train.start_run(params)
    given = run, model, *splits, params, plan
    with pytest.raises(KeyboardInterrupt):
        train.fit(*given, stop)
    raised(FileExistsError, r"'cut' has trained some epochs already.*resume = True", train.fit, *given)
    resumed = params.model_copy(update={"resume": True})
    history = trained(resumed, new_model(params, seed=99))[1]
    assert_same(run, straight)
    pd.testing.assert_frame_equal(trained(resumed)[1], history)  # nothing is left to do


def test_resuming_at_once_or_with_other_parameters_or_data_is_refused(run, trained_root, tiny_params):
    with lock(run.path / ".training", "training"), pytest.raises(TimeoutError):
        train.start_run(tiny_params(resume=True))
    match = r"'tiny' was started with other parameters \(epochs: 3 -> 5, seed: 0 -> 1\)"
    raised(ParameterError, match, train.start_run, tiny_params(epochs=5, seed=1, resume=True))
    assert read_json(run.params)["epochs"] == 3
    folder = trained_root / "data" / "tiny" / "train" / "images"
    shutil.copy(folder / "t01.png", folder / "t02.png")
    with pytest.raises(DatasetError, match=r"the data changed since run 'tiny' was begun \(train: .*Restore"):
        trained(tiny_params(resume=True))


def test_a_run_may_go_on_on_another_machine(tiny_root, tiny_params):
    """How it is computed may change; what it learns from may not. A micro-batch that fitted before is not exceeded."""
    with pytest.raises(KeyboardInterrupt):
        trained(tiny_params(micro_batch=2), on_epoch=stop)
    changed = {"micro_batch": 0, "precision": "bf16", "threads": 1, "workers": 1, "cache": "disk", **PLAIN}
    run, history = trained(tiny_params(resume=True, **changed))
    assert history["micro_batch"].tolist() == [2, 2, 2]
    assert read_json(run.params)["precision"] == "bf16"
    assert read_json(run.path / "environment.json")["plan"]["precision"] == "bf16"


@pytest.mark.parametrize(("part", "found"), NOT_FINITE)
def test_a_loss_or_gradient_that_is_not_finite_names_the_samples(tiny_root, tiny_params, part, found):
    params = tiny_params(micro_batch=3, **PLAIN)
    model = new_model(params)
    head = model.net.segmentation_head
    if part == "loss":
        nn.init.constant_(next(head.parameters()), math.nan)
    else:
        head.register_full_backward_hook(lambda _, grads, __: tuple(g * math.inf for g in grads))
    match = rf"the loss is {found} in epoch 1, step 1, on the samples t0\d, t0\d, t0\d\. Try a lower"
    raised(FloatingPointError, match, trained, params, model)
    assert not Run(Run.folder("tiny")).last_checkpoint.exists()


def test_fit_leaves_the_process_as_it_was(tiny_root, tiny_params, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.append(count))
    params, threads = tiny_params(epochs=1), []
    model, before = new_model(params), torch.get_num_threads()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    trained(params, model, threads=before + 1)
    assert threads[-2:] == [before + 1, before]
    assert torch.backends.cudnn.benchmark
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items()), "not a copy"


def test_class_weights_reach_the_loss(tiny_root, tiny_params):
    params = tiny_params(class_weights="median_frequency")
    splits, model, _ = prepared(params)
    job = trainer.Trainer(model, *splits, params, train.DevicePlan())
    expected = torch.tensor(checks.class_weights(splits[0].pixel_counts, "median_frequency")).float()
    assert torch.equal(job.loss.class_weights, expected)
    assert torch.equal(job.scoring_loss.class_weights, expected)


def test_the_averaged_weights_are_validated_and_kept(tiny_root, tiny_params):
    run = trained(tiny_params(ema_decay=0.5, epochs=1))[0]
    best = train.load_checkpoint(run.best_checkpoint)[0]
    last, extra = train.load_checkpoint(run.last_checkpoint)
    assert all(torch.equal(extra["average"][f"module.{name}"], v) for name, v in best.state_dict().items())
    head = "net.segmentation_head.0.weight"
    assert not torch.equal(best.state_dict()[head], last.state_dict()[head])


def test_training_stops_when_nothing_gets_better(tiny_root, tiny_params):
    how = {"epochs": 9, "learning_rate": 1e-12, "patience": 2}  # too small a rate to change a prediction
    assert trained(tiny_params(**how))[1]["best"].tolist() == [True, False, False]
    assert len(trained(tiny_params(resume=True, **how))[1]) == 3


def test_micro_batches_give_the_gradient_of_the_batch(tiny_root, tiny_params):
    """With normalization in eval mode and without Dice, where the parts' sum is exact, however few of their pixels are valid."""
    gradients, folder = [], tiny_root / "data" / "tiny" / "train" / "masks"
    for name in ("t00", "t03"):
        Image.fromarray(np.full((40, 56), 255, np.uint8)).save(folder / f"{name}.png")
    for micro_batch in (6, 3, 2):
        params = tiny_params(batch_size=6, micro_batch=micro_batch, dice_weight=0.0, **PLAIN)
        splits, model, plan = prepared(params)
        job = trainer.Trainer(model, *splits, params, plan)
        job.model.train = partial(nn.Module.train, job.model, False)
        job.optimizer.step = lambda: None
        job.train_epoch(1, lambda _: None)
        gradients.append([weight.grad for weight in job.model.parameters()])
    for parts in gradients[1:]:
        for mine, whole in zip(parts, gradients[0], strict=True):
            assert (mine - whole).norm() <= 1e-2 * whole.norm() + 1e-6


@pytest.mark.slow
def test_no_micro_batch_is_a_single_image_where_that_cannot_be_trained(tiny_root, tiny_params):
    """DeepLabV3 normalizes averages over whole images."""
    how = {"architecture": "DeepLabV3", "encoder": "resnet18", "epochs": 1}
    assert np.isfinite(trained(tiny_params(micro_batch=2, **how))[1]["train_loss"]).all()


def test_steps_that_the_scaler_leaves_out_are_counted_and_no_error(tiny_root, tiny_params, monkeypatch):
    seen = []

    class Scaler(torch.amp.GradScaler):
        """Finds the first step's gradient infinite, as happens with too large a scale."""

        def unscale_(self, optimizer):
            if not seen:
                optimizer.param_groups[0]["params"][0].grad.fill_(math.inf)
            seen.append(optimizer)
            super().unscale_(optimizer)

    monkeypatch.setattr(trainer.torch.amp, "GradScaler", lambda enabled: Scaler("cpu", init_scale=8.0))
    history = trained(tiny_params(epochs=2, ema_decay=0.5, **PLAIN))[1]
    assert history["skipped_steps"].tolist() == [1, 0]
    assert np.isfinite(history["val_loss"]).all()
