"""What a network says at given inputs under posterior draws, in batches.

Two ways to draw:

- `predict`: one draw of the weights is used for all points. The joint law over points is that of the posterior
  predictive, so functions, gaps and maxima over points come out right. This is the exact one.
- `predict_locally`: the weights are drawn per data point, inside the layers, by a guide wrapped for that. Each point's
  own law is that of the guide; the points are drawn independently of one another. It is what training sees.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from pyro_bdl.diagnostics.batching import sliced
from pyro_bdl.diagnostics.evaluation import Draw, Program, is_latent, run_program
from pyro_bdl.diagnostics.pointwise import count, each_draw
from pyro_bdl.errors import InputError


def predict(
    program: Program,
    draws: Mapping[str, Tensor],
    *args: Any,
    batch_size: int | None = None,
    may_draw: Sequence[str] = (),
    progress: bool = False,
) -> Tensor:
    """The program's return value under each draw, one draw for all points.

    Args:
        program: a Pyro program that returns one tensor with a row a data point: a Bayesian network itself, or a model
            that returns its (unobserved) site.
        draws: for each latent site S draws, shape (S, *shape of the site).
        args: its arguments; tensors as long as the first tensor are cut into batches.
        batch_size: the most rows at once; None for all.
        may_draw: names of sites to draw afresh, such as the observation "y"; any other site without draws is an error.
        progress: show a bar.

    Returns:
        (S, N, ...), N rows.

    Raises:
        InputError: a site has no draws, or the program returns no tensor with N rows.

    >>> import pyro, pyro.distributions as dist
    >>> def line(x):
    ...     return pyro.sample("slope", dist.Normal(0.0, 1.0)) * x
    >>> predict(line, {"slope": torch.tensor([1.0, 2.0])}, torch.tensor([0.0, 1.0, 3.0]))
    tensor([[0., 1., 3.],
            [0., 2., 6.]])
    """
    pieces = pieces_of(args, batch_size)
    fresh = frozenset(may_draw)
    bar = tqdm(each_draw(draws), "predictions", total=count(draws), disable=not progress)
    return torch.stack([value_under(program, draw, pieces, may_draw=fresh) for draw in bar])


def predict_locally(
    program: Program,
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 100,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """The program's return value with weights drawn per data point, by a guide that draws where weights are used.

    Args:
        program: as for `predict`.
        guide: a guide under a handler such as `local_reparameterization(guide)`, called with the same arguments.
        args: the arguments of both.
        num_samples: how many draws a point.
        batch_size: the most rows at once; None for all.
        progress: show a bar.

    Returns:
        (num_samples, N, ...).

    Raises:
        InputError: the guide leaves out a latent site of the program, or the program returns no tensor with N rows.
    """
    if not isinstance(num_samples, int) or num_samples < 1:
        raise InputError("num_samples", expected="a positive integer", got=repr(num_samples))
    pieces = pieces_of(args, batch_size)
    values = []
    with torch.no_grad(), poutine.block():
        for _ in tqdm(range(num_samples), "predictions", disable=not progress):
            parts = []
            for piece, _rows in pieces:
                trace = poutine.trace(guide).get_trace(*piece)
                draw: dict[str, Any] = {name: site["value"] for name, site in trace.nodes.items() if is_latent(site)}
                parts.append(run_program(program, draw, piece).value)
            values.append(_joined(parts, pieces))
    return torch.stack(values)


def value_under(
    program: Program, draw: Draw, pieces: "list[Piece]", *, may_draw: frozenset[str] = frozenset()
) -> Tensor:
    """The program's return value under one draw, over all pieces of its arguments."""
    parts = [run_program(program, draw, piece, rows=rows, may_draw=may_draw).value for piece, rows in pieces]
    return _joined(parts, pieces)


Piece = tuple[tuple[Any, ...], Tensor | None]


def pieces_of(args: tuple[Any, ...], batch_size: int | None) -> list[Piece]:
    """The arguments in batches, each with its rows."""
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError("batch_size", expected="a positive integer or None", got=repr(batch_size))
    rows = next((arg.shape[0] for arg in args if isinstance(arg, Tensor) and arg.dim() > 0), None)
    if rows == 0:
        raise InputError("the data", expected="at least one row", got="none")
    if rows is None or batch_size is None or rows <= batch_size:
        return [(args, None)]
    starts = range(0, rows, batch_size)
    ends = [min(start + batch_size, rows) for start in starts]
    return [
        (tuple(sliced(arg, rows, start, end) for arg in args), torch.arange(start, end))
        for start, end in zip(starts, ends, strict=True)
    ]


def _joined(parts: list[Any], pieces: list[Piece]) -> Tensor:
    for part, (_, rows) in zip(parts, pieces, strict=True):
        if not isinstance(part, Tensor):
            raise InputError("the program's return value", expected="a tensor", got=type(part).__name__)
        if rows is not None and (part.dim() == 0 or part.shape[0] != len(rows)):
            raise InputError(
                "the program's return value",
                expected=f"{len(rows)} rows, as the batch",
                got=f"shape {tuple(part.shape)}",
            )
    return parts[0] if len(parts) == 1 else torch.cat(parts)
