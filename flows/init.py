"""Write a settings file from what the user's files look like."""

from pathlib import Path

from warehouse.errors import SettingsError
from warehouse.inspection import Proposal, inspect_source, write_config
from warehouse.privacy import PseudonymKey

KEY_FILE = "nightwarden.key"


def write_settings(source: str, mapping: list[str], config: Path, *, force: bool) -> Proposal:
    """Inspect the source, write the settings file, and make the pseudonym key beside it.

    Raises:
        SettingsError: if the file is there already, or a ``--map`` is not canonical=SOURCE.
        SourceError: if no mapping can be proposed.
    """
    if config.exists() and not force:
        message = f"{config} is there already; edit it, or write it anew with --force"
        raise SettingsError(message)
    found = inspect_source(source, dict(_split(one) for one in mapping))
    folder = config.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(write_config(found, folder=folder), encoding="utf-8")
        if not (folder / KEY_FILE).exists():
            PseudonymKey.make(folder / KEY_FILE)
    except OSError as error:
        message = f"{config} cannot be written ({error.strerror}); choose another --config"
        raise SettingsError(message) from error
    return found


def _split(one: str) -> tuple[str, str]:
    name, equals, value = one.partition("=")
    if not (name and equals and value):
        message = f"--map must be canonical=SOURCE, such as amount=TX_AMOUNT; got {one!r}"
        raise SettingsError(message)
    return name.strip(), value.strip()
