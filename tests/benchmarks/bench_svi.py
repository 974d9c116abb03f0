"""What one step of `fit_svi` costs: `python -m tests.benchmarks.bench_svi [--threads 1] [--steps 300]`.

The reference is the same mathematics by hand: autograd, one fused Adam, closed-form KL under N(0, 1), no Pyro; `nodes`
is the group normal-Jeffreys prior. `lrt` draws outputs (local reparameterisation), `ws` draws weights. A step of ours
is the whole time from one batch to the next as the public loop asks for them; the reference runs in between, on the
same batch, in the same process. Figures are medians over the steps, and the median ratio of three repeats.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import pyro_bdl as bdl

N = 60_000
SCALE = 0.05
Batch = tuple[Tensor, Tensor]


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet5() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], int, int]] = {
    "lenet-300-100": (lambda: mlp(784, 300, 100, 10), (784,), 10, 128),
    "lenet-5-caffe": (lenet5, (1, 28, 28), 10, 128),
    "4-4-4-2": (lambda: mlp(4, 4, 4, 2), (4,), 2, 8),
}


def kl_terms(loc: Tensor, variance: Tensor, log_variance: Tensor) -> Tensor:
    flat = loc.reshape(-1)
    return 0.5 * (torch.dot(flat, flat) + variance.sum() - log_variance.sum() - loc.numel())


class LocalLayer(nn.Module):
    """A linear or convolutional layer by hand, its output drawn."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.linear = isinstance(layer, nn.Linear)
        weight = layer.weight.detach().clone()
        self.loc = nn.Parameter(weight.t().contiguous() if self.linear else weight)  # addmm needs no transpose
        self.bias = nn.Parameter(layer.bias.detach().clone())
        self.log_variance = nn.Parameter(torch.full_like(self.loc, 2 * math.log(SCALE)))
        self.bias_log_variance = nn.Parameter(torch.full_like(self.bias, 2 * math.log(SCALE)))

    def forward(self, x: Tensor) -> Tensor:
        variance, bias_variance = self.log_variance.exp(), self.bias_log_variance.exp()
        self.kl = kl_terms(self.loc, variance, self.log_variance)
        self.kl = self.kl + kl_terms(self.bias, bias_variance, self.bias_log_variance)
        if self.linear:
            mean, scale = torch.addmm(self.bias, x, self.loc), torch.addmm(bias_variance, x * x, variance).sqrt()
        else:
            mean, scale = F.conv2d(x, self.loc, self.bias), F.conv2d(x * x, variance, bias_variance).sqrt()
        return torch.addcmul(mean, scale, torch.randn_like(mean))


class NodeLayer(LocalLayer):
    """The same with a scale for each input unit or output channel under the log-uniform prior, drawn per data point."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        nodes = layer.in_features if isinstance(layer, nn.Linear) else layer.out_channels
        self.scale_loc = nn.Parameter(torch.ones(nodes))
        self.scale_log_variance = nn.Parameter(torch.full((nodes,), 2 * math.log(SCALE)))

    def forward(self, x: Tensor) -> Tensor:
        variance, bias_variance = self.log_variance.exp(), self.bias_log_variance.exp()
        alpha = self.scale_log_variance - 2 * self.scale_loc.abs().log()
        self.kl = kl_terms(self.loc, variance, self.log_variance)
        self.kl = self.kl + kl_terms(self.bias, bias_variance, self.bias_log_variance)
        self.kl = self.kl + (0.63576 * torch.sigmoid(-1.87320 - 1.48695 * alpha) + 0.5 * F.softplus(-alpha)).sum()
        noise = torch.randn(len(x), len(self.scale_loc))
        z = torch.addcmul(self.scale_loc, (0.5 * self.scale_log_variance).exp(), noise)
        if self.linear:
            x = x * z
            mean, scale = torch.addmm(self.bias, x, self.loc), torch.addmm(bias_variance, x * x, variance).sqrt()
            return torch.addcmul(mean, scale, torch.randn_like(mean))
        z = z[:, :, None, None]
        mean, scale = F.conv2d(x, self.loc), F.conv2d(x * x, variance).sqrt()
        bias = torch.addcmul(self.bias, bias_variance.sqrt(), torch.randn(len(x), len(self.bias)))
        return torch.addcmul(mean, scale, torch.randn_like(mean)) * z + bias[:, :, None, None]


def lrt(net: nn.Sequential, layer: type[LocalLayer] = LocalLayer) -> Callable[[Tensor, Tensor], Tensor]:
    layers = nn.Sequential(*(layer(m) if hasattr(m, "weight") else m for m in net))
    random = [m for m in layers if isinstance(m, LocalLayer)]
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3, fused=True)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        out = layers(x)
        loss = F.cross_entropy(out, y, reduction="sum") * (N / len(x)) + sum(m.kl for m in random)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def ws(net: nn.Sequential) -> Callable[[Tensor, Tensor], Tensor]:
    names = [name for name, _ in net.named_parameters()]
    locs = [nn.Parameter(p.detach().clone()) for p in net.parameters()]
    log_variances = [nn.Parameter(torch.full_like(p, 2 * math.log(SCALE))) for p in locs]
    optimizer = torch.optim.Adam(locs + log_variances, lr=1e-3, fused=True)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        weights, kl = {}, torch.zeros(())
        for name, loc, log_variance in zip(names, locs, log_variances, strict=True):
            variance = log_variance.exp()
            weights[name] = torch.addcmul(loc, variance.sqrt(), torch.randn_like(loc))
            kl = kl + kl_terms(loc, variance, log_variance)
        out = torch.func.functional_call(net, weights, (x,))
        loss = F.cross_entropy(out, y, reduction="sum") * (N / len(x)) + kl
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


class Interleaved(Dataset[Batch]):
    """Batches for `fit_svi`, each of which times the step before it and runs the reference."""

    def __init__(self, reference: Callable[[Tensor, Tensor], Tensor], batches: list[Batch], warmup: int) -> None:
        self.reference, self.batches, self.warmup = reference, batches, warmup
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.left = 0.0

    def __getitem__(self, index: int) -> Batch:
        if index == 0:  # counted once, checked in the first epoch: the last one counts
            self.ours, self.theirs = [], []
        x, y = self.batches[index % len(self.batches)]
        begin = time.perf_counter()
        self.reference(x, y)
        now = time.perf_counter()
        if index > self.warmup:
            self.ours.append(begin - self.left)
            self.theirs.append(now - begin)
        self.left = time.perf_counter()
        return x, y


def compare(name: str, estimator: str, prior: str, steps: int) -> tuple[float, float, float]:
    make, shape, classes, size = NETWORKS[name]
    fixed = [(torch.rand(size, *shape), torch.randint(classes, (size,))) for _ in range(8)]
    warmup = 30
    points = size * (steps + warmup)
    net = make()
    bnn = bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys() if prior == "nodes" else bdl.priors.Gaussian())

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        logits = bnn(x)
        with pyro.plate("data", size=points, subsample_size=len(x)):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    guide = bdl.guides.AutoMeanField(model, init_scale=SCALE)
    reference = ws(net) if estimator == "plain" else lrt(net, NodeLayer if prior == "nodes" else LocalLayer)
    data = Interleaved(reference, fixed, warmup)
    loader = DataLoader(data, batch_size=None, sampler=range(steps + warmup))
    bdl.fit_svi(model, guide, loader, epochs=2, estimator=estimator, progress=False)
    ours, theirs = (1e3 * statistics.median(times) for times in (data.ours, data.theirs))
    return ours, theirs, ours / theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}\n")
    print("| step | ours ms | by hand ms | ratio |\n|---|---|---|---|")
    cases = [
        ("lenet-300-100", "local", "normal"), ("lenet-300-100", "plain", "normal"),
        ("lenet-300-100", "local", "nodes"), ("lenet-5-caffe", "local", "normal"), ("lenet-5-caffe", "local", "nodes"),
        ("4-4-4-2", "local", "normal"),
    ]  # fmt: skip
    for name, estimator, prior in cases:
        steps = options.steps // 3 if name == "lenet-5-caffe" else options.steps
        rows = sorted((compare(name, estimator, prior, steps) for _ in range(options.repeats)), key=lambda row: row[2])
        ours, theirs, ratio = rows[len(rows) // 2]
        print(f"| {name}, {estimator}, {prior} | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
