"""Learning rates by the fraction of steps done."""


def falling(fraction: float) -> float:
    """A learning rate that falls linearly to zero."""
    return 1.0 - fraction
