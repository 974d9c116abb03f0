"""The data of one run, the linear models, and the networks that take the linear predictor's place."""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import pyro_bdl as bdl
from models.deep_survival.settings import Settings
from pyro_bdl.data import GaussianRisk, Standardizer

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
LINEAR_SCALE = 10.0  # s of the linear models' prior: flat for covariates in standard units
CURVE_POINTS = 60


class Problem:
    """Subjects to learn from, subjects held out, and models of them.

    Attributes:
        train, held: covariates in standard units of the training part.
        unseen: which of those held out do not stand in the training part as well.
        times: where survival curves are wanted, (T,): the quantiles of the times of events, evenly spaced.
        horizons: the quartiles of the times of events, at which calibration is looked at.
        law: the law of the data, where it is known.
    """

    def __init__(
        self, name: str, settings: Settings, *, root: Path | None, seed: int, on_test: bool, progress: bool
    ) -> None:
        self.name, self.settings, self.seed, self.progress = name, settings, seed, progress
        # The split of the studies is given, and the simulated data are the same for all seeds.
        data_seed = 0 if name == "synthetic" else seed
        raw = bdl.data.load_survival(name, root=root, validation=0 if on_test else None, seed=data_seed)
        data = raw.standardized()
        self.train, self.unit = data.train, data.unit
        self.held, self.held_raw = (data.test, raw.test) if on_test else (data.validation, raw.validation)
        self.unseen = ~bdl.data.seen_before(self.held_raw, raw.train)
        self.intervals = bdl.Intervals.of_events(self.train.time, self.train.event, count=settings.intervals)
        happened = self.train.time[self.train.event]
        self.times = happened.quantile(torch.linspace(0.01, 0.99, CURVE_POINTS)).unique()
        self.horizons = happened.quantile(torch.tensor([0.25, 0.5, 0.75]))
        self.law = GaussianRisk() if name == "synthetic" else None
        self.in_standard_units = Standardizer.fit(raw.train.x)

    @property
    def outputs(self) -> int:
        """Of a predictor."""
        return len(self.intervals.rates) if self.settings.per_interval else 1

    def cox(self) -> bdl.PartialLikelihood:
        """Cox's model by its partial likelihood."""
        return bdl.PartialLikelihood(self._linear(1))

    def linear(self) -> bdl.SurvivalRegressor:
        """A linear predictor, or one for each interval, with a piecewise constant baseline."""
        return bdl.SurvivalRegressor(self._linear(self.outputs), self.intervals)

    def deep(self, seed: int, scale: float) -> bdl.SurvivalRegressor:
        """The same with a Bayesian network."""
        prior = bdl.priors.Gaussian(scale, fan_in=True)
        return bdl.deepify(self.linear(), bdl.BayesianModule(self._network(seed), prior))

    def _linear(self, outputs: int) -> bdl.BayesianModule:
        layer = nn.Linear(self.train.x.shape[1], outputs, bias=False)
        nn.init.zeros_(layer.weight)
        return bdl.BayesianModule(layer, bdl.priors.Gaussian(LINEAR_SCALE))

    def _network(self, seed: int) -> nn.Sequential:
        sizes = [self.train.x.shape[1], *self.settings.hidden, self.outputs]
        layers: list[nn.Module] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for fan_in, fan_out in itertools.pairwise(sizes):
                layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[self.settings.activation]()]
        return nn.Sequential(*layers[:-1])
