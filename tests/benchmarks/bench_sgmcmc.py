"""What one update of each kernel costs: `python -m tests.benchmarks.bench_sgmcmc [--threads 1]`.

LeNet-300-100 (266,610 weights), batch 128 of N = 60,000, N(0, 1) prior on each weight. All contestants run interleaved
in one process; a figure is the median over rounds of the ratio of medians within a round. The references are the same
mathematics by hand, without Pyro: `foreach` (autograd, one multi-tensor call for each operation), one for each kernel,
and `flat` for SGLD (its own backward pass, all weights in one tensor).
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.minibatches import Minibatches
from pyro_bdl.priors import Gaussian
from pyro_bdl.sgmcmc import SGHMC, SGLD, SGNHT, PreconditionedSGLD
from pyro_bdl.sgmcmc.updates import most_friction

N, BATCH, SIZES = 60_000, 128, (784, 300, 100, 10)
STEP_SIZE = 2e-7  # Welling & Teh's e: drift e/2, noise variance e
Step = Callable[[], object]


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(SIZES):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.rand(BATCH, SIZES[0]), torch.randint(SIZES[-1], (BATCH,))) for _ in range(8)]


Tensors = list[Tensor]
Update = Callable[[Tensors, Tensors], None]  # weights and the gradients of the log joint density
ROOT, FRICTION, DECAY, OFFSET, COUPLING = math.sqrt(STEP_SIZE), 0.1, 0.99, 1e-5, 0.01


def noise_like(tensors: Tensors) -> Tensors:
    return [torch.randn_like(t) for t in tensors]


def sgld_by_hand(weights: Tensors) -> Update:
    def update(weights: Tensors, gradients: Tensors) -> None:
        torch._foreach_add_(weights, gradients, alpha=STEP_SIZE / 2)
        torch._foreach_add_(weights, noise_like(weights), alpha=ROOT)

    return update


def preconditioned_by_hand(weights: Tensors) -> Update:
    moments = [torch.zeros_like(w) for w in weights]

    def update(weights: Tensors, gradients: Tensors) -> None:
        torch._foreach_mul_(moments, DECAY)
        torch._foreach_addcmul_(moments, gradients, gradients, value=(1 - DECAY) / N**2)
        metric = torch._foreach_sqrt(moments)
        torch._foreach_add_(metric, OFFSET)
        torch._foreach_reciprocal_(metric)
        torch._foreach_addcmul_(weights, metric, gradients, value=STEP_SIZE / 2)
        torch._foreach_sqrt_(metric)
        torch._foreach_addcmul_(weights, metric, noise_like(weights), value=ROOT)

    return update


def sghmc_by_hand(weights: Tensors) -> Update:
    momentum = noise_like(weights)

    def update(weights: Tensors, gradients: Tensors) -> None:
        torch._foreach_mul_(momentum, 1 - FRICTION)
        torch._foreach_add_(momentum, gradients, alpha=(1 - FRICTION / 2) * ROOT)
        torch._foreach_add_(momentum, noise_like(weights), alpha=math.sqrt(FRICTION * (2 - FRICTION)))
        torch._foreach_add_(weights, momentum, alpha=ROOT)

    return update


def sgnht_by_hand(weights: Tensors) -> Update:
    momentum, friction = noise_like(weights), FRICTION
    size = sum(w.numel() for w in weights)

    def update(weights: Tensors, gradients: Tensors) -> None:
        nonlocal friction
        torch._foreach_mul_(momentum, 1 - friction)
        torch._foreach_add_(momentum, gradients, alpha=(1 - friction / 2) * ROOT)
        torch._foreach_add_(momentum, noise_like(weights), alpha=math.sqrt(FRICTION * (2 - FRICTION)))
        torch._foreach_add_(weights, momentum, alpha=ROOT)
        heat = torch.stack(torch._foreach_norm(momentum)).square().sum() / size
        friction = min(friction + COUPLING * (float(heat) - 1), most_friction(FRICTION))

    return update


def by_hand_foreach(data: list[tuple[Tensor, Tensor]], make: Callable[[Tensors], Update]) -> Step:
    net = network()
    weights = list(net.parameters())
    update = make(weights)
    count = iter(range(10**9))

    def step() -> Tensor:
        x, y = data[next(count) % len(data)]
        log_likelihood = F.cross_entropy(net(x), y, reduction="sum") * (-N / len(x))
        gradients = list(torch.autograd.grad(log_likelihood, weights))
        with torch.no_grad():
            torch._foreach_sub_(gradients, weights)
            update(weights, gradients)
        return log_likelihood.detach()

    return step


def by_hand_flat(data: list[tuple[Tensor, Tensor]]) -> Step:
    shapes: list[tuple[int, ...]] = []
    for fan_in, fan_out in itertools.pairwise(SIZES):
        shapes += [(fan_in, fan_out), (fan_out,)]
    theta = torch.cat([(torch.randn(s) / math.sqrt(s[0])).reshape(-1) for s in shapes])
    gradient, noise = torch.empty_like(theta), torch.empty_like(theta)
    ends = [sum(math.prod(s) for s in shapes[: i + 1]) for i in range(len(shapes))]
    weights, slots = (
        [flat[end - math.prod(s) : end].view(s) for end, s in zip(ends, shapes, strict=True)]
        for flat in (theta, gradient)
    )
    rows = torch.arange(BATCH)
    count = iter(range(10**9))

    @torch.no_grad()
    def step() -> Tensor:
        x, y = data[next(count) % len(data)]
        inputs, h = [], x
        for i in range(0, len(weights), 2):
            inputs.append(h)
            h = torch.addmm(weights[i + 1], h, weights[i])
            if i < len(weights) - 2:
                h = h.relu_()
        log_probs = torch.log_softmax(h, 1)
        nll = -log_probs[rows, y].sum() * (N / len(x))
        g = log_probs.exp_()
        g[rows, y] -= 1.0
        g.mul_(N / len(x))
        for i in range(len(weights) - 2, -1, -2):
            h = inputs[i // 2]
            torch.mm(h.t(), g, out=slots[i])
            torch.sum(g, 0, out=slots[i + 1])
            if i:
                g = torch.mm(g, weights[i].t()).mul_(h > 0)
        noise.normal_()
        theta.mul_(1 - STEP_SIZE / 2).add_(gradient, alpha=-STEP_SIZE / 2).add_(noise, alpha=math.sqrt(STEP_SIZE))
        return nll

    return step


def kernel(data: object, make: Callable[..., Any] = SGLD, *, batch_size: int | None = None) -> Step:
    net = network()
    bnn = BayesianModule(net, Gaussian())

    def model(x: Tensor, y: Tensor) -> None:
        logits = bnn(x)
        with pyro.plate("data", size=N, subsample_size=len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    init = {name: p.detach() for name, p in net.named_parameters()}
    source = Minibatches(data, batch_size=batch_size, size=N)
    sampler = make(model, step_size=STEP_SIZE, data=source, init=init)
    sampler.setup(0)
    params = sampler.initial_params

    def step() -> None:
        nonlocal params
        params = sampler.sample(params)

    return step


def milliseconds(step: Step, steps: int) -> float:
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = batches()
    x, y = torch.rand(N, SIZES[0]), torch.randint(SIZES[-1], (N,))
    adapting = partial(PreconditionedSGLD, adapt=10**9)
    contestants = {
        "SGLD by hand": by_hand_foreach(data, sgld_by_hand),
        "SGLD by hand, flat": by_hand_flat(data),
        "SGLD": kernel(data),
        "SGLD from tensors": kernel((x, y), batch_size=BATCH),
        "SGLD compiled": kernel((x, y), partial(SGLD, jit_compile=True), batch_size=BATCH),
        "PreconditionedSGLD by hand": by_hand_foreach(data, preconditioned_by_hand),
        "PreconditionedSGLD": kernel(data, adapting),
        "PreconditionedSGLD compiled": kernel((x, y), partial(adapting, jit_compile=True), batch_size=BATCH),
        "SGHMC by hand": by_hand_foreach(data, sghmc_by_hand),
        "SGHMC": kernel(data, SGHMC),
        "SGHMC compiled": kernel((x, y), partial(SGHMC, jit_compile=True), batch_size=BATCH),
        "SGNHT by hand": by_hand_foreach(data, sgnht_by_hand),
        "SGNHT": kernel(data, SGNHT),
        "SGNHT compiled": kernel((x, y), partial(SGNHT, jit_compile=True), batch_size=BATCH),
    }
    for step in contestants.values():
        milliseconds(step, 600)  # past the first epoch, in which all batches are checked
    rounds = [
        {name: milliseconds(step, options.steps) for name, step in contestants.items()} for _ in range(options.rounds)
    ]
    print(f"{options.threads} thread(s), torch {torch.__version__}")
    for name in contestants:
        reference = f"{name.split()[0]} by hand"
        ms = statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r[reference] for r in rounds)
        print(f"{name:28s} {ms:8.3f} ms {ratio:8.2f} x {reference}")


if __name__ == "__main__":
    main()
