"""Makes transactions up, with known frauds in them: for demonstrations, tests and benchmarks.

People: each account lives in a town, has a usual amount, usual hours, a rate of spending and a few
favourite merchants there. Mostly it pays those, sometimes others in town, seldom ones elsewhere.

Four ways to be cheated, each about a quarter of ``fraud_share`` (``fraud_scenario`` tells which):

1. Amount spike: one of the account's own transactions at 8 times its usual amount or more.
2. Compromised merchant: for two weeks, copied cards pay there, 1.5 to 4 times the usual amount.
3. Compromised account: for a week, a thief pays 3 to 8 times the usual amount at any merchants.
4. Card testing: 6 to 12 payments of at most 3.00 within 20 minutes of the night.

Each day has its own random generator, so a day does not depend on how many days are asked for.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

DAY_SECONDS = 86_400
FAVOURITES = 6
MERCHANTS_PER_TOWN = 25
SCENARIOS = 4
MERCHANT_DAYS = 14
COMPROMISED_SHARE = 0.005
ACCOUNT_DAYS = 7
THEFTS_PER_DAY = 2.0
BURST = (6, 12)
BURST_SECONDS = 20 * 60

CATEGORIES = (
    "grocery",
    "restaurant",
    "fuel",
    "transport",
    "health",
    "clothing",
    "online",
    "travel",
)
CATEGORY_SHARES = (0.26, 0.18, 0.1, 0.1, 0.08, 0.1, 0.14, 0.04)
CATEGORY_AMOUNTS = np.array([1.0, 0.8, 1.2, 0.3, 0.7, 1.8, 1.0, 5.0])
WEEKDAYS = (0.9, 0.9, 0.95, 1.0, 1.15, 1.2, 0.9)

# Streams of randomness under one seed: the world, the days, and what starts on a day.
WORLD, DAYS, MERCHANT_STARTS, ACCOUNT_STARTS = range(4)


@dataclass(frozen=True)
class World:
    """Who pays whom: one entry per account, then one per merchant."""

    home: Integers
    usual_amount: Floats
    usual_second: Floats
    hours_spread: Floats
    per_day: Floats
    favourites: Integers  # (accounts, FAVOURITES)
    category: Integers
    towns: int

    @property
    def accounts(self) -> int:
        """How many accounts there are."""
        return len(self.home)

    @property
    def merchants(self) -> int:
        """How many merchants there are."""
        return len(self.category)


@dataclass(frozen=True)
class Payments:
    """Transactions of one day in columns, each of the same length."""

    second: Integers
    account: Integers
    merchant: Integers
    amount: Floats
    scenario: Integers


def simulate_transactions(
    *,
    start: date,
    days: int,
    accounts: int,
    merchants: int,
    seed: int,
    transactions_per_account_per_day: float = 2.0,
    fraud_share: float = 0.008,
) -> pl.DataFrame:
    """Make up the transactions of some days, in order of time.

    The same arguments give the same frame, and more days give the same rows and then more.

    Args:
        start: The first day.
        days: How many days.
        accounts: How many accounts pay.
        merchants: How many merchants are paid.
        seed: Fixes all randomness.
        transactions_per_account_per_day: Mean over accounts and days.
        fraud_share: Share of transactions that are frauds, about; at most 0.1.

    Returns:
        ``transaction_id``, ``occurred_at`` (UTC without a zone), ``account_id``,
        ``card_number`` (passes the Luhn test, belongs to nobody), ``merchant_id``, ``amount``,
        ``category``, ``is_fraud``, ``fraud_scenario`` (0 if genuine; for reports, not a feature).

    Raises:
        ValueError: if a count is below one or the share is out of range.

    Example:
        >>> frame = simulate_transactions(
        ...     start=date(2026, 1, 1), days=2, accounts=20, merchants=10, seed=1
        ... )
        >>> frame["occurred_at"].dt.date().n_unique()
        2
    """
    check_arguments(days, accounts, merchants, transactions_per_account_per_day, fraud_share)
    world = make_world(seed, accounts, merchants, transactions_per_account_per_day)
    quarter = fraud_share / SCENARIOS
    made = [
        simulate_day(world, seed, number, start + timedelta(number), quarter)
        for number in range(days)
    ]
    return to_frame(world, start, made)


def check_arguments(
    days: int, accounts: int, merchants: int, per_day: float, fraud_share: float
) -> None:
    """Refuse numbers with which there is nothing to simulate."""
    counts = {"days": days, "accounts": accounts, "merchants": merchants}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"expected {name} to be at least 1, got {count}; ask for more")
    if per_day <= 0:
        raise ValueError(
            "expected transactions_per_account_per_day to be above 0, "
            f"got {per_day}; the default is 2"
        )
    if not 0 <= fraud_share <= 0.1:
        raise ValueError(
            f"expected fraud_share from 0 to 0.1, got {fraud_share}; the default is 0.008"
        )


def generator(seed: int, stream: int, number: int = 0) -> np.random.Generator:
    """Give the generator of one stream and day, the same whatever else is drawn."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, number)))


def make_world(seed: int, accounts: int, merchants: int, per_day: float) -> World:
    """Draw the accounts' habits and the merchants' trades."""
    rng = generator(seed, WORLD)
    towns = max(1, merchants // MERCHANTS_PER_TOWN)
    home = rng.integers(towns, size=accounts)
    rate = rng.gamma(4.0, size=accounts)
    picks = rng.random((accounts, FAVOURITES))
    return World(
        home=home,
        usual_amount=rng.lognormal(3.2, 0.6, accounts),
        usual_second=rng.normal(14.5, 2.5, accounts) * 3600,
        hours_spread=rng.uniform(1.5, 4.0, accounts) * 3600,
        per_day=per_day * rate / rate.mean(),
        favourites=merchant_in_town(home[:, None], picks, towns, merchants),
        category=rng.choice(len(CATEGORIES), size=merchants, p=CATEGORY_SHARES),
        towns=towns,
    )


def merchant_in_town(town: Integers, pick: Floats, towns: int, merchants: int) -> Integers:
    """Turn a pick from 0 to 1 into a merchant of the town; they are spread over towns in turn."""
    size = (merchants - 1 - town) // towns + 1
    chosen: Integers = town + towns * (pick * size).astype(np.int64)
    return chosen


def simulate_day(world: World, seed: int, number: int, day: date, quarter: float) -> Payments:
    """Make one day: genuine payments, then the four kinds of fraud, in order of time."""
    rng = generator(seed, DAYS, number)
    genuine = genuine_payments(world, rng, day)
    expected = float(world.per_day.sum()) * quarter
    spiked = with_spikes(genuine, world, rng, quarter)
    at_once = max(1.0, world.merchants * COMPROMISED_SHARE)
    merchants = compromised(
        seed, MERCHANT_STARTS, number, world.merchants, at_once / MERCHANT_DAYS
    )
    rate = expected / (THEFTS_PER_DAY * ACCOUNT_DAYS)
    accounts = compromised(seed, ACCOUNT_STARTS, number, world.accounts, rate)
    parts = [
        spiked,
        merchant_frauds(world, rng, merchants, expected),
        account_frauds(world, rng, accounts),
        card_tests(world, rng, expected),
    ]
    return in_order_of_time(parts)


def genuine_payments(world: World, rng: np.random.Generator, day: date) -> Payments:
    """Let each account pay as it is used to."""
    rate = world.per_day * WEEKDAYS[day.weekday()]
    account = np.repeat(np.arange(world.accounts), rng.poisson(rate))
    size = len(account)
    favourite = world.favourites[account, (rng.random(size) ** 2 * FAVOURITES).astype(np.int64)]
    in_town = merchant_in_town(world.home[account], rng.random(size), world.towns, world.merchants)
    elsewhere = rng.integers(world.merchants, size=size)
    where = rng.random(size)
    merchant = np.where(where < 0.8, favourite, np.where(where < 0.97, in_town, elsewhere))
    usual = world.usual_amount[account] * CATEGORY_AMOUNTS[world.category[merchant]]
    second = rng.normal(world.usual_second[account], world.hours_spread[account])
    return Payments(
        second=second.astype(np.int64) % DAY_SECONDS,
        account=account,
        merchant=merchant,
        amount=usual * rng.lognormal(-0.1, 0.45, size),
        scenario=np.zeros(size, np.int64),
    )


def with_spikes(
    payments: Payments, world: World, rng: np.random.Generator, share: float
) -> Payments:
    """Turn a share of genuine payments into spikes (scenario 1)."""
    size = len(payments.account)
    is_spike = rng.random(size) < share
    spike = world.usual_amount[payments.account] * rng.uniform(8, 20, size)
    amount = np.where(is_spike, np.maximum(spike, 8 * payments.amount), payments.amount)
    scenario = np.where(is_spike, 1, 0)
    return Payments(payments.second, payments.account, payments.merchant, amount, scenario)


def compromised(seed: int, stream: int, day: int, among: int, starts_per_day: float) -> Integers:
    """Tell which merchants, or accounts, are in a thief's hands on a day.

    Starts come evenly, the first on the first day, so that a short simulation has its frauds too.
    Which they are, the day's own generator says.
    """
    length = MERCHANT_DAYS if stream == MERCHANT_STARTS else ACCOUNT_DAYS
    if starts_per_day == 0:
        return np.empty(0, np.int64)
    chosen = []
    for first in range(max(0, day - length + 1), day + 1):
        begun = int(first * starts_per_day + 1) if first else 0
        count = int((first + 1) * starts_per_day + 1) - begun
        chosen.append(generator(seed, stream, first).integers(among, size=count))
    return np.concatenate(chosen)


def merchant_frauds(
    world: World, rng: np.random.Generator, merchants: Integers, expected: float
) -> Payments:
    """Let copied cards pay at compromised merchants (scenario 2)."""
    size = int(rng.poisson(expected)) if len(merchants) else 0
    merchant = merchants[rng.integers(max(1, len(merchants)), size=size)]
    account = rng.integers(world.accounts, size=size)
    usual = world.usual_amount[account] * CATEGORY_AMOUNTS[world.category[merchant]]
    second = rng.integers(8 * 3600, 22 * 3600, size=size)
    amount = usual * rng.uniform(1.5, 4, size)
    return Payments(second, account, merchant, amount, np.full(size, 2))


def account_frauds(world: World, rng: np.random.Generator, accounts: Integers) -> Payments:
    """Let thieves spend from compromised accounts, anywhere and at any hour (scenario 3)."""
    account = np.repeat(accounts, rng.poisson(THEFTS_PER_DAY, len(accounts)))
    size = len(account)
    second = rng.integers(DAY_SECONDS, size=size)
    merchant = rng.integers(world.merchants, size=size)
    amount = world.usual_amount[account] * rng.uniform(3, 8, size)
    return Payments(second, account, merchant, amount, np.full(size, 3))


def card_tests(world: World, rng: np.random.Generator, expected: float) -> Payments:
    """Try stolen cards out with bursts of small payments between one and five (scenario 4)."""
    bursts = int(rng.poisson(expected / (sum(BURST) / 2)))
    lengths = rng.integers(BURST[0], BURST[1] + 1, size=bursts)
    size = int(lengths.sum())
    account = np.repeat(rng.integers(world.accounts, size=bursts), lengths)
    begin = np.repeat(rng.integers(3600, 5 * 3600 - BURST_SECONDS, size=bursts), lengths)
    merchant = np.repeat(rng.integers(world.merchants, size=bursts), lengths)
    second = begin + rng.integers(BURST_SECONDS, size=size)
    return Payments(second, account, merchant, rng.uniform(0.5, 3, size), np.full(size, 4))


def in_order_of_time(parts: list[Payments]) -> Payments:
    """Put parts of a day together and sort them; ties stay in the order of the parts."""
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("second", "account", "merchant", "amount", "scenario")
    ]
    order = np.argsort(columns[0], kind="stable")
    return Payments(*(column[order] for column in columns))


def to_frame(world: World, start: date, made: list[Payments]) -> pl.DataFrame:
    """Lay the days out as one frame; numbers of accounts and merchants start at 1."""
    midnight = datetime(start.year, start.month, start.day)  # noqa: DTZ001 - sources are naive UTC
    second = np.concatenate([day.second + n * DAY_SECONDS for n, day in enumerate(made)])
    account = np.concatenate([day.account for day in made])
    merchant = np.concatenate([day.merchant for day in made])
    scenario = np.concatenate([day.scenario for day in made])
    amount = np.concatenate([day.amount for day in made])
    names = pl.Series(CATEGORIES)
    return pl.DataFrame(
        {
            "transaction_id": np.arange(1, len(second) + 1),
            "occurred_at": pl.Series(second * 1_000_000).cast(pl.Duration("us")) + midnight,
            "account_id": account + 1,
            "card_number": pl.Series(card_numbers(world.accounts)).cast(pl.String)[account],
            "merchant_id": merchant + 1,
            "amount": np.maximum(amount.round(2), 0.01),
            "category": names[world.category[merchant]],
            "is_fraud": (scenario > 0).astype(np.int8),
            "fraud_scenario": scenario.astype(np.int8),
        }
    )


def card_numbers(accounts: int) -> Integers:
    """Give each account a number of 16 digits that passes the Luhn test.

    They begin with 999999, a range in which no card is issued, so none is anybody's.

    Example:
        >>> int(card_numbers(1)[0])
        9999990076543210
    """
    body = 999_999_000_000_000 + (np.arange(1, accounts + 1) * 7_654_321) % 10**9
    digits = body[:, None] // 10 ** np.arange(15) % 10  # (accounts, 15), the last digit first
    doubled = digits[:, ::2] * 2
    total = (doubled - 9 * (doubled > 9)).sum(axis=1) + digits[:, 1::2].sum(axis=1)
    numbers: Integers = body * 10 + -total % 10
    return numbers


def write_days(
    frame: pl.DataFrame,
    folder: str | Path,
    format: Literal["csv", "parquet"] = "csv",  # noqa: A002 - the usual name
) -> list[Path]:
    """Write each day to ``YYYY-MM-DD.csv`` or ``.parquet``, whole or not at all.

    Args:
        frame: Rows with ``occurred_at``.
        folder: Where to; it is made if it is not there. Files of the same days are replaced.
        format: ``csv`` or ``parquet``.

    Returns:
        The files, oldest day first.

    Raises:
        ValueError: if the format is another one.
    """
    if format not in ("csv", "parquet"):
        raise ValueError(f"expected format to be csv or parquet, got {format!r}; choose one")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    dated = frame.with_columns(pl.col("occurred_at").dt.date().alias("_day"))
    parts = dated.partition_by("_day", as_dict=True, include_key=False, maintain_order=True)
    return [write_day(rows, target / f"{key[0]}.{format}") for key, rows in sorted(parts.items())]


def write_day(rows: pl.DataFrame, path: Path) -> Path:
    """Write one file under another name, then give it its own."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    if path.suffix == ".csv":
        rows.write_csv(unfinished, datetime_format="%Y-%m-%d %H:%M:%S")
    else:
        rows.write_parquet(unfinished)
    unfinished.replace(path)
    return path
