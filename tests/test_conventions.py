"""What the pages say is what the code does, and every file keeps the house rules."""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flows.cli import app
from flows.deployments import describe_yaml
from flows.settings import Settings
from models.registry import REGISTRY
from tasks.features import describe_markdown as describe_features
from warehouse.schema import TRANSACTIONS
from warehouse.schema import describe_markdown as describe_schema
from warehouse.source import ColumnMapping

ROOT = Path(__file__).parents[1]
PACKAGES = ("desk", "flows", "tasks", "models", "warehouse")
MODULES = sorted(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = {
    "docs/schema.md": describe_schema,
    "docs/features.md": describe_features,
    "prefect.yaml": describe_yaml,
}
SUPPRESSION = re.compile(r"#\s*(noqa\b|type:\s*ignore\b)(?P<rule>:\s*[A-Z0-9, ]+|\[[\w, -]+\])?")


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def files() -> list[str]:
    """List the files that git tracks or would, in a checkout."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],  # noqa: S607 (git is found on the path)
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the test needs a git checkout")
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# README: commands, tree, example


def commands(tree: typer.Typer, prefix: str = "nightwarden") -> Iterator[str]:
    for command in tree.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        yield f"{prefix} {name}"
    for group in tree.registered_groups:
        if group.typer_instance.info.invoke_without_command is True:
            yield f"{prefix} {group.name}"
        yield from commands(group.typer_instance, f"{prefix} {group.name}")


def test_readme_table_lists_every_command_and_no_other():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(nightwarden [a-z -]+)` \|", text, flags=re.MULTILINE)
    assert sorted(told) == sorted(commands(app))


def test_readme_examples_name_known_commands():
    known = set(commands(app))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for words in re.findall(
            r"(?:^\$? *|`)nightwarden ([a-z]+(?: [a-z]+)?)", text, re.MULTILINE
        ):
            first, _, second = words.partition(" ")
            names = {f"nightwarden {first}", f"nightwarden {first} {second}"}
            assert names & known, f"{page.name}: nightwarden {words}"


def read_tree() -> dict[str, set[str]]:
    """Read the tree of README.md: top-level name to the names indented under it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## Where things are", 1)[1].split("```")[1]
    tree: dict[str, set[str]] = {}
    folder = ""
    for line in block.strip("\n").splitlines():
        names, *meaning = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        assert meaning, f"README.md says nothing about {names}"
        if line.startswith(" "):
            tree[folder] |= set(names.split())
        else:
            folder = names
            tree[folder] = set()
    return tree


def test_readme_tree_has_every_top_level_entry(files: list[str]):
    on_disk = {name.split("/")[0] + ("/" if "/" in name else "") for name in files}
    assert set(read_tree()) == on_disk


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks"])
def test_readme_tree_has_every_module(package: str, files: list[str]):
    inside = [name.split("/")[1:] for name in files if name.startswith(f"{package}/")]
    on_disk = {parts[0] + ("/" if len(parts) > 1 else "") for parts in inside} - {"__init__.py"}
    assert read_tree()[f"{package}/"] == on_disk


def test_readme_settings_are_valid(tmp_path: Path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    example = text.split("```toml\n", 1)[1].split("```", 1)[0]
    file = tmp_path / "nightwarden.toml"
    file.write_text(example, encoding="utf-8")
    assert Settings.read(file, {}).queue.capacity == 50


# pages and code


@pytest.mark.parametrize("page", sorted(GENERATED))
def test_generated_page_is_up_to_date(page: str):
    assert (ROOT / page).read_text(encoding="utf-8") == GENERATED[page](), "run make docs"


def named_files(text: str) -> set[str]:
    """Find the paths that a page names, and the pages that it links."""
    folders = "|".join((*PACKAGES, "tests", "docs", "benchmarks"))
    paths = re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*\w\.(?:py|md|sql|mako))", text)
    links = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if link.endswith(".md")]
    return {*paths, *links}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_files_that_exist(page: Path):
    names = named_files(page.read_text(encoding="utf-8"))
    missing = [n for n in names if not (ROOT / n).exists() and not (page.parent / n).exists()]
    assert missing == []


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """Find the settings model in an annotation such as ``Model | None`` or ``dict[str, Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for part in get_args(annotation) if (m := inner_model(part))), None)


def setting_fields(
    model: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, FieldInfo, type[BaseModel]]]:
    """Give every key of the settings with its field and the model that has it."""
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        inner = inner_model(field.annotation)
        if inner is None:
            yield prefix + name, field, model
        else:
            many = "NAME." if get_origin(field.annotation) is dict else ""
            yield from setting_fields(inner, f"{prefix}{name}.{many}")


def written_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "not set"
    return f"`{json.dumps(default, default=str, ensure_ascii=False)}`"


def test_configuration_page_has_every_key_with_its_default():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-zA-Z_.]+\.[a-zA-Z_.]+)` \| (.+?) \| (.+?) \| .+ \|$", text, re.M)
    told = {key: default for key, _, default in rows}
    assert len(told) == len(rows)
    assert told == {key: written_default(field) for key, field, _ in setting_fields(Settings)}


def read_attributes(tree: ast.AST) -> set[str]:
    """Name every attribute that code reads, but for checks of a config on itself."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        found |= read_attributes(node)
    return found


def test_every_setting_is_read_somewhere():
    read = set().union(*(read_attributes(parse(file)) for file in MODULES))
    unread = [
        key
        for key, _, model in setting_fields(Settings)
        if model is not ColumnMapping and key.split(".")[-1] not in read
    ]
    assert unread == []
    assert set(ColumnMapping.model_fields) < set(TRANSACTIONS.column_names())  # read by ``given``


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_detectors_page_has_a_section_with_a_source(name: str):
    text = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    section = text.partition(f"### {name}\n")[2].partition("\n#")[0]
    assert re.search(r"Source: .+(19|20)\d\d", section)
    assert f"| [`{name}`](#{name}) |" in text


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_field_of_a_detector_config_is_used(name: str):
    config = REGISTRY[name].config
    kinds = [kind for kind in config.__mro__ if dataclasses.is_dataclass(kind)]
    sources = {Path(inspect.getfile(kind)) for kind in kinds}
    used = set().union(*(read_attributes(parse(file)) for file in sources))
    assert {field.name for field in dataclasses.fields(config)} - used == set()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_detector_names_its_source(name: str):
    detector = REGISTRY[name].detector
    module = importlib.import_module(detector.__module__)
    assert "Source:" in (detector.__doc__ or "") + (module.__doc__ or "")


# dependencies


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower()


def test_contributing_justifies_every_dependency_and_no_other():
    project: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [
        *project["project"]["dependencies"],
        *(one for group in project["dependency-groups"].values() for one in group),
        *project["build-system"]["requires"],
    ]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Dependencies", 1)[1].split("\n## ", 1)[0]
    told = re.findall(r"^- `([\w-]+)` \([^)]+\): \S.+\.$", section, flags=re.MULTILINE)
    assert sorted(told) == sorted({distribution(one) for one in declared})


def test_constraints_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"].values()
    wanted = [*project["project"]["dependencies"], *(one for group in groups for one in group)]
    assert {distribution(one) for one in wanted} - pinned == set()


# house rules of the code


def public_definitions(
    tree: ast.Module,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Give a module and its public classes, functions and methods."""
    yield tree
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            methods = (one for one in node.body if isinstance(one, kinds[1:]))
            yield from (one for one in methods if not one.name.startswith("_"))


def test_everything_public_has_a_docstring():
    bare = [
        f"{relative(file)}: {getattr(node, 'name', 'module')}"
        for file in MODULES
        for node in public_definitions(parse(file))
        if not ast.get_docstring(node)
    ]
    assert bare == []


def test_every_suppression_names_its_rule_and_says_why():
    found = set()
    for file in MODULES:
        for line in file.read_text(encoding="utf-8").splitlines():
            for match in SUPPRESSION.finditer(line):
                rule = (match["rule"] or "").rstrip()
                assert rule, f"{relative(file)} suppresses every rule: {line.strip()}"
                if not re.search(r"\w{2,}", line[match.end() :]):
                    found.add((relative(file), rule))
    assert found == set()


def test_no_file_names_a_place_of_one_machine(files: list[str]):
    places = [mark.encode() for mark in ("/wo" + "rk/", "../sha" + "red", "/ro" + "ot/")]
    found = [
        f"{name}: {place.decode()}"
        for name in files
        for place in places
        if place in (ROOT / name).read_bytes()
    ]
    assert found == []
