"""What ``[mlflow]`` in nightwarden.toml may say; apart from ``tracking``, which is slow to import."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class MlflowSettings(BaseModel):
    """Where training runs and models are kept; by default in the warehouse folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tracking_uri: SecretStr | None = Field(
        None, description="An MLflow server, or a database, that several machines share."
    )
    artifacts: str | None = Field(
        None, description="Where models lie; by default where the MLflow server puts them."
    )

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        if self.tracking_uri is None:
            if self.artifacts is not None:
                message = "mlflow.artifacts needs tracking_uri, which is not set"
                raise ValueError(message)
            return self
        address = urlsplit(self.tracking_uri.get_secret_value())
        is_server = address.scheme in ("http", "https")
        if is_server and "@" in address.netloc:  # MLflow's errors show the whole address
            message = (
                "tracking_uri must not hold a user or password; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in the environment"
            )
            raise ValueError(message)
        if not (is_server or self.artifacts):
            message = (
                "a tracking_uri that is no server (http://, https://) needs artifacts, a folder "
                "or s3://... that every machine reaches"
            )
            raise ValueError(message)
        return self
