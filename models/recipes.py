"""Settings that were chosen for a case, with what a user gives instead."""

from dataclasses import fields, replace
from typing import Any, TypeVar

R = TypeVar("R", bound=Any)


def with_given(recipe: R, options: object) -> R:
    """The recipe, a dataclass, with those of its fields that the options have, too, and that are not None there.

    >>> from dataclasses import dataclass
    >>> from types import SimpleNamespace
    >>> @dataclass
    ... class Recipe:
    ...     epochs: int
    ...     rate: float
    >>> with_given(Recipe(60, 0.1), SimpleNamespace(epochs=5, rate=None, seed=0))
    Recipe(epochs=5, rate=0.1)
    """
    given = {field.name: getattr(options, field.name, None) for field in fields(recipe)}
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})
