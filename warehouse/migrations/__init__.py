"""The queue's schema, step by step: each file in ``versions`` is one change, run by Alembic.

Belongs here: creating and changing tables, indexes and triggers on SQLite and PostgreSQL. Does
not: reading or writing rows. A published migration is never edited; add the next one, and set
``HEAD`` in ``warehouse/queue_tables.py``. There are no downgrades: restore the backup.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def configuration(connection: Connection | None = None) -> Config:
    """Give Alembic's settings for these migrations; nobody needs an ``alembic.ini``."""
    config = Config()
    folder = str(Path(__file__).parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def migrate(connection: Connection) -> None:
    """Bring the schema to the newest revision within the connection's transaction.

    Args:
        connection: An open connection that is in a transaction; the caller commits.
    """
    command.upgrade(configuration(connection), "head")


def known_revisions() -> set[str]:
    """Give the revisions that this version of Nightwarden can upgrade from."""
    script = ScriptDirectory.from_config(configuration())
    return {revision.revision for revision in script.walk_revisions()}
