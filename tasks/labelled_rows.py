"""Which labelled rows boosted trees learn from: every fraud, and as many genuine rows as are of use.

Belongs here: choosing rows by what is known of them. Does not: the trees (``models.boosted``),
which days are known (``tasks.training_data``).
"""

import polars as pl

GENUINE_A_FRAUD = 50  # more genuine rows cost time and change nothing
LEAST_GENUINE = 100_000  # kept in any case: rare states of accounts and merchants need rows


def choose_labelled_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep all frauds, and of many genuine rows a sample.

    Rows of accounts and merchants already known to be compromised stay, as do frauds that nobody
    could have known: leaving out the one or the other did not help (``docs/log.md``).

    Args:
        frame: Rows with ``transaction_id`` and ``is_fraud`` as known.

    Returns:
        The rows chosen, in the frame's order. Which genuine rows are drawn depends on their
        identifiers and the two counts alone.
    """
    frauds = int(frame["is_fraud"].sum())
    genuine = frame.height - frauds
    wanted = max(GENUINE_A_FRAUD * frauds, LEAST_GENUINE)
    if genuine <= wanted:
        return frame
    # not the place by which training rows were drawn before, whatever the seed of that was
    place = pl.concat_str("transaction_id", pl.lit(" labelled")).hash() / 2.0**64
    is_drawn = place < wanted / genuine
    return frame.filter(pl.col("is_fraud") | is_drawn)
