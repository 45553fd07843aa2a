"""The settings file: unknown keys and wrong values are named, the environment overrides."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from flows.settings import Settings
from warehouse.errors import SettingsError

TEXT = """
[source]
format = "csv"
path = "in/{date}.csv"

[source.columns]
transaction_id = "id"
occurred_at = "time"
account_id = "account"
merchant_id = "shop"
amount = "amount"

[queue]
capacity = 20
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "nightwarden.toml"
    file.write_text(TEXT)
    return file


def test_file_is_read_and_paths_are_relative_to_it(config):
    settings = Settings.read(config, {})
    assert settings.queue.capacity == 20
    assert settings.source.path == str(config.parent / "in" / "{date}.csv")
    assert settings.warehouse.path == config.parent / "warehouse-data"
    assert settings.pseudonym_key is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[queue]\ncapacty = 5", "unknown key queue.capacty; remove it or correct its spelling"),
        ("[monitor]\nx = 1", "unknown key monitor; remove it"),
        ("[source]\nformats = 'csv'", "unknown key source.formats; remove it"),
        ("[queue]\ncapacity = 0", r"queue.capacity: .*greater than or equal to 1 \(got 0\)"),
        (
            "[labels]\nmature_after_days = 3\n[source.label]\ncolumn = 'fraud'",
            "labels.mature_after_days must not be less than source.label.delay_days, 7.*got 3",
        ),
        ("[queue]\nthreshold = 'cost'", "threshold 'cost' needs review_cost"),
        ("[evaluate]\namount_bands = [5.0, 5.0]", "amount_bands must ascend"),
        ("[queue]\ncapacity = 'few'", r"queue.capacity: .*integer.* \(got 'few'\)"),
        ("[run]\ndevice = 'gpu'", r"run.device: .*'auto', 'cpu' or 'cuda' \(got 'gpu'\)"),
        ("[warehouse]\nmemory_limit = 'lots'", r"warehouse.memory_limit: .*\(got 'lots'\)"),
        ("[validation]\nmax_row_count_ratio = 1", "validation.max_row_count_ratio: .*greater"),
        ("[source]\ntime_zone = 'Berlin'", "source.time_zone: .*not 'Berlin'"),
    ],
)
def test_wrong_key_or_value_is_named(config, lines, message):
    section, _, line = lines.partition("\n")
    text = TEXT.replace(section, lines) if section in TEXT else f"{TEXT}\n{lines}\n"
    if line.startswith("capacity"):
        text = text.replace("capacity = 20\n", "")
    config.write_text(text)
    with pytest.raises(SettingsError, match=message):
        Settings.read(config, {})


def test_missing_key_is_named(config):
    config.write_text(TEXT.replace('amount = "amount"\n', ""))
    with pytest.raises(SettingsError, match=r"nightwarden.toml: source.columns.amount is missing"):
        Settings.read(config, {})


def test_missing_file_and_no_toml_say_what_to_do(config):
    with pytest.raises(SettingsError, match="make one with nightwarden init"):
        Settings.read(config.with_name("other.toml"), {})
    config.write_text("[source\n")
    with pytest.raises(SettingsError, match=r"is no valid TOML: .*line 1"):
        Settings.read(config, {})


def test_environment_overrides_the_file(config):
    environment = {
        "NIGHTWARDEN_QUEUE__CAPACITY": "50",
        "NIGHTWARDEN_RUN__DEVICE": "cpu",
        "NIGHTWARDEN_SOURCE__COLUMNS__AMOUNT": "sql: cents / 100",
        "NIGHTWARDEN_SOURCE__DROP": '["name"]',
        "NIGHTWARDEN_SOURCE_DSN": "host=db password=secret",
        "NIGHTWARDEN_PSEUDONYM_KEY": "0123456789abcdef",
        "UNRELATED": "1",
    }
    settings = Settings.read(config, environment)
    assert (settings.queue.capacity, settings.run.device) == (50, "cpu")
    assert settings.source.columns.amount == "sql: cents / 100"
    assert settings.source.drop == ("name",)
    assert settings.source.dsn.get_secret_value() == "host=db password=secret"
    assert settings.pseudonym_key.secret == b"0123456789abcdef"
    shown = repr(settings) + settings.model_dump_json()
    assert "password=secret" not in shown
    assert "0123456789abcdef" not in shown


def test_unknown_environment_key_is_refused(config):
    with pytest.raises(SettingsError, match=r"unknown key queue.capacty"):
        Settings.read(config, {"NIGHTWARDEN_QUEUE__CAPACTY": "50"})


def test_short_key_is_refused(config):
    with pytest.raises(SettingsError, match="16 to 64 bytes, got 5"):
        Settings.read(config, {"NIGHTWARDEN_PSEUDONYM_KEY": "short"})


def test_key_file_beside_the_settings_must_be_private(config):
    key = config.with_name("nightwarden.key")
    key.write_text("0123456789abcdef\n")
    key.chmod(0o644)
    with pytest.raises(SettingsError, match="run chmod 600"):
        Settings.read(config, {})
    key.chmod(0o600)
    assert Settings.read(config, {}).pseudonym_key.secret == b"0123456789abcdef"


def test_command_line_says_a_mistake_in_one_sentence_and_exits_with_2(config):
    config.write_text(TEXT + "\n[monitor]\n")
    command = "from flows.cli import main; main()"
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "-c", command, "status", "--from", "2026-01-01", "--to", "2026-01-02",
         "--config", str(config)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "unknown key monitor; remove it or correct its spelling" in done.stderr
    assert "Traceback" not in done.stderr


ADDRESSES = {
    "source.dsn": ("host=db password=hush", "NIGHTWARDEN_SOURCE_DSN"),
    "warehouse.catalog": ("postgresql://ada:hush@db/lake", "NIGHTWARDEN_WAREHOUSE__CATALOG"),
    "queue.database": ("postgresql://ada:hush@db/queue", "NIGHTWARDEN_QUEUE__DATABASE"),
    "mlflow.tracking_uri": (
        "postgresql://ada:hush@db/mlflow",
        "NIGHTWARDEN_MLFLOW__TRACKING_URI",
    ),
}


@pytest.mark.parametrize("key", ADDRESSES)
def test_password_in_the_file_is_refused_without_being_shown(config, key):
    (section, name), (address, variable) = key.split("."), ADDRESSES[key]
    line = f'{name} = "{address}"\n'
    text = config.read_text()
    head = f"[{section}]\n"
    config.write_text(text.replace(head, head + line) if head in text else text + head + line)
    with pytest.raises(
        SettingsError, match=f"{key} must not hold a password.*{variable}"
    ) as found:
        Settings.read(config, {})
    assert "hush" not in str(found.value)


def test_password_of_the_environment_is_in_no_text(config):
    environment = {variable: address for address, variable in ADDRESSES.values()}
    environment |= {
        "NIGHTWARDEN_WAREHOUSE__DATA": "shared",
        "NIGHTWARDEN_MLFLOW__ARTIFACTS": "s3://bucket/models",
    }
    settings = Settings.read(config, environment)
    assert settings.queue_address == "postgresql://ada:hush@db/queue"
    assert settings.warehouse.data == str(config.parent / "shared")
    context = settings.context()
    shown = repr(settings) + settings.model_dump_json() + repr(context) + str(context)
    assert "hush" not in shown


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WAREHOUSE__CATALOG", "mysql://ada:hush@db/lake", "catalog must be a URL"),
        ("WAREHOUSE__CATALOG", '["hush"]', "warehouse.catalog: "),
        ("WAREHOUSE__DATA", "s3://bucket/lake", "needs both catalog .* and data"),
        ("MLFLOW__TRACKING_URI", "https://ada:hush@host", "MLFLOW_TRACKING_PASSWORD"),
        ("MLFLOW__TRACKING_URI", "postgresql://ada:hush@db/mlflow", "needs artifacts"),
        ("MLFLOW__ARTIFACTS", "s3://bucket/models", "needs tracking_uri"),
    ],
)
def test_wrong_address_is_refused_without_its_password(config, variable, value, message):
    data = {"NIGHTWARDEN_WAREHOUSE__DATA": "shared"} if variable.endswith("CATALOG") else {}
    with pytest.raises(SettingsError, match=message) as found:
        Settings.read(config, {f"NIGHTWARDEN_{variable}": value, **data})
    assert "hush" not in str(found.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"NIGHTWARDEN_MLFLOW__TRACKING_URI": "postgresql://ada:hush@db/mlflow"},
        {"NIGHTWARDEN_MLFLOW__TRACKING_URI": "https://ada:hush@host"},
        {"NIGHTWARDEN_QUEUE": "postgresql://ada:hush@db/queue"},
        {"NIGHTWARDEN_QUEUE": "x", "NIGHTWARDEN_QUEUE__DATABASE": "postgresql://ada:hush@db/q"},
        {"NIGHTWARDEN_WAREHOUSE__CATALOG": "postgresql://ada:hush@db/lake"},
        {"NIGHTWARDEN_QUEUE__CAPACITY": "postgresql://ada:hush@db/queue"},
        {"NIGHTWARDEN_RUN__DATABASE": "postgresql://ada:hush@db/queue"},
    ],
)
def test_no_traceback_of_wrong_settings_tells_a_password(config, variables):
    """A flow's record holds the whole traceback, and the chain of errors with it."""
    with pytest.raises(SettingsError) as found:
        Settings.read(config, variables)
    told = "".join(traceback.format_exception(found.value))
    assert "hush" not in told + repr(found.value.__context__) + repr(found.value.__cause__)


def test_addresses_change_no_digest(config):
    embedded = Settings.read(config, {}).context()
    shared = Settings.read(
        config,
        {
            "NIGHTWARDEN_QUEUE__DATABASE": "postgresql://db/q",
            "NIGHTWARDEN_SOURCE__WAIT_MINUTES": "5",
        },
    ).context()
    assert shared.scoring_digest() == embedded.scoring_digest()
    assert shared.training_digest() == embedded.training_digest()
    assert shared.source.meaning() == embedded.source.meaning()
