"""What deploy/databases.sql makes on a PostgreSQL server."""

import os
import shutil
import subprocess
from typing import Any

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import OperationalError

from tests.test_deploy_examples import DEPLOY


def test_each_role_reaches_its_own_databases_alone(postgresql: Any):
    program = shutil.which("psql")
    assert program, "the server came without psql"
    names = {"nightwarden": {"lake", "queue"}, "prefect": {"prefect"}, "mlflow": {"mlflow"}}
    passwords = {f"PG_{name.upper()}_PASSWORD": f"word-of-{name}" for name in names}
    subprocess.run(  # noqa: S603 (found on the path)
        [program, "--quiet", "--no-psqlrc", "--file", str(DEPLOY / "databases.sql")],
        check=True,
        env=os.environ | passwords | {"PGPASSWORD": postgresql.password} | _where(postgresql),
        timeout=60,
    )
    for name, own in names.items():
        reached = {one for one in set().union(*names.values()) if _reaches(postgresql, name, one)}
        assert reached == own


def _where(server: Any) -> dict[str, str]:
    return {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres"}


def _reaches(server: Any, role: str, database: str) -> bool:
    """Tell whether a role may make a table in a database; the lake's speaks English then."""
    url = make_url(server.url).set(
        drivername="postgresql+psycopg",
        username=role,
        password=f"word-of-{role}",
        database=database,
    )
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE made (id int)")
            language = connection.exec_driver_sql("SHOW lc_messages").scalar_one()
            assert database not in ("lake", "queue") or language == "C"
            return True
    except OperationalError as error:
        if "permission denied for database" not in str(error):
            raise
        return False
    finally:
        engine.dispose()
