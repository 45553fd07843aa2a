"""Errors that a person can mend. The command line prints them in one sentence and exits with code 2.

Each message says what was expected, what was found, and what to do.
"""


class UserError(Exception):
    """Something that the user can put right: a setting, a file, an order of commands."""


class SettingsError(UserError):
    """The settings file, or a value in it, cannot be used."""


class SourceError(UserError):
    """A source file or table cannot be read as the settings say."""


class DayMissingError(SourceError):
    """A day's file or rows have not come yet."""


class DayRefusedError(UserError):
    """A day broke a day rule: it is not published, and what was there before stays."""


class WarehouseError(UserError):
    """The lake or the queue cannot be opened or written."""


class BusyError(WarehouseError):
    """Another process holds what is needed, or a server is away; trying again may help."""


class ModelMissingError(UserError):
    """No registered model can score this day."""


def safe_text(error: Exception) -> str:
    """Give the text of an error that a user can mend, else its type: a driver's may hold a secret."""
    return str(error) if isinstance(error, UserError) else type(error).__name__
