"""Data code: the lake, its schema, its rules and the review queue. The data itself lives elsewhere.

Belongs here: everything that knows a table, a file format or SQL. Does not: arithmetic of features or
detectors (``tasks``, ``models``), the order of steps (``flows``), Prefect, PyTorch or MLflow.
"""
