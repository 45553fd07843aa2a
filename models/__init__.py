"""Detectors and what turns their scores into decisions: tensors in, tensors out.

Belongs here: PyTorch. Does not: data frames, SQL, MLflow, Prefect; files only in ``persistence``.
A higher score is more anomalous, always.
"""
