"""The networks that fast prediction is about: what is left of the posterior mean, rounded to bit widths."""

from torch import nn

from pyro_bdl.compression.pruned import Pruned, with_values
from pyro_bdl.compression.quantisation.precision import fixed_point, small_float
from pyro_bdl.compression.quantisation.widths import (
    Widths,
    choose_widths,
    errors_one_bit_below,
    rounded,
    rounded_by_unit,
    unit_widths,
)
from pyro_bdl.compression.validation import Error

TOLERANCE = 0.001  # of the error at the bit widths: 0.1 points more than that of 32 bits


def at_widths(
    pruned: Pruned, evaluate: Error | None, *, error: float, spread: float | None
) -> tuple[Widths, dict[str, nn.Module], dict[str, float]]:
    """The widths of a pruned network, the networks that are rounded to them, and what one bit less would do.

    Args:
        pruned: the network.
        evaluate: the validation error of a network; the widths are the narrowest within 0.1 points of that in 32 bits.
        error: that in 32 bits.
        spread: see `choose_widths`.
    """
    left, gone = pruned.posterior, pruned.gone
    limit = error + TOLERANCE
    error_of = None if evaluate is None else pruned.error_of(evaluate, above=limit)
    fixed = choose_widths(left, gone, evaluate=error_of, limit=limit, spread=spread, rule=fixed_point)
    floats = choose_widths(left, gone, evaluate=error_of, limit=limit, spread=spread, rule=small_float)
    widths = Widths(fixed, floats, unit_widths(left, gone, fixed))
    networks = {
        "fast": with_values(pruned.module, rounded(left, gone, fixed)),
        "fast in floats": with_values(pruned.module, rounded(left, gone, floats)),
        "fast by unit": with_values(pruned.module, rounded_by_unit(left, gone, widths)),
    }
    below = {}
    if evaluate is not None:
        below = errors_one_bit_below(left, gone, fixed, evaluate=pruned.error_of(evaluate))
    return widths, networks, below
