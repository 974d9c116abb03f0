"""What changes while a model is fitted."""

from pyro_bdl.errors import InputError


def falling(fraction: float) -> float:
    """A learning rate that falls linearly to zero, by the fraction of steps done."""
    return 1.0 - fraction


def warmup_epochs(share: float, epochs: int) -> float:
    """The epochs over which the KL comes in, which are a share of all.

    Raises:
        InputError: a share outside [0, 1].

    >>> warmup_epochs(0.5, 30)
    15.0
    """
    if not 0.0 <= share <= 1.0:
        raise InputError("kl_warmup", expected="a share of the epochs, in [0, 1]", got=repr(share))
    return share * epochs
