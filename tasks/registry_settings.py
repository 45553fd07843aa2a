"""What ``[mlflow]`` in nightwarden.toml may say; apart from ``tracking``, which is slow to import."""

from pathlib import Path
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
        if is_server and "@" in self.tracking_uri.get_secret_value():  # it stands in messages
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
        if self.artifacts and "://" not in self.artifacts and self.artifacts[0] != "/":
            message = (
                "artifacts must be an absolute path or an address such as s3://bucket/models, as "
                f"each machine has folders of its own; got {self.artifacts}"
            )
            raise ValueError(message)
        return self

    @property
    def location(self) -> str | None:
        """Address of the folder or bucket of models; none where the MLflow server chooses it."""
        if self.artifacts is None or "://" in self.artifacts:
            return self.artifacts
        return Path(self.artifacts).as_uri()

    def describe(self) -> str:
        """Name the shared store for messages, without what may be secret."""
        address = urlsplit(self.tracking_uri.get_secret_value() if self.tracking_uri else "")
        if address.scheme in ("http", "https"):
            return f"{address.scheme}://{address.netloc}"
        return "the database of [mlflow] tracking_uri"
