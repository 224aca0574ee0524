"""checks."""

from seglib.checks.check import check_dataset, require_sound, verdict, write
from seglib.checks.class_balance import class_weights
from seglib.checks.degradation import KINDS, QUALITIES, QUALITY_OF, Reference, degradation, qualities
from seglib.checks.image_quality import APART

__all__ = [
    "APART",
    "KINDS",
    "QUALITIES",
    "QUALITY_OF",
    "Reference",
    "check_dataset",
    "class_weights",
    "degradation",
    "qualities",
    "require_sound",
    "verdict",
    "write",
]
