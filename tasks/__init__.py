"""One step of the night each: functions with plain inputs and outputs, wrapped thinly as Prefect tasks.

Belongs here: features, tensors, fitting, scoring, explaining, tracking; this is the only place where
frames become tensors. Does not: SQL (``warehouse``), network definitions (``models``), the order of
steps and the reading of settings (``flows``).
"""
