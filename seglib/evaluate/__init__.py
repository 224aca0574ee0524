"""Predictions at original resolution, every score of a split, baselines, and two runs beside each other.

Files: predict (a model, or another tool's files -> predictions), evaluation (every score, written and read,
and saved predictions), baselines, compare.
"""

from seglib.evaluate.compare import compare_runs, comparison_sentence, write_comparison
from seglib.evaluate.evaluation import (
    Evaluation, changed_since_training, check_as_scored, open_evaluation, predicted_pairs,
    read_ids, read_layers, save_ids, saved_prediction, trained_on, units_of,
)  # fmt: skip
from seglib.evaluate.predict import evaluate_predictions, evaluate_run, predict, scoring_plan

__all__ = [
    "Evaluation", "changed_since_training", "check_as_scored", "compare_runs", "comparison_sentence",
    "evaluate_predictions", "evaluate_run", "open_evaluation", "predict", "predicted_pairs", "read_ids",
    "read_layers", "save_ids", "saved_prediction", "scoring_plan", "trained_on", "units_of",
    "write_comparison",
]  # fmt: skip
