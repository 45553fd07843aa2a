"""What Alembic runs to migrate: it uses the connection that ``migrate`` passes in."""

from alembic import context

from warehouse.queue_tables import METADATA, VERSION_TABLE


def run() -> None:
    """Run the asked migrations within the caller's transaction: all of them or none."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=METADATA,
        version_table=VERSION_TABLE,
    )
    with context.begin_transaction():
        context.run_migrations()


# Alembic loads this file under this name; whoever else imports it (pytest) is not migrating.
if __name__ == "env_py":
    run()
