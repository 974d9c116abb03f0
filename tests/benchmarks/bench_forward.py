"""What pruning saves in a forward pass: `python -m tests.benchmarks.bench_forward [--threads 1] [--repeats 200]`.

The network against the plain dense module that `shrink` makes of it, in evaluation mode without gradients, on the same
images, one call of each after the other. The units that are left are as many as in the literature's rows, drawn at
random: which they are does not matter to the time. Figures are medians over the calls, the ratio that of the medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.networks import lenet_5_caffe, lenet_300_100
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.shrinking import shrink

IMAGE = (1, 28, 28)
# Louizos, Ullrich & Welling 2017, table 1, BC-GNJ.
ROWS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("LeNet-300-100", lambda: lenet_300_100(IMAGE, 10), (278, 98, 13)),
    ("LeNet-5-Caffe", lambda: lenet_5_caffe(IMAGE, 10), (8, 13, 88, 13)),
]


def keep(units: Units, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random masks with so many units left; single inputs of a layer among those that are still computed."""
    found: dict[str, Tensor] = {}
    for (name, group), size in zip(units.groups.items(), sizes, strict=True):
        possible = units.with_channels(units.complete(found))[name].nonzero().flatten()
        found[name] = torch.zeros(group.size, dtype=torch.bool)
        found[name][possible[torch.randperm(len(possible))[:size]]] = True
    return units.complete(found)


def times(nets: tuple[nn.Module, ...], x: Tensor, repeats: int) -> list[float]:
    """The median microseconds of a call of each."""
    found: list[list[float]] = [[] for _ in nets]
    for repeat in range(repeats + 20):
        for net, each in zip(nets, found, strict=True):
            begin = time.perf_counter()
            net(x)
            if repeat >= 20:
                each.append(time.perf_counter() - begin)
    return [1e6 * statistics.median(each) for each in found]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{options.threads} threads, torch {torch.__version__}\n")
    print("| net | left | batch | original us | pruned us | speed-up |\n|---|---|---|---|---|---|")
    for name, make, sizes in ROWS:
        net = make().eval()
        units = find_units(net, torch.zeros(1, *IMAGE))
        kept = keep(units, sizes)
        small = shrink(net, kept, torch.zeros(1, *IMAGE), units=units)
        for batch in (1, 1000):
            whole, pruned = times((net, small), torch.rand(batch, *IMAGE), options.repeats)
            left = units.architecture(kept)
            print(f"| {name} | {left} | {batch} | {whole:.0f} | {pruned:.0f} | {whole / pruned:.1f} |", flush=True)


if __name__ == "__main__":
    main()
