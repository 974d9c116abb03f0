"""Dividing rows in two by a seed, class by class where there are classes."""

import numpy as np

from pyro_bdl.errors import InputError


def held_out(
    y: np.ndarray, size: int, *, seed: int, stratify: bool, what: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `size` rows to be held out.

    Args:
        y: targets or labels, (N,).
        size: how many rows to hold out; 0 holds out none.
        seed: of the draw; the same seed, data and versions give the same rows.
        stratify: hold out each class in proportion to its frequency.
        what: the held-out part's name for messages.

    Returns:
        The rows kept and the rows held out, both in ascending order.

    Raises:
        InputError: `size` leaves no rows, or, with `stratify`, too few rows for the classes on either side.

    >>> kept, held = held_out(np.arange(10) % 2, 4, seed=0, stratify=True)
    >>> len(kept), sorted((held % 2).tolist())
    (6, [0, 0, 1, 1])
    """
    rows = np.arange(len(y))
    if size == 0:
        return rows, rows[:0]
    fewest = max(1, len(np.unique(y)) if stratify else 1)
    if not fewest <= size <= len(y) - fewest:
        expected = f"0, or between {fewest} and {len(y) - fewest}" if len(y) >= 2 * fewest else "0"
        raise InputError(what, expected=f"{expected} of the {len(y)} examples", got=str(size))
    from sklearn.model_selection import train_test_split

    kept, held = train_test_split(rows, test_size=size, random_state=seed, stratify=y if stratify else None)
    return np.sort(kept), np.sort(held)
