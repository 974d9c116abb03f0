"""The network of the regression tables as a Pyro program, and its draws: by chains, or by a mean-field guide."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.func import stack_module_state

import pyro_bdl as bdl
from models.networks import fully_connected
from models.schedules import falling
from pyro_bdl.data_plate import data_size
from pyro_bdl.diagnostics.regression import mixture_log_likelihood, rmse

KERNELS: dict[str, Callable[..., Any]] = {"SGHMC": bdl.SGHMC, "SGLD": bdl.SGLD}
Noise = Literal["constant", "varying"]
MODE_RATE, PRECISION_RATE = 1e-2, 1e-1  # of Adam, at first; log precisions have far to go
SMALL = 0.1  # varying noise begins nearly constant


class Model:
    """y_n ~ N(f(x_n), s_n^2), with s_n = precision^(-1/2), or with s_n = exp(h(x_n)) precision^(-1/2) (varying).

    Args:
        columns: of x.
        hidden: units of the one hidden layer; f and h are two outputs of one network.
        noise: constant or varying.
        prior_scale: s of the weights' prior N(0, s^2 / fan-in).
        shape, rate: of the precision's prior, Gamma, in the units of y.
    """

    def __init__(
        self, columns: int, hidden: int, *, noise: Noise, prior_scale: float, shape: float, rate: float
    ) -> None:
        self._sizes = [columns, hidden, 2 if noise == "varying" else 1]
        self.varying, self._prior_scale, self._shape, self._rate = noise == "varying", prior_scale, shape, rate
        self.bnn = bdl.BayesianModule(self._network(), bdl.priors.Gaussian(prior_scale, fan_in=True))

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """For a batch; the kernel, or the fit, says of how many data points it is."""
        out = self.bnn(x)
        precision = pyro.sample("precision", dist.Gamma(self._shape, self._rate))
        with pyro.plate("data", size=data_size(len(x)), subsample_size=len(x)):
            pyro.sample("y", dist.Normal(out[:, 0], self._deviation(out, precision)), obs=y)

    def modes(
        self, x: Tensor, y: Tensor, *, chains: int, steps: int, batch_size: int, seed: int
    ) -> list[dict[str, Tensor]]:
        """Near modes of the posterior, after so many steps of Adam from fresh networks, all at once."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found, _ = stack_module_state([self._network() for _ in range(chains)])
            found["precision"] = torch.zeros(chains, requires_grad=True)  # its logarithm, until the end
            inputs = {name: self._sizes[0] if name.startswith("fc1") else self._sizes[1] for name in found}
            decays = {name: 0.0 if name == "precision" else n / self._prior_scale**2 for name, n in inputs.items()}
            groups = [{"params": [value], "weight_decay": decays[name] / len(x)} for name, value in found.items()]
            rates = [PRECISION_RATE if name == "precision" else MODE_RATE for name in found]
            optimizer = torch.optim.Adam(groups, lr=MODE_RATE, fused=True)
            for step in range(steps):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * falling(step / steps)
                rows = torch.randint(len(x), (min(batch_size, len(x)),))
                hidden = (x[rows] @ found["fc1.weight"].mT + found["fc1.bias"][:, None]).relu()
                out = hidden @ found["fc2.weight"].mT + found["fc2.bias"][:, None]
                deviation = self._deviation(out, found["precision"].exp()[:, None])
                loss = 0.5 * ((y[rows] - out[..., 0]) / deviation).square() + deviation.log()
                optimizer.zero_grad()
                loss.mean(1).sum().backward()
                optimizer.step()
        found = {name: value.detach() for name, value in found.items()}
        found["precision"] = found["precision"].exp()
        return [{name: value[chain] for name, value in found.items()} for chain in range(chains)]

    def information(self, values: Mapping[str, Tensor], x: Tensor) -> float:
        """What the data tell about a constant added to f: the sum of 1 / s_n^2."""
        draw = {name: value[None] for name, value in values.items()}
        deviation = self._deviation(bdl.predict(self.bnn, draw, x), draw["precision"][:, None])
        return float(deviation.expand(1, len(x)).pow(-2).sum())

    def judge(self, draws: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[float, float]:
        """Root mean squared error, and the log-likelihood of the predictive mixture in nats a point."""
        out = bdl.predict(self.bnn, draws, x)
        mean, deviation = out[..., 0], self._deviation(out, draws["precision"][:, None])
        return rmse(mean, y), mixture_log_likelihood(mean, deviation, y)

    def _deviation(self, out: Tensor, precision: Tensor) -> Tensor:
        constant = precision.rsqrt()
        return constant * out[..., 1].exp() if self.varying else constant

    def _network(self) -> torch.nn.Sequential:
        net = fully_connected(self._sizes)
        if self.varying:
            with torch.no_grad():
                for parameter in net.get_submodule("fc2").parameters():
                    parameter[1].mul_(SMALL)
        return net


def by_chains(
    model: Model, x: Tensor, y: Tensor, *, kernel: str, chains: int, mode_steps: int, mode_batch_size: int,
    step_size: float, warmup: int, updates: int, thinning: int, batch_size: int, friction: float, seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Draws of chains from modes of their own, all at once.

    The step size is over the information at these modes (the mean of theirs): tables differ by the size of noise.

    Raises:
        NumericalError: a chain leaves the finite numbers.
    """
    modes = model.modes(x, y, chains=chains, steps=mode_steps, batch_size=mode_batch_size, seed=seed)
    information = sum(model.information(mode, x) for mode in modes) / chains
    options = {"friction": friction} if kernel == "SGHMC" else {}
    each = iter(modes)
    sampler = KERNELS[kernel](
        model, data=(x, y), batch_size=min(batch_size, len(x)), step_size=step_size / information,
        init=lambda *_: next(each), thinning=thinning, jit_compile=True, **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        return bdl.sample_chains(
            sampler, num_samples=updates // thinning, warmup_steps=warmup // thinning, num_chains=chains,
            chain_method="vectorized", seed=seed, progress=False,
        ).get_samples()  # fmt: skip


def by_svi(
    model: Model, x: Tensor, y: Tensor, *, epochs: int, learning_rate: float, batch_size: int, draws: int, seed: int
) -> dict[str, Tensor]:
    """Draws of a mean-field guide, fitted with local reparameterisation."""
    guide = bdl.guides.AutoMeanField(model)
    with pyro.get_param_store().scope():
        bdl.fit_svi(
            model, guide, (x, y), epochs=epochs, batch_size=min(batch_size, len(x)), schedule=falling,
            optimizer=functools.partial(torch.optim.Adam, lr=learning_rate), progress=False, seed=seed,
        )  # fmt: skip
        return bdl.guide_draws(guide, x[:1], y[:1], num_samples=draws, seed=seed)
