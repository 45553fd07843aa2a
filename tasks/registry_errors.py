"""What goes wrong with a shared MLflow, said in a sentence: its own words may hold its address."""

from collections.abc import Iterator
from contextlib import contextmanager

from warehouse.errors import BusyError, ModelMissingError, UserError, WarehouseError
from warehouse.postgresql import will_last

PASSING = (408, 409, 429)
"""Statuses below 500 that may pass when the request is made again."""
REFUSED = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "NoSuchBucket",
    "Permission denied",
    "SignatureDoesNotMatch",
    "Unable to locate credentials",
)
"""What an object store or a folder says that a person must mend."""


@contextmanager
def said_plainly(where: str) -> Iterator[None]:
    """Raise an error of the block anew, in a sentence that names the store and no secret.

    Raises:
        BusyError: if the store does not answer, so that trying again may help.
        ModelMissingError: if it has no such version, run or file.
        WarehouseError: if it refuses, or a package for it is missing.
    """
    try:
        yield
    except (UserError, TypeError, AttributeError):  # said already, or a mistake of the code
        raise
    except ImportError as error:
        message = (
            f"{where} needs the package {error.name}, which is not installed; an object store "
            "needs pip install 'nightwarden[s3]'"
        )
        raise WarehouseError(message) from None
    except Exception as error:  # noqa: BLE001 (MLflow lets through whatever its drivers raise)
        raise _explain(error, where) from None


def _explain(error: Exception, where: str) -> UserError:
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException

    code, status = type(error).__name__, 503
    if isinstance(error, MlflowException):
        code = error.error_code
        status = ERROR_CODE_TO_HTTP_STATUS.get(code, 500)
    if code == "RESOURCE_DOES_NOT_EXIST":
        message = (
            f"{where} must have the version, its run and its files, and lacks one; restore it "
            "from a backup, or train again"
        )
        return ModelMissingError(message)
    text = str(error)
    is_refused = will_last(text) or any(phrase in text for phrase in REFUSED)
    if is_refused or not (status >= 500 or status in PASSING):
        message = (
            f"{where}, and the store of its artifacts, must let this user in, and refused "
            f"({code}); check [mlflow] tracking_uri and artifacts, name, password and rights"
        )
        return WarehouseError(message)
    message = (
        f"{where}, and the store of its artifacts, must answer, and did not ({code}); see that "
        "they run and that this machine reaches them, then run this again"
    )
    return BusyError(message)


def require_database(address: str) -> None:
    """Connect once: MLflow would try for minutes, and print the driver's words each time.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: if there is no way in.
    """
    from sqlalchemy import create_engine

    engine = create_engine(address)
    try:
        engine.connect().close()
    finally:
        engine.dispose()
