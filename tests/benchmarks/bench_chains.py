"""What many chains cost: `python -m tests.benchmarks.bench_chains [--threads 1]`.

One update of SGLD for all chains, at once (`vectorized`) and in turns, interleaved in one process; a figure is the
median over rounds of the ratio of medians within a round. The network 13-50-1 with batches of 32 of N = 506 is that of
a small regression; LeNet-300-100 with batches of 128 fills the cores with one chain.
"""

import argparse
import math
import statistics
from typing import Any

import torch
from torch import nn

import pyro_bdl as bdl
from pyro_bdl.sgmcmc.chains.walk import Walk, set_up, walk
from tests.benchmarks.bench_sgmcmc import milliseconds


def small() -> tuple[Any, tuple[torch.Tensor, torch.Tensor], int]:
    bnn = bdl.BayesianModule(nn.Sequential(nn.Linear(13, 50), nn.ReLU(), nn.Linear(50, 1)), bdl.priors.Gaussian())
    return bdl.Regressor(bnn), (torch.randn(506, 13), torch.randn(506)), 32


def large() -> tuple[Any, tuple[torch.Tensor, torch.Tensor], int]:
    layers = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    bnn = bdl.BayesianModule(nn.Sequential(*layers), bdl.priors.Gaussian(fan_in=True))
    return bdl.Classifier(bnn), (torch.randn(6000, 784), torch.randint(10, (6000,))), 128


def walks(problem: Any, chains: int, *, jit_compile: bool) -> dict[str, Walk]:
    model, data, batch_size = problem
    kernel = bdl.SGLD(model, step_size=1e-7, data=data, batch_size=batch_size, jit_compile=jit_compile)

    def begin(method: Any) -> Walk:
        each = [set_up(kernel, seed=0, chain=c, warmup_steps=10**9, args=(), kwargs={}) for c in range(chains)]
        return walk([k for k, _ in each], [r for _, r in each], method)[0]

    return {method: begin(method) for method in ("sequential", "vectorized", "auto")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} thread(s), torch {torch.__version__}")
    for name, problem, chains in (("13-50-1", small, 8), ("13-50-1", small, 64), ("LeNet-300-100", large, 4)):
        for jit_compile in (False, True):
            contestants = walks(problem(), chains, jit_compile=jit_compile)
            for each in contestants.values():
                milliseconds(each.sample, math.ceil(6000 / 128) + 1)
            rounds = [{m: milliseconds(w.sample, 15) for m, w in contestants.items()} for _ in range(options.rounds)]
            ms = {method: statistics.median(r[method] for r in rounds) for method in contestants}
            ratio = statistics.median(r["vectorized"] / r["sequential"] for r in rounds)
            best = statistics.median(r["auto"] / min(r["vectorized"], r["sequential"]) for r in rounds)
            print(
                f"{name:14s} {chains:3d} chains{' compiled' if jit_compile else '':9s}: in turns "
                f"{ms['sequential']:8.2f} ms, at once {ms['vectorized']:8.2f} ms ({ratio:.2f}x); "
                f"auto ({contestants['auto'].method}) {best:.2f}x of the quicker"
            )


if __name__ == "__main__":
    main()
