"""Frames to tensors: missing values, categories, and a digest that sees every change."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.tensors import Encoding, frame_digest

FRAME = pl.DataFrame(
    {"a": [1.5, None, 3.0], "n": [1, 2, None], "c": ["x", None, "b"], "b": [True, False, None]}
)


def test_columns_become_numbers_in_the_order_asked():
    encoding = Encoding.fit(FRAME, ["c", "b", "n", "a"])
    assert encoding.vocabularies == {"c": ("b", "x")}
    assert encoding.cardinalities() == {"c": 3}
    x = encoding.matrix(FRAME)
    assert x.dtype == torch.float32
    expected = torch.tensor([[2, 1, 1, 1.5], [0, 0, 2, math.nan], [1, math.nan, math.nan, 3]])
    torch.testing.assert_close(x, expected, equal_nan=True, rtol=0, atol=0)


def test_missing_feature_is_named():
    with pytest.raises(ValueError, match=r"must be columns of the frame, but \['z'\] are not"):
        Encoding.fit(FRAME, ["a", "z"])


def test_no_rows_and_a_column_of_nulls_keep_their_shape():
    encoding = Encoding.fit(FRAME, ["a", "c"])
    assert encoding.matrix(FRAME.clear()).shape == (0, 2)
    nothing = pl.DataFrame({"a": [None, None], "c": [None, None]})
    assert encoding.matrix(nothing)[:, 0].isnan().all()
    assert encoding.matrix(nothing)[:, 1].tolist() == [0.0, 0.0]


def test_category_that_was_never_seen_has_only_the_unknown_code():
    encoding = Encoding.fit(FRAME.with_columns(c=pl.lit(None, pl.String)), ["a", "c"])
    assert encoding.cardinalities() == {"c": 1}
    assert encoding.matrix(FRAME)[:, 1].tolist() == [0.0, 0.0, 0.0]


@given(
    st.lists(st.none() | st.text(max_size=3), max_size=20),
    st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=20),
)
def test_each_known_value_has_its_own_code_and_others_are_unknown(known, values):
    encoding = Encoding.fit(pl.DataFrame({"c": pl.Series(known, dtype=pl.String)}), ["c"])
    codes = encoding.matrix(pl.DataFrame({"c": pl.Series(values, dtype=pl.String)}))[:, 0].tolist()
    vocabulary = sorted({value for value in known if value is not None}, key=str.encode)
    expected = [vocabulary.index(v) + 1 if v in vocabulary else 0 for v in values]
    assert codes == expected


@pytest.mark.parametrize(
    "changed",
    [
        FRAME.reverse(),
        FRAME.head(2),
        FRAME.rename({"a": "z"}),
        FRAME.cast({"a": pl.Float32}),
        FRAME.with_columns(a=pl.lit(1.5)),
        FRAME.select("n", "a", "c", "b"),
    ],
    ids=["order", "rows", "name", "type", "value", "columns"],
)
def test_digest_sees_a_change(changed):
    assert frame_digest(FRAME.clone()) == frame_digest(FRAME)
    assert frame_digest(changed) != frame_digest(FRAME)
