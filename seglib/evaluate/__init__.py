"""Predictions at original resolution, every score of a split, baselines, and two runs beside each other.

Files: predict (a model, or another tool's files -> predictions), evaluation (every score, written and read,
and saved predictions), baselines, compare.
"""

from seglib.evaluate.baselines import compare_with_baselines
from seglib.evaluate.compare import compare_runs, comparison_sentence, write_comparison
from seglib.evaluate.evaluation import (
    Evaluation, changed_since_training, check_as_scored, interval_sentence, open_evaluation, predicted_pairs,
    read_ids, read_layers, save_ids, saved_prediction, trained_on,
)  # fmt: skip
from seglib.evaluate.predict import evaluate_predictions, evaluate_run, predict, scoring_plan

__all__ = [
    "Evaluation", "changed_since_training", "check_as_scored", "compare_runs", "compare_with_baselines",
    "comparison_sentence", "evaluate_predictions", "evaluate_run", "interval_sentence", "open_evaluation",
    "predict", "predicted_pairs", "read_ids", "read_layers", "save_ids", "saved_prediction", "scoring_plan",
    "trained_on", "write_comparison",
]  # fmt: skip
