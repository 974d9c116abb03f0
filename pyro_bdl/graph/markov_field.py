"""A Markov random field of discrete variables, as a Pyro program."""

import math
from collections.abc import Mapping
from functools import reduce
from itertools import combinations

import networkx as nx
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_bdl.errors import InputError
from pyro_bdl.exact import factors_of

Potentials = Mapping[tuple[str, ...], Tensor]


class MarkovField:
    r"""A Markov random field: a product of potentials over sets of discrete variables.

    .. math:: p(x) = \frac1Z \prod_c \psi_c(x_c), \qquad Z = \sum_x \prod_c \psi_c(x_c)

    (Bishop 2006, equations 8.39 and 8.40.) Called, it is a Pyro program: each variable is drawn uniformly, and each
    potential is a `pyro.factor`; so `query`, `moralise`, `d_separated`, `draw` and Pyro's own inference know it.
    Draws of the program alone are uniform, not draws from p. Its factors are psi but for a constant, by which
    the evidence of the program is Z.

    Args:
        potentials: by variables, a table with an axis a variable, of finite numbers that are at least 0, and not all
            0. A variable has as many values as its axes are long. The field has the finest number type of them.

    Raises:
        InputError: a potential with another number of axes than names, a name twice, negative or non-finite numbers,
            or axes of one variable that differ in length.

    >>> attract = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> field = MarkovField({("a", "b"): attract, ("b", "c"): attract})
    >>> round(float(field.log_partition().exp()), 4), field.graph().edges  # 2 (2 + 1)^2
    (18.0, EdgeView([('a', 'b'), ('b', 'c')]))
    """

    def __init__(self, potentials: Potentials) -> None:
        self.potentials = {tuple(names): _checked(names, table) for names, table in potentials.items()}
        if not self.potentials:
            raise InputError("potentials", expected="at least one", got="none")
        dtype = reduce(torch.promote_types, (table.dtype for table in self.potentials.values()))
        self.potentials = {names: table.to(dtype) for names, table in self.potentials.items()}
        self.sizes: dict[str, int] = {}
        for names, table in self.potentials.items():
            for name, size in zip(names, table.shape, strict=True):
                known = self.sizes.setdefault(name, size)
                if known != size:
                    raise InputError(
                        f'the variable "{name}"', expected=f"{known} values, as in another potential", got=str(size)
                    )
        self._log_factors = self._without_uniform_laws()

    def __call__(self) -> dict[str, Tensor]:
        """The Pyro program; the values of the variables."""
        example = next(iter(self.potentials.values()))
        x = {name: pyro.sample(name, dist.Categorical(example.new_ones(size))) for name, size in self.sizes.items()}
        for names, table in self._log_factors.items():
            pyro.factor(f"psi({', '.join(names)})", table[tuple(x[name] for name in names)])
        return x

    def _without_uniform_laws(self) -> dict[tuple[str, ...], Tensor]:
        """log psi, plus the log number of values of each variable in the first potential that it is in."""
        left, factors = dict(self.sizes), {}
        for names, table in self.potentials.items():
            factors[names] = table.log() + sum(math.log(left.pop(name)) for name in names if name in left)
        return factors

    def graph(self) -> nx.Graph:
        """The undirected graph: an edge between variables that share a potential."""
        graph = nx.Graph()
        graph.add_nodes_from(self.sizes)
        for names in self.potentials:
            graph.add_edges_from(combinations(names, 2))
        return graph

    def log_partition(self) -> Tensor:
        """log Z in nats, by enumeration."""
        return factors_of(self).log_total()


def _checked(names: tuple[str, ...], table: Tensor) -> Tensor:
    what = f"the potential of {', '.join(names)}"
    if not isinstance(table, Tensor) or not table.is_floating_point():
        got = f"a tensor of {table.dtype}" if isinstance(table, Tensor) else f"a {type(table).__name__}"
        raise InputError(what, expected="a floating-point tensor", got=got)
    if isinstance(names, str) or len(set(names)) != len(names) or table.dim() != len(names):
        raise InputError(
            what, expected="a tuple of different names, an axis each", got=f"{names} and {table.dim()} axes"
        )
    if not bool((torch.isfinite(table) & (table >= 0)).all()) or not bool((table > 0).any()):
        raise InputError(what, expected="finite numbers, at least 0, not all 0", got=f"{table.flatten().tolist()[:8]}")
    return table.detach().clone()
