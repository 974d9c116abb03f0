"""The rows of the compression tables: what was measured beside what was published.

Three rates, each the bytes of the original network at 32 bits a weight over those of a smaller form:

- pruning: 32 bits a weight. The published rows of methods that prune single weights count each of them twice, as its
  index takes as much room; methods that prune units count the dense small network. Here it is the larger of the two.
- fast prediction: the dense small network at the bit widths of its layers.
- maximum compression: the whole file.
"""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from models.competitors.outcome import Outcome
from models.published import PUBLISHED, Row
from pyro_bdl.compression.compressed import Report, count

FLOAT_BITS = 32


def row_of(outcome: Outcome, *, errors: dict[str, float], seconds: float | None = None) -> Row:
    """The row of a competitor's network.

    Args:
        outcome: what the method returned.
        errors: on test data, fractions: `dense`, `pruned`, and `coded` for the network that was read from the file.
        seconds: for all of it.
    """
    stored = outcome.stored
    size = len(stored.to_bytes())
    nonzero = sum(int((p != 0).sum()) for p in stored.module.parameters())
    bits = [
        stored.codebooks[name].book.bits if name in stored.codebooks else FLOAT_BITS
        for name, parameter in stored.module.named_parameters()
        if parameter.dim() > 1
    ]
    return Row(
        outcome.method,
        architecture=stored.units.architecture(stored.kept),
        bits="-".join(str(b) for b in bits),
        left=100 * nonzero / stored.weights,
        pruning=pruning_rate(stored.weights, count(stored.module), nonzero),
        pruning_error=100 * errors["pruned"],
        maximum=stored.weights * FLOAT_BITS / 8 / size,
        maximum_error=100 * errors["coded"],
        file_bytes=size,
        dense_error=100 * errors["dense"],
        seconds=seconds,
    )


def row_of_report(
    report: Report, method: str, *, errors: dict[str, float] | None = None, seconds: float | None = None
) -> Row:
    """The row of a Bayesian compression.

    Args:
        report: of `pyro_bdl.compression.compressed.CompressedNetwork`.
        method: name of the method.
        errors: on test data, fractions: any of `dense`, `pruned`, `fast` and `coded`.
        seconds: for all of it.
    """
    percent = {name: 100 * error for name, error in (errors or {}).items()}
    return Row(
        method,
        architecture=report.architecture,
        bits=report.layer_bits,
        left=100 * report.nonzero / report.weights,
        pruning=pruning_rate(report.weights, report.dense, report.nonzero),
        pruning_error=percent.get("pruned"),
        fast=report.fast,
        fast_error=percent.get("fast"),
        maximum=report.maximum,
        maximum_error=percent.get("coded"),
        file_bytes=report.file_bytes,
        dense_error=percent.get("dense"),
        seconds=seconds,
    )


def pruning_rate(weights: int, dense: int, nonzero: int) -> float:
    """As the published tables count it: the dense small network, or twice the weights that are not zero.

    >>> pruning_rate(1000, dense=500, nonzero=100)
    5.0
    """
    return weights / max(min(dense, 2 * nonzero), 1)


def table(rows: Iterable[Row], *, title: str = "") -> Table:
    """Rows side by side, errors in percent in brackets."""
    shown = Table(title=title)
    for name in ("method", "source", "architecture", "bits"):
        shown.add_column(name, overflow="fold")
    for name in ("left %", "pruning ×", "fast ×", "maximum ×", "bytes", "dense error %", "seconds"):
        shown.add_column(name, justify="right")
    last = None
    for row in rows:
        if last is not None and row.source != last:
            shown.add_section()
        last = row.source
        shown.add_row(
            row.method, row.source, row.architecture, row.bits, _number(row.left, ".2f"),
            _with_error(row.pruning, row.pruning_error), _with_error(row.fast, row.fast_error),
            _with_error(row.maximum, row.maximum_error), _number(row.file_bytes, ","),
            _number(row.dense_error, ".2f"), _number(row.seconds, ".0f"),
        )  # fmt: skip
    return shown


def side_by_side(rows: Iterable[Row], net: str) -> Table:
    """Measured rows, then the published ones of that network, if there are any.

    >>> side_by_side([Row("DC", pruning=7.5, pruning_error=1.7)], "lenet-300-100").row_count
    10
    """
    published = PUBLISHED.get(net, ())
    return table([*rows, *published], title=f"{net}: rate (test error %)")


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _with_error(rate: float | None, error: float | None) -> str:
    told = "" if rate is None else f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"
    return told if error is None else f"{told} ({error:.2f})".strip()
