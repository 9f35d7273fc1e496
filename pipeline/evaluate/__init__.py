"""Evaluation: measures one by one, ground truth files, and the run that puts them together."""

from pipeline.evaluate.evaluator import ModelEvaluator, evaluate_model
from pipeline.evaluate.report import EvaluationResult
from pipeline.evaluate.scores import evaluate_rankings

__all__ = ["EvaluationResult", "ModelEvaluator", "evaluate_model", "evaluate_rankings"]
