"""Categories as points: what the transactions of each category are usually like, in few numbers."""

import torch
from torch import Tensor

LARGEST_VALUE = 3.0  # in scales of a column; one wild row must not make its category's profile
LEAST_VARIANCE = 1e-3  # of a component before it is scaled; below, there is nothing to see
SUM_STEP = 2.0**-32  # 700 million values up to LARGEST_VALUE fit into int64 as multiples of it
UNKNOWN = 0


def embed_codes(
    codes: Tensor, values: Tensor, n_codes: int, *, embedding_dim: int, prior_rows: float
) -> Tensor:
    """Place each code by what its rows are usually like, without labels and in closed form.

    A code's profile is the shrunk mean of the columns over its rows (:func:`profile_codes`). The
    leading components of the profiles, codes weighted by their rows, are the embedding, each
    scaled to variance 1 over the rows. So a Gaussian, a distance or a network sees a value that is
    ordinary overall but odd for its category. Not valid for what a mean cannot show: categories
    that differ only in spread or in how columns hang together.

    Code 0 (unknown) and codes without rows are at zero, the overall mean. A component that is no
    larger than what codes dealt out at random would give (:func:`chance_variance`) is a column of
    zeros, as is one beyond the number of columns. The order of the rows does not matter.

    Shape:
        codes: (rows,), int64, below n_codes. values: (rows, columns), float64, finite, each column
            of about unit spread. Returns: (n_codes, embedding_dim), float64, finite.

    Args:
        codes: The category of each row.
        values: The numeric columns of the same rows.
        n_codes: How many codes there are, the unknown one included.
        embedding_dim: How many components, at most.
        prior_rows: Rows at which a code's own mean and the overall mean count alike.

    Source: the shrunk means are those of Micci-Barreca, 2001, "A Preprocessing Scheme for
        High-Cardinality Categorical Attributes in Classification and Prediction Problems", with
        the numeric columns in place of the target. Components of row profiles weighted by mass are
        the idea of Greenacre, 1984, "Theory and Applications of Correspondence Analysis";
        departure: means of numeric columns in place of shares of counts, so no chi-squared metric.
        Guo & Berkhahn, 2016, "Entity Embeddings of Categorical Variables", learn such points with
        a network and labels; here nothing is trained.

    Example:
        >>> codes = torch.tensor([1, 2]).repeat(500)
        >>> amounts = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(500, 1)
        >>> embed_codes(codes, amounts, 4, embedding_dim=1, prior_rows=20.0).flatten().tolist()
        [0.0, -1.0, 1.0, 0.0]
    """
    embedding = values.new_zeros(n_codes, embedding_dim)
    if values.shape[1] == 0:
        return embedding
    clamped = values.clamp(-LARGEST_VALUE, LARGEST_VALUE)  # (rows, columns)
    counts = torch.bincount(codes, minlength=n_codes).double()  # (n_codes,)
    profiles = profile_codes(codes, clamped, counts, prior_rows)  # (n_codes, columns)
    share = (counts / counts.sum()).unsqueeze(1)  # (n_codes, 1)
    axes = torch.linalg.eigh(profiles.T @ (share * profiles)).eigenvectors  # least first
    components = profiles @ turn_to_positive(axes.flip(1)[:, :embedding_dim])
    mean = (share * components).sum(dim=0)
    variance = (share * (components - mean).square()).sum(dim=0)
    least = chance_variance(clamped, counts, prior_rows).clamp(min=LEAST_VARIANCE)
    embedding[:, : components.shape[1]] = torch.where(
        variance > least, components / variance.clamp(min=LEAST_VARIANCE).sqrt(), 0.0
    )
    return embedding


def profile_codes(codes: Tensor, values: Tensor, counts: Tensor, prior_rows: float) -> Tensor:
    """Give each code's mean over its rows, shrunk to the overall mean, which is 0.

    (sum over the code's rows of value - overall mean) / (rows + prior_rows).

    Shape:
        codes: (rows,), values: (rows, columns) within +-LARGEST_VALUE, counts: (n_codes,), rows of
            each code. Returns: (n_codes, columns); zero for code 0 and codes without rows.
    """
    # whole numbers add up to the same sum in any order, on a GPU too, where the order varies
    steps = (values / SUM_STEP).round().long()
    totals = torch.zeros(counts.shape[0], values.shape[1], dtype=torch.int64, device=values.device)
    totals.index_add_(0, codes, steps)
    mean = totals.sum(dim=0).double() * SUM_STEP / codes.shape[0]  # (columns,)
    rows = counts.unsqueeze(1)  # (n_codes, 1)
    profiles = (totals.double() * SUM_STEP - rows * mean) / (rows + prior_rows)
    profiles[UNKNOWN] = 0.0
    return profiles


def chance_variance(values: Tensor, counts: Tensor, prior_rows: float) -> Tensor:
    """Bound the variance of the leading component if codes had nothing to do with the values.

    Each code's profile is then noise with covariance C / rows, shrunk by rows / (rows +
    prior_rows), C being that of the values. The bound is on the mean, for codes with rows enough
    that their means are about normal, and rows independent of each other; the rows of one account
    are not, so it is a floor, not a test.

    Shape:
        values: (rows, columns), counts: (n_codes,). Returns: (), >= 0.

    Source: Chevet, 1978, "Series de variables aleatoires gaussiennes a valeurs dans E (x) F", with
        the constant 1 of Gordon, 1985, "Some inequalities for Gaussian processes and
        applications": the mean norm of S G T, G standard normal, is at most |S|_F |T| + |S| |T|_F.
    """
    covariance = values.T.cov(correction=0).reshape(values.shape[1], -1)  # (columns, columns)
    largest = torch.linalg.eigvalsh(covariance)[-1].clamp(min=0.0).sqrt()
    shrinkage = counts[counts > 0] / (counts[counts > 0] + prior_rows)
    weights = shrinkage / counts.sum().sqrt()  # (codes with rows,)
    spread: Tensor = (
        weights.square().sum().sqrt() * largest + weights.max() * covariance.trace().sqrt()
    )
    return spread.square()


def turn_to_positive(axes: Tensor) -> Tensor:
    """Fix each axis's sign: the first of its large loadings is positive.

    Large means at least half the largest: two loadings of equal size and opposite sign are common,
    and rounding must not choose between them.

    Shape:
        axes: (columns, components). Returns: the same shape.
    """
    size = axes.abs()
    first = (size >= size.max(dim=0).values / 2).int().argmax(dim=0, keepdim=True)
    return axes * axes.gather(0, first).sign()
