"""How good predicted survival curves are: concordance, integrated Brier score, log-likelihood, calibration.

Concordance and Brier scores are those of scikit-survival (`pip install pyro-bdl[survival]`).
"""

import importlib.util
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.deep_survival.fits import Fitted
from models.deep_survival.problem import Problem
from models.tables import Row
from pyro_bdl.data import Subjects
from pyro_bdl.diagnostics.survival import Reliability, d_calibration, survival_reliability
from pyro_bdl.errors import InputError

BAND = 0.9


@dataclass
class Judged:
    """A row of the table, and what the figures need.

    Attributes:
        curves: predicted survival of those held out, (draws, N, T).
        reliability: one for each horizon.
    """

    row: Row
    curves: Tensor
    reliability: list[Reliability]


def require_scikit_survival() -> None:
    """Ask for what `judge` needs before anything is fitted.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("sksurv") is None:
        raise InputError("scikit-survival", expected="a package that is installed", got="none",
                         remedy="Say pip install pyro-bdl[survival]")  # fmt: skip


def judge(fitted: Fitted, problem: Problem) -> Judged:
    """Of a fit, on the subjects held out."""
    held = problem.held
    curves = fitted.curves(held.x, problem.times)
    mean = curves.mean(0)
    groups = min(10, len(held.time) // 5)
    at_horizons = fitted.curves(held.x, problem.horizons).clamp(0, 1)
    reliability = [
        survival_reliability(at_horizons[..., k], held.time, held.event, float(horizon), groups=groups)
        for k, horizon in enumerate(problem.horizons)
    ]
    row: Row = {
        "method": fitted.name,
        "concordance": concordance(mean, held),
        "of those unseen": concordance(mean[problem.unseen], _rows(held, problem.unseen)),
        "integrated Brier": integrated_brier(mean, problem.times, problem.train, held),
        "log-likelihood": _log_likelihood(fitted, held),
        "calibration error": statistics.mean(each.error for each in reliability),
        "groups covered": statistics.mean(each.coverage for each in reliability),
        "D-calibration p": d_calibration(fitted.survival_at_own_times(held).clamp(0, 1), held.event).p_value,
        "true curves in band": true_curves_covered(curves, problem),
        "seconds": fitted.seconds,
    }
    if bool(problem.unseen.all()):
        del row["of those unseen"]
    return Judged({key: value for key, value in row.items() if value is not None}, curves, reliability)


def concordance(curves: Tensor, subjects: Subjects) -> float:
    """Harrell's index: of pairs of which it is known who had the event first, the share that is ranked so.

    Subjects are ranked by the mean of their curve over the quantiles of the times of events, the expected rank of their
    time: like the index itself that does not change with the unit or a transformation of time. For the proportional
    hazards of a point estimate it is the order of the hazard ratios.
    """
    from sksurv.metrics import concordance_index_censored

    rank = curves.double().mean(1)
    return float(concordance_index_censored(subjects.event.numpy(), subjects.time.numpy(), -rank.numpy())[0])


def integrated_brier(curves: Tensor, times: Tensor, train: Subjects, held: Subjects) -> float:
    """The mean over times of the squared error of the survival probability, weighed for censoring (Graf et al. 1999).

    Times beyond the last one of the training part are cut to it, since nothing is known of censoring there.
    """
    from sksurv.metrics import integrated_brier_score

    last = float(train.time.max())
    inside = (times > held.time.min()) & (times < min(last, float(held.time.max())))
    observed = [_structured(train), _structured(held._replace(time=held.time.clamp_max(last)))]
    return float(integrated_brier_score(*observed, curves[:, inside].double().numpy(), times[inside].double().numpy()))


def true_curves_covered(curves: Tensor, problem: Problem) -> float | None:
    """The share of the known survival probabilities that lie in the posterior's central band, where both exist."""
    if problem.law is None or len(curves) == 1:
        return None
    truth = problem.law.survival(problem.held_raw.x, problem.times)
    low, high = curves.quantile(torch.tensor([0.5 - BAND / 2, 0.5 + BAND / 2]), dim=0)
    return float(((low <= truth) & (truth <= high)).double().mean())


def mean_row(rows: list[Row], method: str) -> Row:
    """The mean over seeds of a method's rows."""
    own = [row for row in rows if row["method"] == method and row["seed"] != "mean"]
    numbers = {key: statistics.mean(row[key] for row in own) for key in own[0] if key not in ("method", "seed")}
    return {"seed": "mean", "method": method} | numbers


def _log_likelihood(fitted: Fitted, held: Subjects) -> float | None:
    """The mean over subjects of the log of the predictive density, or survival, in nats (and log units of time)."""
    if fitted.log_likelihood is None:
        return None
    pointwise = fitted.log_likelihood(held).double()
    return float((pointwise.logsumexp(0) - np.log(len(pointwise))).mean())


def _structured(subjects: Subjects) -> Any:
    from sksurv.util import Surv

    return Surv.from_arrays(subjects.event.numpy(), subjects.time.double().numpy())


def _rows(subjects: Subjects, chosen: Tensor) -> Subjects:
    return Subjects(*(column[chosen] for column in subjects))
