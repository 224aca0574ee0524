"""Train a segmentation model: plan for the hardware, build the model, read batches, fit, in one process or several.

device: machine and plan; cpu: faster kernels; model: networks, weights, checkpoints; loader: the cache and its batches;
augment; loss, and counts as a metric; trainer: the steps; fitting: the whole training; worker: one of several processes.
"""

from seglib.train.cpu import accelerate
from seglib.train.device import DevicePlan, make_plan
from seglib.train.fitting import fit, open_dataset, plan_training, start_run
from seglib.train.loader import CachedSplit, augmented_examples, build_cache, open_splits, scoring_batches
from seglib.train.loss import ConfusionCounts, HybridLoss
from seglib.train.model import STRIDE, ModelError, ModelSpec, Segmenter, build_model, check_model, load_checkpoint
from seglib.train.trainer import DistributedContext

__all__ = [
    "STRIDE", "CachedSplit", "ConfusionCounts", "DevicePlan", "DistributedContext", "HybridLoss", "ModelError",
    "ModelSpec", "Segmenter", "accelerate", "augmented_examples", "build_cache", "build_model", "check_model", "fit",
    "load_checkpoint", "make_plan", "open_dataset", "open_splits", "plan_training", "scoring_batches", "start_run",
]
