"""Sizes and errors that others report, for networks of the same architecture on the same data."""

from dataclasses import dataclass

from models.published import ORIGINAL_BYTES
from models.published import PUBLISHED as ROWS


@dataclass(frozen=True)
class Published:
    """A point of the literature.

    Attributes:
        net: a name in `ORIGINAL_BYTES`.
        method: as the field calls it.
        bytes: what the compressed network takes.
        error: on the test set, in percent.
        source: who reports it.
    """

    net: str
    method: str
    bytes: float
    error: float
    source: str


def _points() -> list[Published]:
    """The rows of the tables of which size and error are known, the coded file's where there is one."""
    points = []
    for net, rows in ROWS.items():
        for row in rows:
            size = row.file_bytes or (ORIGINAL_BYTES[net] / row.maximum if row.maximum else None)
            error = row.pruning_error if row.maximum_error is None else row.maximum_error
            if size is not None and error is not None:
                points.append(Published(net, row.method, size, error, row.source))
    return points


PUBLISHED = tuple(_points())
"""Test error at the last epoch or the best over epochs, as each of them counts."""
