"""What coding a network costs: `python -m tests.benchmarks.bench_coding [--bits 14] [--repeats 5]`.

LeNet-5-Caffe, 431,080 weights of which about 3,000 are not 0, as after pruning weight by weight; the same with the
units of BC-GNJ left (8-13-88-13). Encoding is `codec.encode`, all bytes of the file but its 16 of container; its first
call is told apart, since an import or a table made then would count for a user who saves one file. Loading is
`load_compressed`, which finds the network's units anew: the file's bytes decoded are told beside it. Then the
relative-entropy code of a posterior of which 3,000 weights have 2.9 bits of KL each on average, the others none.
Seconds of processor time (the coder runs on one core), medians over the repeats; relative-entropy coding once.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.networks import lenet_5_caffe
from pyro_bdl.compression.codec import Quantised, encode
from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.container import write_container
from pyro_bdl.compression.coding.weights import Weights
from pyro_bdl.compression.compressed import QUANTISED, architecture_of, load_compressed
from pyro_bdl.compression.random_code import relative_entropy
from pyro_bdl.compression.random_code.code import RandomCode
from pyro_bdl.compression.units.finding import find_units
from pyro_bdl.compression.units.shrinking import shrink
from tests.benchmarks.bench_forward import IMAGE, keep

NONZERO = {"conv1": 200, "conv2": 1000, "fc1": 1500, "fc2": 300}


def sparse_levels(net: nn.Module) -> dict[str, Quantised]:
    """Small integers at random places, of geometric sizes; biases are not 0."""
    found = {}
    for name, p in net.named_parameters():
        layer, kind = name.split(".")
        share = min(1.0, NONZERO[layer] / p.numel()) if kind == "weight" else 1.0
        sizes = 1 + torch.empty(p.shape).geometric_(0.3).long()
        signs = 1 - 2 * torch.randint(2, p.shape)
        found[name] = Quantised(sizes * signs * (torch.rand(p.shape) < share), -6)
    return found


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    found = run()
    return time.process_time() - begin, found


def decode_levels(data: bytes, shapes: list[torch.Size]) -> None:
    decoder = Decoder(data)
    for shape in shapes:
        decoder.get(tuple(shape), Weights())
    decoder.close()


def quantised(what: str, sizes: tuple[int, ...] | None, repeats: int) -> None:
    net = lenet_5_caffe(IMAGE, 10)
    example = torch.zeros(1, *IMAGE)
    units = find_units(net, example)
    kept = units.complete({} if sizes is None else keep(units, sizes))
    small = shrink(net, kept, example, units=units)
    levels = sparse_levels(small)
    rows = []
    for _ in range(repeats):
        encoding, (stream, _) = timed(lambda: encode(tuple(example.shape), units, kept, levels, {}))
        encoder = Encoder()
        for q in levels.values():
            encoder.put(q.levels.numpy(), Weights())
        data, shapes = encoder.finish(), [q.levels.shape for q in levels.values()]
        decoding, _ = timed(lambda data=data, shapes=shapes: decode_levels(data, shapes))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.bdl"
            size = write_container(path, [stream], kind=QUANTISED, architecture=architecture_of(net))
            loading, again = timed(lambda path=path: load_compressed(path, net))
        assert all(torch.equal(p, levels[name].value(p)) for name, p in again.named_parameters())
        rows.append((encoding, decoding, loading))
    encoding, decoding, loading = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"| {what} | {size:,} | {rows[0][0]:.2f} | {encoding:.2f} | {decoding:.2f} | {loading:.2f} |", flush=True)


def posterior(count: int, active: int) -> tuple[Tensor, Tensor]:
    """Against N(0, 1): the KL of an active weight is (mean^2 + variance - 1 - log variance) / 2 nats."""
    variance, mean = torch.ones(count), torch.zeros(count)
    places = torch.randperm(count)[:active]
    variance[places] = (-8.0 * torch.rand(active)).exp()
    mean[places] = (1 - variance[places]).sqrt() * torch.randn(active)
    return mean, variance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}\n\n| weights | bytes | first encode s | encode s | decode s | load s |")
    print("|---|---|---|---|---|---|")
    quantised("LeNet-5-Caffe, 0.7% not 0", None, options.repeats)
    quantised("8-13-88-13", (8, 13, 88, 13), options.repeats)
    mean, variance = posterior(431_080, 3000)
    coding, code = timed(lambda: relative_entropy.encode(mean, variance, 1.0, seed=1, bits=options.bits, extra_bits=1))
    content = code.to_bytes()
    decoding, _ = timed(lambda: relative_entropy.decode(RandomCode.from_bytes(content), len(mean), 1.0))
    kl = float((mean.square() + variance - 1 - variance.log()).sum() / 2 / torch.tensor(2.0).log()) / 8
    print(f"\n| relative-entropy code, {options.bits} bits | KL bytes | bytes | encode s | decode s |")
    print(f"|---|---|---|---|---|\n| 431,080 weights | {kl:,.0f} | {len(content):,} | {coding:.1f} | {decoding:.2f} |")


if __name__ == "__main__":
    main()
