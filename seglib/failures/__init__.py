"""Which images fail, why, and what to do about it.

Files: find (thresholds, the failures), error_types (where IoU was lost), analyse (one look at every image of a
split, and the failures folder), causes, label_errors and its evidence, novelty, trust (does confidence warn, was
it right?), propose (actions.yaml), verdicts and relabel (what people decide), new_images (and which to label next).
"""

from seglib.failures.analyse import Analysis, analyse, beside_nearest, sequence_means, suspect_region
from seglib.failures.causes import CAUSES, summarise_causes
from seglib.failures.error_types import ERROR_KINDS, error_costs
from seglib.failures.find import Threshold, class_view, conclusion, cutoff, describe
from seglib.failures.find import failing, find_failures, read_threshold
from seglib.failures.label_errors import named
from seglib.failures.new_images import label_next, predict_folder
from seglib.failures.propose import propose_actions, write_actions
from seglib.failures.relabel import export_for_relabelling, import_corrections, to_relabel
from seglib.failures.trust import warnings_of, was_it_right
from seglib.failures.verdicts import VERDICTS, VerdictBook

__all__ = [
    "CAUSES", "ERROR_KINDS", "VERDICTS", "Analysis", "Threshold", "VerdictBook", "analyse", "beside_nearest",
    "class_view", "conclusion", "cutoff", "describe", "error_costs", "export_for_relabelling", "failing",
    "find_failures", "import_corrections", "label_next", "named", "predict_folder",
    "propose_actions", "read_threshold", "sequence_means", "summarise_causes", "suspect_region", "to_relabel",
    "warnings_of", "was_it_right", "write_actions",
]  # fmt: skip
