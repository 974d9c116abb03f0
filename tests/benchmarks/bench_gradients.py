"""How much noise the gradient estimators leave: `python -m tests.benchmarks.bench_gradients`.

Logistic regression on scikit-learn's breast_cancer (569 points, 30 features and a constant, prior N(0, 1)), batches of
32, along an SGLD chain begun at the mode: the mean variance of a parameter's gradient from batch to batch, over that of
plain minibatches at the same parameters.
"""

import argparse
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from pyro_bdl.sgmcmc import SGLD, SVRG, ControlVariate, Minibatch

BATCH, EPOCH = 32, 18


def data() -> tuple[Tensor, Tensor]:
    x, y = load_breast_cancer(return_X_y=True)
    x = torch.from_numpy((x - x.mean(0)) / x.std(0))
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1), torch.from_numpy(y).double()


def model(x: Tensor, y: Tensor) -> None:
    theta = pyro.sample("theta", dist.Normal(torch.zeros(31, dtype=torch.float64), 1.0).to_event(1))
    with pyro.plate("data", size=569, subsample_size=len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ theta), obs=y)


def mode(x: Tensor, y: Tensor) -> Tensor:
    kernel = SGLD(model, data=(x, y), step_size=2e-3, temperature=0.0, thinning=3000)
    kernel.setup(0)
    return kernel.sample(kernel.initial_params)["theta"]


def variance(kernel: Any, position: Tensor, batches: int) -> float:
    """Of the estimate at a position, over batches drawn with the same numbers for each estimator."""
    torch.manual_seed(1)
    found = [kernel.chain.estimate(position, kernel.batches.next())[1].clone() for _ in range(batches)]
    return float(torch.stack(found).var(0).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--places", type=int, default=40)
    parser.add_argument("--batches", type=int, default=90)
    options = parser.parse_args()
    x, y = data()
    start = mode(x, y)
    estimators = {
        "ControlVariate(mode)": ControlVariate({"theta": start}),
        "SVRG(1 epoch)": SVRG(EPOCH),
        "SVRG(5 epochs)": SVRG(5 * EPOCH),
        "SVRG(20 epochs)": SVRG(20 * EPOCH),
    }
    for step_size in (1e-4, 1e-3):
        plain = SGLD(model, data=(x, y), batch_size=BATCH)
        plain.setup(0)
        for name, estimator in {"Minibatch()": Minibatch(), **estimators}.items():
            kernel = SGLD(
                model, data=(x, y), batch_size=BATCH, gradient=estimator, init={"theta": start}, step_size=step_size,
                thinning=97,
            )  # fmt: skip
            kernel.setup(0)
            own = base = 0.0
            for _ in range(options.places):
                position = kernel.sample(kernel.initial_params)["theta"].clone()
                own += variance(kernel, position, options.batches)
                base += variance(plain, position, options.batches)
            per_update = 0.5 * step_size * 0.5 * base / options.places
            print(f"e {step_size:.0e}  {name:22} variance ratio {own / base:.4f}  plain noise_ratio {per_update:.3f}")


if __name__ == "__main__":
    main()
