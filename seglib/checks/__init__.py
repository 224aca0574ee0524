"""What is wrong with a dataset before anybody trains on it.

check: the pass over all files, the conclusion, what is written; findings.csv: severities, suggestions.
class_balance: shares, and the class weights of 02; image_quality: outliers, and the degradations of 04;
masks: shifted masks and masks of another image; reading: what was misread; duplicates and splits: whether training has seen the test.
"""

from seglib.checks.check import (
    CheckResult, apart, check_dataset, conclusion, divide_train, examples, require_sound, split_comparison,
    suspect_masks, write,
)
from seglib.checks.class_balance import class_weights, weight_table
from seglib.checks.image_quality import APART, Reference, degradation, qualities
from seglib.checks.masks import correlate_shifts, shift_words
from seglib.checks.reading import draft_range
from seglib.checks.splits import suggest_split

__all__ = [
    "APART", "CheckResult", "Reference", "apart", "check_dataset",
    "class_weights", "conclusion", "correlate_shifts", "degradation", "divide_train",
    "draft_range", "examples", "qualities", "require_sound", "shift_words", "split_comparison", "suggest_split", "suspect_masks", "weight_table", "write",
]
