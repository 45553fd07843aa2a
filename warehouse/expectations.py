"""Great Expectations on DuckDB, pushed down as SQL. Nothing else imports great_expectations.

Great Expectations does not list DuckDB. It reads a result after it has handed the connection
back, and DuckDB's result dies with it; so a dialect of a few lines buffers every result, and opens
cursors of the lake's own connection instead of a database of its own.
"""

import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import duckdb_sqlalchemy
import great_expectations as gx
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.core.expectation_suite import ExpectationSuite
from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
    ExpectationValidationResult,
)
from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.core.expect_column_values_to_not_be_null import (
    ExpectColumnValuesToNotBeNull,
)
from great_expectations.expectations.core.unexpected_rows_expectation import (
    UnexpectedRowsExpectation,
)
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaPageView
from sqlalchemy.dialects import registry
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.pool import NullPool, Pool

from warehouse.rules import DayRule, RowRule

SOURCE = "lake"
_CONNECTIONS: dict[str, duckdb.DuckDBPyConnection] = {}
_ONE_AT_A_TIME = threading.Lock()  # Great Expectations keeps its project in a global
_REMOTE = re.compile(
    r"<script[^>]*\bsrc=\"https?://[^>]*>\s*</script>|<link[^>]*\bhref=\"https?://[^>]*>"
    r"|url\(['\"]?https?://[^)]*\)|<img[^>]*\bsrc=\"https?://[^>]*>"
    r"|<a[^>]*\bhref=\"https?://[^>]*>.*?</a>",
    re.DOTALL,
)
_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse } td, th { border-bottom: 1px solid #ccc; padding: .3rem .6rem }
nav, .ge-walkthrough-modal, #ge-cta-footer, .modal { display: none }
</style></head>"""


class _BufferedContext(duckdb_sqlalchemy.DuckDBExecutionContext):
    def post_exec(self) -> None:
        super().post_exec()  # type: ignore[no-untyped-call]  # (its own)
        if self.cursor.description:
            self.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(
                self.cursor,
                initial_buffer=self.cursor.fetchall(),
                alternate_description=self.cursor.description,
            )


class BufferedDialect(duckdb_sqlalchemy.Dialect):
    """DuckDB for Great Expectations: ``duckdb+buffered:///NAME`` is the connection NAME."""

    execution_ctx_cls = _BufferedContext
    supports_statement_cache = False

    def connect(self, *_: Any, **parameters: Any) -> Any:  # noqa: ANN401 (SQLAlchemy's signature)
        """Open a cursor of the connection that is to be validated."""
        return duckdb_sqlalchemy.ConnectionWrapper(_CONNECTIONS[parameters["database"]].cursor())

    @classmethod
    def get_pool_class(cls, url: object) -> type[Pool]:  # noqa: ARG003 (SQLAlchemy's signature)
        """Keep no connection: a cursor costs nothing."""
        return NullPool


registry.register("duckdb.buffered", __name__, "BufferedDialect")


@dataclass(frozen=True)
class DayReport:
    """What the expectations found in a day.

    ``broken_rows`` counts, for each broken row rule, the rows; ``broken_day_rules`` says for each
    broken day rule what was expected and what was found. A row that breaks several rules counts
    with each of them; in quarantine it has the first.
    """

    broken_rows: dict[str, int]
    broken_day_rules: dict[str, str]
    html: str


def validate_day(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    row_rules: Sequence[RowRule],
    day_rules: Sequence[DayRule],
) -> DayReport:
    """Run the rules as expectations over the table ``checked`` and draw the Data Docs page.

    Raises:
        RuntimeError: if an expectation could not be evaluated.
    """
    with _ONE_AT_A_TIME:
        _CONNECTIONS[SOURCE] = connection
        try:
            result = _run(name, row_rules, day_rules)
        finally:
            del _CONNECTIONS[SOURCE]
        return _report(connection, result, day_rules)


def _run(
    name: str, row_rules: Sequence[RowRule], day_rules: Sequence[DayRule]
) -> ExpectationSuiteValidationResult:
    context = _context()
    expectations = [
        *(_row_expectation(rule) for rule in row_rules),
        *(_day_expectation(rule) for rule in day_rules),
    ]
    suite = context.suites.add_or_update(ExpectationSuite(name, expectations=expectations))
    definition = gx.ValidationDefinition(name=name, data=_batch(), suite=suite)
    added = context.validation_definitions.add_or_update(definition)
    return added.run(result_format="SUMMARY")


@cache
def _batch() -> BatchDefinition[Any]:
    """Define what is validated: the table ``checked`` of the connection at hand."""
    source = _context().data_sources.add_sql(
        SOURCE, connection_string=f"duckdb+buffered:///{SOURCE}"
    )
    asset = source.add_table_asset("checked", table_name="checked")
    return asset.add_batch_definition_whole_table("day")


@cache
def _context() -> AbstractDataContext:
    """Make the process's one context: all in memory, no folders of its own, no bars."""
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
    )
    context = gx.get_context(project_config=config, mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def _row_expectation(rule: RowRule) -> Expectation:
    if rule.kind == "not_null":
        return ExpectColumnValuesToNotBeNull(
            column=rule.column, severity=FailureSeverity.WARNING, meta={"rule": rule.id}
        )
    return UnexpectedRowsExpectation(
        unexpected_rows_query=f"SELECT * FROM {{batch}} WHERE {rule.broken}",
        description=rule.meaning,
        severity=FailureSeverity.WARNING,
        meta={"rule": rule.id},
    )


def _day_expectation(rule: DayRule) -> Expectation:
    return UnexpectedRowsExpectation(
        unexpected_rows_query=rule.broken,
        description=rule.meaning,
        severity=FailureSeverity.CRITICAL,
        meta={"rule": rule.id},
    )


def _report(
    connection: duckdb.DuckDBPyConnection,
    result: ExpectationSuiteValidationResult,
    day_rules: Sequence[DayRule],
) -> DayReport:
    stops = {rule.id: rule for rule in day_rules}
    broken_rows: dict[str, int] = {}
    broken_days: dict[str, str] = {}
    for one in result.results:
        rule = _rule_id(one)
        if one.exception_info and _raised(one.exception_info):
            message = f"expectation {rule} could not be evaluated: {one.exception_info}"
            raise RuntimeError(message)
        if one.success:
            continue
        if rule in stops:
            broken_days[rule] = _evidence(connection, stops[rule])
        else:
            count = one.result.get("unexpected_count", one.result.get("observed_value"))
            broken_rows[rule] = int(count or 0)
    return DayReport(broken_rows, broken_days, _page(result))


def _rule_id(result: ExpectationValidationResult) -> str:
    if result.expectation_config is None:
        message = f"an expectation came back without its configuration: {result}"
        raise RuntimeError(message)
    return str(result.expectation_config.meta["rule"])


def _raised(info: dict[str, Any]) -> bool:
    if "raised_exception" in info:
        return bool(info["raised_exception"])
    return any(entry.get("raised_exception") for entry in info.values())


def _evidence(connection: duckdb.DuckDBPyConnection, rule: DayRule) -> str:
    """Say what a broken day rule expected and what it found."""
    row = connection.execute(rule.broken.format(batch="checked")).fetchone() or ()
    found = ", ".join(
        f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" for value in row
    )
    return f"expected: {rule.meaning}; found: {found}"


@cache
def _view() -> Any:  # noqa: ANN401 (untyped in Great Expectations)
    """Give the one view: it takes a quarter of a second to compile its templates."""
    return DefaultJinjaPageView()


def _page(result: ExpectationSuiteValidationResult) -> str:
    """Draw the page, without the parts that a browser would fetch from other hosts."""
    html = _view().render(ValidationResultsPageRenderer().render(result))
    return _REMOTE.sub("", html).replace("</head>", _STYLE, 1)


def write_page(folder: Path, name: str, html: str) -> Path:
    """Write a Data Docs page as ``NAME.html``; whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    draft = page.with_suffix(".part")
    draft.write_text(html, encoding="utf-8")
    draft.replace(page)
    return page
