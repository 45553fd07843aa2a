"""Every declared feature: its name, meaning, unit and the words in which an analyst reads it.

Belongs here: declarations. Does not: arithmetic (``tasks.transaction_features`` and
``tasks.label_features``).
"""

from collections.abc import Iterable
from dataclasses import dataclass

USUALLY = ", usually "

_TIMES = "\N{MULTIPLICATION SIGN}"
_NEW_ACCOUNT = "this account has too few earlier transactions in 30 days to compare with"
_NEW_MERCHANT = "this merchant has too few earlier transactions in 30 days to compare with"
_UNSETTLED = (
    "in the 30 days old enough for their labels to be known, this account has too few "
    "transactions to compare with"
)


@dataclass(frozen=True)
class Feature:
    """One feature: what it says, and the words in which an analyst reads it.

    Args:
        name: Column name. meaning: One sentence. unit: Of the value; empty for a plain number.
        group: ``account``, ``merchant``, ``label``, ``time`` or ``place``.
        uses_labels: Whether known labels enter it.
        phrase: A ``str.format`` pattern with {value}, {amount} and, only after ``USUALLY`` at its
            end, {usual} (of the same feature).
        missing: What a missing value says where one is usually there; None if it is no reason to
            suspect anything, or if there is always a value.
    """

    name: str
    meaning: str
    unit: str
    group: str
    uses_labels: bool
    phrase: str
    missing: str | None


def _feature(
    name: str, group: str, unit: str, meaning: str, phrase: str, missing: str | None = None
) -> Feature:
    return Feature(name, meaning, unit, group, group == "label", phrase, missing)


def _account_windows() -> list[Feature]:
    counts = [
        _feature(
            f"account_count_{days}d",
            "account",
            "transactions",
            f"The account's transactions in the last {days} days, this one included.",
            f"{{value:.0f}} transactions of this account in {days} d, usually {{usual:.0f}}",
        )
        for days in (1, 7, 30)
    ]
    means = [
        _feature(
            f"account_mean_amount_{days}d",
            "account",
            "currency units",
            f"The account's mean amount over the last {days} days, this one included.",
            f"this account's {days}-day mean amount is {{value:.2f}}, usually {{usual:.2f}}",
        )
        for days in (1, 7, 30)
    ]
    return counts + means


def _amount_ratios() -> list[Feature]:
    kinds = {"mean": "mean", "median": "median", "q90": "0.9 quantile", "max": "largest amount"}
    return [
        _feature(
            f"amount_to_account_{kind}_30d",
            "account",
            "ratio",
            f"The amount over the {words} of the account's earlier amounts in 30 days, of the "
            "most recent 64.",
            f"amount {{amount:.2f}} is {{value:.1f}} {_TIMES} this account's 30-day {words}",
            _NEW_ACCOUNT,
        )
        for kind, words in kinds.items()
    ]


def _settled_amounts() -> list[Feature]:
    kinds = {"mean": "mean", "q90": "0.9 quantile", "max": "largest"}
    ratios = [
        _feature(
            f"amount_to_account_settled_{kind}",
            "account",
            "ratio",
            f"The amount over the {words} of the account's settled amounts: the earlier ones of "
            "the 30 days that ended one label delay ago, of the most recent 64.",
            f"amount {{amount:.2f}} is {{value:.1f}} {_TIMES} this account's settled {words}",
            _UNSETTLED,
        )
        for kind, words in kinds.items()
    ]
    return [
        *ratios,
        _feature(
            "amount_account_settled_zscore",
            "account",
            "standard deviations",
            "The amount less the mean of the settled amounts, over their standard deviation (at "
            "least a tenth of the mean).",
            "amount {amount:.2f} is {value:.1f} standard deviations above this account's settled "
            "mean",
            _UNSETTLED,
        ),
        _feature(
            "account_unsettled_max_ratio",
            "account",
            "ratio",
            "The largest of the account's earlier amounts since one label delay ago over the mean "
            "of its settled ones; 0 if there was none.",
            f"this account's largest amount of late is {{value:.1f}} {_TIMES} its settled mean, "
            "usually {usual:.1f}",
            _UNSETTLED,
        ),
        _feature(
            "account_unsettled_high_amounts",
            "account",
            "transactions",
            "The account's earlier transactions since one label delay ago, of the most recent 64, "
            f"whose amount was above 2 {_TIMES} the median of its settled ones.",
            "{value:.0f} high amounts of this account of late, usually {usual:.0f}",
            _UNSETTLED,
        ),
    ]


def _high_amounts() -> list[Feature]:
    return [
        _feature(
            f"account_high_amounts_{days}d",
            "account",
            "transactions",
            f"The account's transactions of the last {days} days, this one included, whose amount "
            f"was at least 3 {_TIMES} the median of its 16 days before.",
            f"{{value:.0f}} unusually high amounts in {days} d, usually {{usual:.0f}}",
        )
        for days in (1, 3, 7, 14)
    ]


def _merchant_windows() -> list[Feature]:
    counts = [
        _feature(
            f"merchant_count_{days}d",
            "merchant",
            "transactions",
            f"The merchant's transactions in the {days} days that ended one label delay ago.",
            f"{{value:.0f}} transactions at this merchant in {days} d, usually {{usual:.0f}}",
        )
        for days in (1, 7, 30)
    ]
    shares = [
        _feature(
            f"merchant_fraud_share_{days}d",
            "label",
            "share",
            f"Frauds at the merchant that became known in the last {days} days over its "
            "transactions in as many days one label delay ago; 0 without any.",
            f"{{value:.0%}} of this merchant's transactions over {days} d proved fraud, "
            "usually {usual:.0%}",
        )
        for days in (1, 7, 30)
    ]
    known = [
        _feature(
            f"merchant_known_frauds_{days}d",
            "label",
            "frauds",
            f"Frauds at the merchant that became known in the last {days} days.",
            f"{{value:.0f}} frauds known at this merchant in {days} d, usually {{usual:.0f}}",
        )
        for days in (7, 28)
    ]
    ordinary = [
        _feature(
            f"merchant_ordinary_frauds_{days}d",
            "label",
            "frauds",
            f"Frauds at the merchant that became known in the last {days} days, of transactions of "
            f"14 days and the label delay, whose amount was below 2 {_TIMES} the median of the "
            "account's 16 days before: the merchant rather than the account is the reason.",
            f"{{value:.0f}} frauds of ordinary amounts known at this merchant in {days} d, "
            "usually {usual:.0f}",
        )
        for days in (7, 14)
    ]
    return counts + shares + known + ordinary


FEATURES: tuple[Feature, ...] = (
    _feature(
        "amount",
        "account",
        "currency units",
        "The amount; the key column itself.",
        "amount {amount:.2f}, usually {usual:.2f}",
    ),
    _feature(
        "is_weekend",
        "time",
        "0 or 1",
        "Saturday or Sunday, local time.",
        "on a weekend (1 is yes: {value:.0f}), usually {usual:.0f}",
    ),
    _feature(
        "is_night",
        "time",
        "0 or 1",
        "Before 07:00 local time.",
        "before 7 in the morning (1 is yes: {value:.0f}), usually {usual:.0f}",
    ),
    *_account_windows(),
    *_amount_ratios(),
    _feature(
        "amount_account_zscore_30d",
        "account",
        "standard deviations",
        "The amount less the mean of the same earlier amounts, over their standard deviation (at "
        "least a tenth of the mean).",
        "amount {amount:.2f} is {value:.1f} standard deviations above this account's 30-day mean",
        _NEW_ACCOUNT,
    ),
    *_settled_amounts(),
    _feature(
        "seconds_since_account_transaction",
        "account",
        "s",
        "Time since the account's previous transaction, within 30 days.",
        "{value:.0f} s after this account's previous transaction, usually {usual:.0f} s",
        _NEW_ACCOUNT,
    ),
    _feature(
        "is_new_merchant_30d",
        "account",
        "0 or 1",
        "The account did not pay this merchant earlier in 30 days.",
        "first payment to this merchant in 30 days (1 is yes: {value:.0f}), usually {usual:.0f}",
    ),
    *(
        _feature(
            f"account_merchants_{days}d",
            "account",
            "merchants",
            f"Merchants that the account paid in the last {days} days, this one included.",
            f"{{value:.0f}} different merchants in {days} d, usually {{usual:.0f}}",
        )
        for days in (7, 30)
    ),
    *_high_amounts(),
    *_merchant_windows(),
    _feature(
        "amount_to_merchant_mean_30d",
        "merchant",
        "ratio",
        "The amount over the mean of the merchant's earlier amounts in 30 days.",
        f"amount {{amount:.2f}} is {{value:.1f}} {_TIMES} this merchant's 30-day mean",
        _NEW_MERCHANT,
    ),
    _feature(
        "amount_merchant_zscore_30d",
        "merchant",
        "standard deviations",
        "The amount less the mean of the same earlier amounts, over their standard deviation (at "
        "least a tenth of the mean).",
        "amount {amount:.2f} is {value:.1f} standard deviations above this merchant's 30-day mean",
        _NEW_MERCHANT,
    ),
    _feature(
        "seconds_since_merchant_transaction",
        "merchant",
        "s",
        "Time since the merchant's previous transaction, within 30 days.",
        "{value:.0f} s after this merchant's previous transaction, usually {usual:.0f} s",
        _NEW_MERCHANT,
    ),
    _feature(
        "days_since_merchant_known_fraud",
        "label",
        "d",
        "Time since the merchant's newest known fraud became known, within 30 days.",
        "a fraud at this merchant became known {value:.1f} days ago",
    ),
    _feature(
        "merchant_known_fraud_ratio",
        "label",
        "ratio",
        "The amount of the merchant's newest known fraud, of 14 days and the label delay, over the "
        "median of that account's 16 days before.",
        f"the last fraud known at this merchant was {{value:.1f}} {_TIMES} that account's median",
    ),
    _feature(
        "days_since_merchant_known_genuine",
        "label",
        "d",
        "Time since the merchant's newest known genuine transaction became known, within 30 days.",
        "the last transaction at this merchant known to be genuine is {value:.1f} days back, "
        "usually {usual:.1f}",
        "no transaction at this merchant became known to be genuine in 30 days",
    ),
    _feature(
        "merchant_fraud_run",
        "label",
        "frauds",
        "Frauds at the merchant known since its last known genuine one, within 30 days.",
        "the last {value:.0f} transactions known of this merchant were all fraud, "
        "usually {usual:.0f}",
    ),
    _feature(
        "days_since_merchant_fraud_run_began",
        "label",
        "d",
        "Time since the first fraud of that run became known.",
        "nothing but fraud became known of this merchant for {value:.1f} days",
    ),
    _feature(
        "account_known_frauds_30d",
        "label",
        "frauds",
        "Frauds on the account that became known in the last 30 days.",
        "{value:.0f} frauds on this account became known in 30 d, usually {usual:.0f}",
    ),
    _feature(
        "days_since_account_known_fraud",
        "label",
        "d",
        "Time since the account's newest known fraud became known, within 30 days.",
        "a fraud on this account became known {value:.1f} days ago",
    ),
    _feature(
        "account_category_share_30d",
        "place",
        "share",
        "Share of this category among the account's transactions in 30 days, this one included.",
        "{value:.0%} of this account's transactions are in this category, usually {usual:.0%}",
        "the category is not given",
    ),
    _feature(
        "amount_to_account_category_mean_30d",
        "place",
        "ratio",
        "The amount over the mean of the account's earlier amounts in this category in 30 days.",
        f"amount {{amount:.2f}} is {{value:.1f}} {_TIMES} this account's mean in this category",
        "this account's mean in this category is not known",
    ),
    _feature(
        "distance_to_merchant_km",
        "place",
        "km",
        "Great-circle distance from the account's coordinates to the merchant's.",
        "{value:.0f} km from the account holder, usually {usual:.0f} km",
        "the distance from the account holder is not known",
    ),
    _feature(
        "distance_from_previous_km",
        "place",
        "km",
        "Distance from the merchant of the account's previous transaction, within 30 days.",
        "{value:.0f} km from this account's previous payment, usually {usual:.0f} km",
        "the distance from this account's previous payment is not known",
    ),
    _feature(
        "speed_from_previous_kmh",
        "place",
        "km/h",
        "That distance over the time in between, taken as one minute at least.",
        "{value:.0f} km/h from this account's previous payment, usually {usual:.0f} km/h",
        "the speed from this account's previous payment is not known",
    ),
)

BOOK_FEATURES: tuple[str, ...] = (
    "amount",
    "is_weekend",
    "is_night",
    *(f"account_{kind}_{days}d" for kind in ("count", "mean_amount") for days in (1, 7, 30)),
    *(f"merchant_{kind}_{days}d" for kind in ("count", "fraud_share") for days in (1, 7, 30)),
)

# For detectors that learn without labels, standardised as they are: on 2018-07-11..17 and
# 07-18..24 of the handbook k-nearest neighbours reach AP .60 and .47 with these, .56 and .45 with
# six amount ratios and the shares, .48 and .41 with the book's 15. Logarithms of the ratios cost
# .06 and more.
LEAN_FEATURES: tuple[str, ...] = (
    "amount",
    "amount_to_account_median_30d",
    "amount_to_account_max_30d",
    "amount_account_zscore_30d",
    "account_high_amounts_7d",
    "account_high_amounts_14d",
    "merchant_fraud_share_1d",
    "merchant_fraud_share_7d",
    "merchant_fraud_share_30d",
)

# For trees that learn from labels: everything but the place, which few sources have.
BOOSTED_FEATURES: tuple[str, ...] = tuple(
    feature.name for feature in FEATURES if feature.group != "place"
)


def feature_names(
    *, groups: Iterable[str] | None = None, uses_labels: bool | None = None
) -> tuple[str, ...]:
    """Give the names of the features of these groups, with or without those that use labels.

    Example:
        >>> feature_names(groups=["time"])
        ('is_weekend', 'is_night')
    """
    wanted = None if groups is None else set(groups)
    return tuple(
        feature.name
        for feature in FEATURES
        if (wanted is None or feature.group in wanted)
        and (uses_labels is None or feature.uses_labels == uses_labels)
    )
