"""A prior chosen for each weight by its name."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from pyro_bdl.errors import InputError
from pyro_bdl.priors.weight import Prior, Weight, WeightProgram


class ByName(nn.Module):
    """Different priors for different layers: the first pattern that fits a weight's name decides.

    Args:
        priors: shell-style patterns (`*`, `?`, `[...]`) of site names (parameter names, after the network's `name=` and
            a dot if it has one), and their priors, in the order in which they are tried.

    Raises:
        InputError: at `bind`, when no pattern fits a weight, or a pattern fits none.

    >>> from pyro_bdl.priors import Gaussian, GroupNormalJeffreys, Laplace
    >>> prior = ByName({"*.bias": Gaussian(), "0.*": Laplace(0.5), "*": GroupNormalJeffreys()})
    """

    def __init__(self, priors: Mapping[str, Prior]) -> None:
        if not priors:
            raise InputError("priors", expected="at least one pattern with its prior", got="none")
        super().__init__()
        self.priors = dict(priors)
        # Priors with parameters of their own, so that `state_dict` finds them.
        self.learned = nn.ModuleList(dict.fromkeys(p for p in priors.values() if isinstance(p, nn.Module)))

    def bind(self, weights: Sequence[Weight]) -> WeightProgram:
        """The program that runs each prior on its own weights."""
        chosen: dict[str, list[Weight]] = {pattern: [] for pattern in self.priors}
        for weight in weights:
            pattern = next((p for p in self.priors if fnmatchcase(weight.name, p)), None)
            if pattern is None:
                raise InputError(
                    f"the prior of {weight.name}",
                    expected=f"a pattern that fits it among {list(self.priors)}",
                    got="none",
                    remedy='Add a last pattern "*"',
                )
            chosen[pattern].append(weight)
        for pattern, fitting in chosen.items():
            if not fitting:
                raise InputError(
                    f"the pattern {pattern!r}",
                    expected=f"a name among {[w.name for w in weights]}",
                    got="none that is left",
                )
        programs = [self.priors[pattern].bind(fitting) for pattern, fitting in chosen.items()]

        def program() -> dict[str, Tensor]:
            return {name: value for each in programs for name, value in each().items()}

        return program

    def __repr__(self) -> str:
        return f"ByName({self.priors!r})"
