"""train."""

from seglib.train.batches import scoring_batches
from seglib.train.device import make_plan
from seglib.train.loader import CachedSplit, build_cache
from seglib.train.machine import Machine
from seglib.train.model import Segmenter, load_checkpoint
from seglib.train.plans import DevicePlan

__all__ = [
    "CachedSplit",
    "DevicePlan",
    "Machine",
    "Segmenter",
    "build_cache",
    "load_checkpoint",
    "make_plan",
    "scoring_batches",
]
