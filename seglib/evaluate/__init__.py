"""evaluate."""

from seglib.evaluate.compare import compare_runs, comparison_sentence, write_comparison
from seglib.evaluate.evaluation import Evaluation, evaluate_predictions, interval_sentence
from seglib.evaluate.predict import predict, scoring_plan
from seglib.evaluate.predictions import (
    changed_since_training,
    check_as_scored,
    predicted_pairs,
    read_ids,
    run_dataset,
    save_ids,
    saved_prediction,
    trained_on,
)

__all__ = [
    "Evaluation",
    "changed_since_training",
    "check_as_scored",
    "compare_runs",
    "comparison_sentence",
    "evaluate_predictions",
    "interval_sentence",
    "predict",
    "predicted_pairs",
    "read_ids",
    "run_dataset",
    "save_ids",
    "saved_prediction",
    "scoring_plan",
    "trained_on",
    "write_comparison",
]
