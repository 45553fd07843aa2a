"""The registered model as MLflow's generic Python model; logged as code, so that nothing is pickled.

``mlflow.pyfunc.load_model("models:/nightwarden@champion").predict(frame)`` takes the features by name
and gives the score and each member's calibrated score.
"""

from pathlib import Path

import pandas as pd
import polars as pl
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from tasks.tracking import Bundle, score_frame


class NightwardenModel(PythonModel):
    """Loads the bundle and scores feature rows."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the bundle from the model's files."""
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 (MLflow's signature)
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,  # noqa: ARG002 (MLflow's signature)
    ) -> pd.DataFrame:
        """Score feature rows, in row order."""
        return score_frame(self.bundle, pl.from_pandas(model_input)).to_pandas()


set_model(NightwardenModel())
