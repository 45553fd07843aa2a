"""What the installed programs say of themselves: their commands, options, and variables."""

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

PROGRAMS = Path(sys.executable).parent
NAME = re.compile(r"[a-z][a-z0-9-]*")


@functools.cache
def run_help(*command: str) -> str:
    """Ask an installed command for its help."""
    asked = subprocess.run(  # noqa: S603 (our own commands)
        [str(PROGRAMS / command[0]), *command[1:], "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        timeout=120,
    )
    return asked.stdout


def require_command(line: str) -> None:
    """Require that an installed program has a command line's commands and options."""
    words = shlex.split(line)
    command = list(takewhile(NAME.fullmatch, words))
    text = run_help(*command)
    assert re.search(rf"Usage: {' '.join(command)}\b", text), f"{line!r} is no command"
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    missing = {option for option in options if not re.search(rf"{option}\b(?!-)", text)}
    assert missing == set(), line


@functools.cache
def prefect_variables() -> frozenset[str]:
    """Name what Prefect reads."""
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    return frozenset(_get_settings_fields(Settings))


@functools.cache
def mlflow_variables() -> frozenset[str]:
    """Name what MLflow reads: its own list, and what its server's options name."""
    code = (
        "import json, mlflow.environment_variables as own; from mlflow.cli import server; "
        "named = [one.envvar for one in server.params if isinstance(one.envvar, str)]; "
        "print(json.dumps([*named, *(name for name in dir(own) if name.startswith('MLFLOW_'))]))"
    )
    asked = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return frozenset(json.loads(asked.stdout.splitlines()[-1]))
