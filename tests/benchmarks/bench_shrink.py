"""What shrinking saves: `python -m tests.benchmarks.bench_shrink [--threads 1] [--net lenet-300-100]`.

A whole `fit_svi` with `shrink=` beside the same without, group normal-Jeffreys, local estimator, batch 128. Which units
survive is not left to chance: a callback switches units off at given epochs (means of all their weights to 0), as they
went in a run on MNIST of 100 epochs, so that no data are needed and both fits do the same. The pair is repeated, its
order alternating; an epoch is `--steps` steps instead of 469, so that the looks at the units, which cost the same
whatever an epoch's length, weigh more here than in a real run. Told are medians over the repeats.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import pyro_bdl as bdl
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.inference import Progress, Shrink
from tests.benchmarks.bench_svi import lenet5, mlp

# Fraction of the run -> units left of each group; LeNet-300-100 as measured below, LeNet-5-Caffe ending at 8-13-88-13.
Schedule = dict[float, tuple[int, ...]]
NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], Schedule]] = {
    "lenet-300-100": (
        lambda: mlp(784, 300, 100, 10), (784,),
        {0.1: (700, 260, 95), 0.2: (520, 180, 80), 0.3: (420, 130, 60), 0.5: (330, 105, 30), 0.7: (290, 100, 16)},
    ),
    "lenet-5-caffe": (
        lenet5, (1, 28, 28),
        {0.1: (18, 45, 700, 300), 0.2: (14, 32, 400, 120), 0.3: (11, 22, 220, 50), 0.5: (9, 16, 130, 20),
         0.7: (8, 13, 88, 13)},
    ),
}  # fmt: skip


class SwitchOff:
    """A callback that switches units off: the first of each group stay."""

    def __init__(self, net: nn.Module, units: Units, epochs: int, schedule: Schedule) -> None:
        self.net, self.units = net, units
        self.at = {int(share * epochs) - 1: sizes for share, sizes in schedule.items()}

    @torch.no_grad()
    def __call__(self, told: Progress) -> None:
        if told.epoch not in self.at:
            return
        masks = {
            name: torch.arange(group.size) < size
            for (name, group), size in zip(self.units.groups.items(), self.at[told.epoch], strict=True)
        }
        masks = self.units.complete(masks)
        means = {site.name: m.loc for site, m in zip(told.guide.sites, told.guide.moments(), strict=True)}
        for name, group in self.units.groups.items():
            for member in group.of("producer", "bias", "consumer"):
                mean = means.get(f"{member.name}.raw", means.get(member.name))
                assert mean is not None
                mean.index_fill_(member.dim, member.cut(masks[name]), 0.0)


def run(name: str, *, shrink: bool, epochs: int, points: int) -> tuple[float, list[float], str]:
    """Seconds of the whole call, those of each epoch, and the architecture at the end."""
    make, shape, schedule = NETWORKS[name]
    torch.manual_seed(0)
    net = make()
    x, y = torch.rand(points, *shape), torch.randint(10, (points,))
    model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()))
    guide = bdl.guides.AutoMeanField(model, init_scale=0.01)
    switch = SwitchOff(net, find_units(net, x[:2]), epochs, schedule)
    ends: list[float] = []
    architectures = [""]

    def note(told: Any) -> None:
        ends.append(time.perf_counter())
        architectures.append(told.architecture)

    begin = time.perf_counter()
    bdl.fit_svi(
        model, guide, (x, y), epochs=epochs, progress=False, seed=0, callbacks=[switch, note],
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-9, fused=True),  # what is off stays off, what is on stays on
        shrink=Shrink(every=2, after=2) if shrink else False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    return seconds, [b - a for a, b in zip([begin, *ends], ends, strict=False)], architectures[-1]


def compare(name: str, *, repeats: int, epochs: int, steps: int) -> None:
    rows: dict[bool, list[float]] = {False: [], True: []}
    last: dict[bool, list[float]] = {False: [], True: []}
    architecture = ""
    for repeat in range(repeats):
        for shrink in (False, True) if repeat % 2 else (True, False):
            seconds, each, found = run(name, shrink=shrink, epochs=epochs, points=128 * steps)
            rows[shrink].append(seconds)
            last[shrink].append(1e3 * statistics.median(each[-3:]) / steps)
            architecture = found or architecture
    ratio = statistics.median(a / b for a, b in zip(rows[False], rows[True], strict=True))
    whole, shrunk = (statistics.median(rows[key]) for key in (False, True))
    slow, fast = (statistics.median(last[key]) for key in (False, True))
    print(
        f"| {name} | {architecture} | {whole:.1f} | {shrunk:.1f} | {ratio:.2f} | {slow:.2f} | {fast:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--net", choices=list(NETWORKS), nargs="*", default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}\n")
    print(
        "| net | left | whole s | shrunk s | ratio | last epochs, ms a step | shrunk |\n|---|---|---|---|---|---|---|"
    )
    for name in options.net:
        compare(name, repeats=options.repeats, epochs=options.epochs, steps=options.steps)


if __name__ == "__main__":
    main()
