"""Predictions at original resolution, every score of a split, baselines, and two runs beside each other.

Files: predict (a model, or another tool's files -> predictions), evaluation (every score, written and read,
and saved predictions), baselines, compare, predict_image (one image of any size), export (ONNX, safetensors).
"""

from seglib.evaluate.compare import compare_runs, comparison_sentence, write_comparison
from seglib.evaluate.evaluation import (
    Evaluation, changed_since_training, check_as_scored, open_evaluation, predicted_pairs,
    read_ids, read_layers, run_dataset, save_ids, saved_prediction, trained_on, units_of,
)  # fmt: skip
from seglib.evaluate.export import export_model
from seglib.evaluate.predict import evaluate_predictions, evaluate_run, predict, scoring_plan
from seglib.evaluate.predict_image import predict_image

__all__ = [
    "Evaluation", "changed_since_training", "check_as_scored", "compare_runs", "comparison_sentence",
    "evaluate_predictions", "evaluate_run", "export_model", "open_evaluation", "predict", "predict_image",
    "predicted_pairs", "read_ids", "read_layers", "run_dataset", "save_ids", "saved_prediction", "scoring_plan",
    "trained_on", "units_of", "write_comparison",
]  # fmt: skip
