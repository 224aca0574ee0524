"""Predictions at original resolution, every score of a split, baselines, and two runs beside each other.

Files: predict (a model, or another tool's files -> predictions), evaluation (the dataset of a run; every score, written
and read; baselines; saved predictions), compare, export (ONNX, safetensors).
"""

from seglib.evaluate.compare import compare_runs, comparison_sentence, list_runs, write_comparison
from seglib.evaluate.evaluation import Evaluation, check_as_scored, open_evaluation, read_ids, read_layers
from seglib.evaluate.evaluation import run_dataset, save_ids, saved_prediction, units_of
from seglib.evaluate.export import export_model
from seglib.evaluate.predict import ADAPTED, adapt_norm, adapted, changed_since_training, evaluate_predictions
from seglib.evaluate.predict import evaluate_run, predict, predict_image, scoring_plan, trained_on

__all__ = [
    "ADAPTED", "Evaluation", "adapt_norm", "adapted", "changed_since_training", "check_as_scored", "compare_runs", "comparison_sentence",
    "evaluate_predictions", "evaluate_run", "export_model", "list_runs", "open_evaluation", "predict", "predict_image",
    "read_ids", "read_layers", "run_dataset", "save_ids", "saved_prediction", "scoring_plan",
    "trained_on", "units_of", "write_comparison",
]  # fmt: skip
