"""Member weights learned from matured labels."""

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

LEAST_FRAUDS = 100  # known ones; fewer say too little about which member to trust
RIDGE = 1e-4  # pull of the weights towards 0, which settles members that say the same

Vector = npt.NDArray[np.float64]


def learn_weights(surprises: Tensor, is_fraud: Tensor) -> Tensor:
    """Learn how much to trust each member, by logistic regression without negative weights.

    Maximises the likelihood of the labels under P(fraud) = sigmoid(b + sum(w_m * surprise_m)) with
    w_m >= 0, so that no member's surprise ever lowers a score. Not valid with a handful of frauds;
    see ``LEAST_FRAUDS``.

    Shape:
        surprises: (rows, members). is_fraud: (rows,), boolean. Returns: (members,), float64,
            >= 0, summing to 1; all equal if no member tells frauds apart.

    Source: stacking with non-negative weights: Breiman, 1996, "Stacked Regressions". Departure:
        the likelihood of a binary outcome in place of squares.
    """
    s = surprises.double().cpu().numpy()  # (rows, members)
    y = is_fraud.double().cpu().numpy()  # (rows,)
    n_rows, n_members = s.shape

    def loss(parameters: Vector) -> tuple[float, Vector]:
        bias, weights = parameters[0], parameters[1:]
        logit = bias + s @ weights
        value = np.logaddexp(0, logit).mean() - (y * logit).mean() + RIDGE * weights @ weights
        error = (expit(logit) - y) / n_rows
        return float(value), np.concatenate([[error.sum()], s.T @ error + 2 * RIDGE * weights])

    share = min(max(y.mean(), 1 / n_rows), 1 - 1 / n_rows)
    start = np.concatenate([[np.log(share / (1 - share))], np.full(n_members, 0.1)])
    bounds = [(None, None)] + [(0.0, None)] * n_members
    precise = {"ftol": 1e-13, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=precise)
    weights = torch.from_numpy(found.x[1:])
    total = weights.sum()
    return weights / total if total > 0 else torch.full_like(weights, 1 / n_members)
