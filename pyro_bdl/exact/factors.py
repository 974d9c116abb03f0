r"""The joint density of a Pyro program as a table for each site, and its sums.

The program is run once, each discrete latent site at all of its values along a dimension of its own. What comes out is
the log density of each site as a tensor over those dimensions, a factor f of the joint density,

.. math:: p(x, z) = \prod_f f(z_f), \qquad p(x) = \sum_z \prod_f f(z_f)

which Pyro's tensor variable elimination sums (Obermeyer et al. 2019, "Tensor Variable Elimination for Plated Factor
Graphs"), one plate after the other: the cost is that of a junction tree, not of the table of all values.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops.contract import einsum
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.exact.plates import plate_nesting, require_discrete, require_whole

Program = Callable[..., Any]
BACKEND = "pyro.ops.einsum.torch_log"


@dataclass(frozen=True, eq=False)
class Factors:
    """The joint density of a program, a factor a sample site.

    Attributes:
        log: the log density by site, nats, a dimension a symbol of `dims`.
        dims: the symbols of each: of plates and of enumerated sites.
        symbols: the symbol of each enumerated site.
        plates: the symbols of the plates that each enumerated site stands in.
        all_plates: the symbols of all plates.
    """

    log: Mapping[str, Tensor]
    dims: Mapping[str, str]
    symbols: Mapping[str, str]
    plates: Mapping[str, str]
    all_plates: str

    def log_total(self, log: Mapping[str, Tensor] | None = None) -> Tensor:
        """log p(x), a number in nats; with `log` of other factors of the same shapes instead of the program's own.

        Its derivative by the log of a factor is that factor's posterior law, p(z_f | x).
        """
        return self._sum("", self.log if log is None else log)

    def marginal(self, sites: Sequence[str]) -> Tensor:
        """p(z_sites | x): an axis a plate of these sites, then one a site over its values, together of sum 1.

        Raises:
            UnsupportedModelError: sites in plates in which their joint law has too many values.
        """
        plates = "".join(dict.fromkeys(symbol for site in sites for symbol in self.plates[site]))
        output = plates + "".join(self.symbols[site] for site in sites)
        known = set().union(*self.dims.values())
        log = self._sum("".join(symbol for symbol in output if symbol in known), self.log)
        for axis, symbol in enumerate(output):
            if symbol not in known:  # a plate of one element, or a variable of one value: Pyro packs it away
                log = log.unsqueeze(axis)
        return log.flatten(len(plates)).softmax(-1).view(log.shape)

    def _sum(self, output: str, log: Mapping[str, Tensor]) -> Tensor:
        equation = ",".join(self.dims.values()) + "->" + output
        operands = [log[name][...] for name in self.dims]  # einsum marks its operands: not the caller's
        try:
            return einsum(equation, *operands, plates=self.all_plates, backend=BACKEND, modulo_total=bool(output))[0]
        except (NotImplementedError, ValueError) as error:
            raise UnsupportedModelError(
                "the plates", expected="sites whose joint law splits over the elements of a plate",
                got=f"a sum that does not ({error})",
            ) from error  # fmt: skip


def factors_of(model: Program, *args: Any, **kwargs: Any) -> Factors:
    """Run a program with all its discrete latent sites enumerated.

    Its continuous latent sites must have been given values (`pyro.condition`).

    Args:
        model: a Pyro program whose Python code depends on no discrete site's value (`torch.where`, or an index into a
            table, not `if`), and whose batch dimensions are plates, as Pyro's enumeration demands.

    Raises:
        UnsupportedModelError: a latent site that is not discrete; a plate that subsamples; Python code that depends on
            a discrete site's value; batch dimensions that are no plates.

    >>> import torch, pyro.distributions as dist
    >>> def model():
    ...     rain = pyro.sample("rain", dist.Bernoulli(0.2))
    ...     pyro.sample("wet", dist.Bernoulli(torch.tensor([0.1, 0.9])[rain.long()]), obs=torch.tensor(1.0))
    >>> factors = factors_of(model)
    >>> print(f"{factors.log_total().exp():.2f}", factors.marginal(["rain"]))  # 0.8 * 0.1 + 0.2 * 0.9
    0.26 tensor([0.3077, 0.6923])
    """
    nesting = plate_nesting(model, args, kwargs, check=require_discrete)
    with poutine.block():
        return enumerate_factors(model, nesting, args, kwargs)


def enumerate_factors(
    model: Program, nesting: int, args: Any, kwargs: Any, *, left_out: Collection[str] = ()
) -> Factors:
    """The factors of a program, as `factors_of`, in a run that the handlers around see.

    Args:
        model, args, kwargs: the program.
        nesting: how many of its dimensions on the right are plates.
        left_out: sites that are no factors; read after the run.

    Raises:
        UnsupportedModelError: see `factors_of`.
    """
    program = poutine.enum(config_enumerate(model), first_available_dim=-1 - nesting)
    try:
        with pyro.validation_enabled(False):
            trace: Any = poutine.trace(program).get_trace(*args, **kwargs)
            for name in left_out:
                trace.remove_node(name)
            trace.compute_log_prob()
            trace.pack_tensors()
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        told = str(error).partition("Trace Shapes")[0].strip()
        remedy = "Write torch.where, or an index into a table, for an `if`; put batch dimensions into plates"
        if "dims are supported" in told:  # of a tensor, torch says; each discrete site takes one
            remedy = "Go along a chain by pyro.markov(range(...)), with which its sites take turns in a few dimensions"
        raise UnsupportedModelError(
            "the model", expected="a program that runs with its discrete sites at all their values at once",
            got=f"an error, {told}", remedy=remedy,
        ) from error  # fmt: skip
    return _read(trace)


def _read(trace: Any) -> Factors:
    log, symbols, plates = {}, {}, {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if isinstance(site["fn"], _Subsample):
            require_whole(name, site["fn"])
            continue
        if not site["is_observed"]:
            symbols[name] = site["infer"]["_enumerate_symbol"]
            plates[name] = "".join(trace.plate_to_symbol[f.name] for f in site["cond_indep_stack"] if f.vectorized)
        log[name] = site["packed"]["log_prob"]
    dims = {name: tensor._pyro_dims for name, tensor in log.items()}
    return Factors(log, dims, symbols, plates, "".join(trace.plate_to_symbol.values()))
