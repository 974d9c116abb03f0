"""How biased are local draws in convolutions, and whose gradients vary less?

    python -m tests.benchmarks.bench_convolution_bias [--draws 2000] [--gradients 300] [--scales 0.02 0.1 0.3]

A convolution's output positions share the filter; the local estimator draws each on its own. Here the expected
cross-entropy of a small network on scikit-learn's digits (fitted for a moment, so that its logits mean something) is
estimated with ordinary, flipout and local draws of the same posterior, whose deviation is a fraction of each layer's
root-mean-square weight. Printed are the differences to ordinary draws with standard errors, and the variance of the
gradient by all means and by all log-variances as ratios to the local estimator's.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.estimators import Estimator, flipout, local_reparameterization
from pyro_bdl.guides import AutoMeanField

ESTIMATORS = ("plain", "flipout", "local")


def network() -> nn.Module:
    """Two convolutions and a linear layer, for 8 x 8 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def digits(points: int) -> tuple[Tensor, Tensor]:
    """The first images and labels, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images[:points] / 16.0, dtype=torch.float32), torch.tensor(data.target[:points])


def fit(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> float:
    """Ordinary training, so that the weights are not those of a random network."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


class Posterior:
    """Gaussians around a network's weights; draws its outputs by any estimator."""

    def __init__(self, net: nn.Module, relative_scale: float, x: Tensor) -> None:
        self.bnn = bdl.BayesianModule(net)
        self.guide = AutoMeanField(self.bnn)
        self.guide(x)
        for site, part in zip(self.guide.sites, self.guide.log_variance.data.split(self.sizes), strict=True):
            rms = net.get_parameter(site.name).detach().square().mean().sqrt()
            part.fill_(2.0 * math.log(relative_scale * float(rms)))
        self.estimators: dict[str, Estimator] = {
            "local": local_reparameterization(self.guide, model=self.bnn, fallback="raise"),
            "flipout": flipout(self.guide, model=self.bnn, fallback="raise"),
        }
        for estimator in self.estimators.values():
            estimator.examine(self.bnn, (x,), {})

    @property
    def sizes(self) -> list[int]:
        """How many numbers each site has."""
        return [site.size for site in self.guide.sites]

    def loss(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy of one pass."""
        weights = {}
        for site, (loc, variance) in zip(self.guide.sites, self.guide.moments(), strict=True):
            if name == "plain":
                weights[site.name] = torch.addcmul(loc, variance.sqrt(), torch.randn_like(loc))
            else:
                weights[site.name] = self.estimators[name].defer(site.name, loc, variance)
        return F.cross_entropy(torch.func.functional_call(self.bnn.net, weights, (x,)), y)

    @torch.no_grad()
    def losses(self, name: str, x: Tensor, y: Tensor, draws: int) -> Tensor:
        """The losses of many passes."""
        return torch.stack([self.loss(name, x, y) for _ in range(draws)])

    def gradient_variance(self, name: str, x: Tensor, y: Tensor, draws: int) -> tuple[float, float]:
        """The summed variance of the gradients by means and by log-variances."""
        leaves = [self.guide.loc, self.guide.log_variance]
        gradients = [torch.autograd.grad(self.loss(name, x, y), leaves) for _ in range(draws)]
        return tuple(float(torch.stack(g).var(0).sum()) for g in zip(*gradients, strict=True))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=128, help="images in the batch (default 128)")
    parser.add_argument("--draws", type=int, default=2_000, help="passes for each expected loss (default 2000)")
    parser.add_argument("--gradients", type=int, default=300, help="gradients for each variance (default 300)")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.02, 0.1, 0.3], help="relative deviations")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, y = digits(options.points)
    net = network()
    print(f"plain network: cross-entropy {fit(net, x, y, 300):.4f}; torch {torch.__version__}")
    print(
        f"{'deviation':>9} {'estimator':>9} {'loss':>8} {'minus plain':>22} {'var(d mean)':>15} {'var(d logvar)':>17}"
    )
    for scale in options.scales:
        posterior = Posterior(net, scale, x)
        losses = {name: posterior.losses(name, x, y, options.draws).double() for name in ESTIMATORS}
        variances = {name: posterior.gradient_variance(name, x, y, options.gradients) for name in ESTIMATORS}
        for name in ESTIMATORS:
            difference = float(losses[name].mean() - losses["plain"].mean())
            error = math.sqrt(sum(float(losses[k].var()) / options.draws for k in (name, "plain")))
            told = "" if name == "plain" else f"{difference:+.4f} +- {error:.4f}"
            ratios = [a / b for a, b in zip(variances[name], variances["local"], strict=True)]
            mean = float(losses[name].mean())
            print(f"{scale:9.2f} {name:>9} {mean:8.4f} {told:>22} {ratios[0]:14.1f}x {ratios[1]:16.1f}x")


if __name__ == "__main__":
    main()
