"""From a fitted guide to a compressed network."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pyro_bdl.bayesian_module import BayesianModule
from pyro_bdl.compression.coded import Task, as_draw, as_integers
from pyro_bdl.compression.compressed import CompressedNetwork, architecture_of, count, require_network
from pyro_bdl.compression.example_inputs import ExampleInputs, require_affordable
from pyro_bdl.compression.posterior import WeightPosterior
from pyro_bdl.compression.pruned import Pruned, with_values
from pyro_bdl.compression.quantisation.sharing import sharing_of
from pyro_bdl.compression.random_code.random_draw import RandomDraw
from pyro_bdl.compression.retraining import Retraining
from pyro_bdl.compression.units.finding import Units, find_units
from pyro_bdl.compression.units.probing import positional
from pyro_bdl.compression.validation import Validation, error_function, standard_error
from pyro_bdl.compression.variants import at_widths
from pyro_bdl.errors import InputError, UnsupportedModelError
from pyro_bdl.priors.mixture import SoftWeightSharing
from pyro_bdl.weight_moments import weight_moments, weight_posterior


def compress(
    net: nn.Module,
    guide: Any,
    *,
    example_input: Any,
    validation: Validation | None = None,
    tolerance: float | None = None,
    unit_thresholds: float | Mapping[str, float] | None = None,
    spread: float | None = None,
    trade: float | None = None,
    codebook: int | SoftWeightSharing | None = None,
    draw: RandomDraw | None = None,
    retraining: Retraining | None = None,
    progress: bool = False,
) -> CompressedNetwork:
    r"""Prune, quantise and shrink a network by the posterior of its weights.

    1. Units are cut out: those whose log alpha (`unit_log_alpha`; Louizos, Ullrich & Welling 2017, section 4.1) is
       above a threshold, or, with validation data, those of the least information (`unit_information`).
    2. The other weights become integers: those that minimise posterior deviation plus code length (`quantise`), on
       grids whose step the posterior's spread tells (`fixed_point`). What is noise becomes 0. With a `codebook` they
       become places in a list of shared values instead, which the file holds (`compression.quantisation.sharing`).
    3. Units that then have no effect are cut out, too, and what is left is a smaller dense module.
    4. For fast prediction without an entropy coder, each parameter of this module gets a bit width (`choose_widths`).

    Each choice (step and trade between deviation and code length; the thresholds, which may use up none or half of the
    tolerance, or cut nothing themselves) is the shortest whose validation error is within the tolerance of the
    posterior mean's; the bit widths are the narrowest whose error is within 0.1 points of
    the same network's in 32 bits. Without validation data all are the defaults below, by the posterior alone.

    Args:
        net: the network, or the `BayesianModule` around it. It is not changed, nor is the guide.
        guide: a fitted mean-field guide of a model of this network that can be called with the example input alone; or
            the `WeightPosterior` itself, e.g. `weight_posterior(net, guide, x, y)`.
        example_input: one or more inputs of the network; a tuple of tensors for several positional ones.
        validation: inputs (a tuple for several) and labels held out of the training data, or a function from a network
            to its error, a fraction in [0, 1]. Not the test set: choices are made by it.
        tolerance: how much more validation error is allowed. Default: one standard error of it (a function has none).
        unit_thresholds: on log alpha, one for all groups or by name. Default: the information is what units are chosen
            by; without validation data 3.
        spread: rounding noise in posterior deviations, see `fixed_point`. Default: chosen; without, 0.5.
        trade: lambda of `quantise`. Default: chosen; without, 0.03 (1 is often too much, see `choose_integers`; but for
            a mixture's components, where 1 stands for the most probable).
        codebook: the values that weights share, zero always one of them. A number: k-means of the posterior means with
            their precisions as weights, so many clusters; on validation data with fewer, or from evenly spaced centres,
            where that is shorter. The `SoftWeightSharing` prior of the fit: each weight takes the mean of its most
            probable component, after those that hardly differ are merged (on validation data: those nearer than a
            chosen threshold). The parameters that this mixture is not for, or that are not random beside others that
            are, become integers. Where a codebook is given the guide may be one of point values, as `AutoDelta` for
            soft weight sharing (Ullrich et al. 2017): which value a weight takes can be told without scales; which unit
            is noise cannot, and only dead ones are cut out. Components are for point weights: those of a mean-field fit
            may be as wide as its posteriors, and hold weights that are not their mean. Default: integers, mostly the
            shorter code for a posterior with scales.
        draw: relative-entropy coding: what is left after units are cut by their thresholds is a draw of the posterior,
            told by random indices and a seed. It has no `codebook`, `spread` or `trade`. Default: none.
        retraining: training data, on which what is left adapts to its code. Integers, chosen within the tolerance, are
            then trained for loss and length at once, which makes the file much shorter, or the error less; a larger
            tolerance to begin with is often made up for. Of a draw the weights that are not coded yet adapt to those
            that are. Places in a codebook are not retrained. Default: none, and the choices above are all.
        progress: show a bar while retraining. Default: none.

    Raises:
        InputError: inputs, validation data or a posterior that do not fit the network, a tolerance below zero.
        UnsupportedModelError: a posterior without scales and no codebook, see `weight_posterior`.
        NumericalError: outputs on validation data, an error, or a loss while retraining that are no numbers.

    Warns:
        UserWarning: layers that cannot be pruned, by name; thresholds that would cut a layer to nothing, which is left
            one unit; a tolerance that no choice tried, or not what was retrained, can keep.

    >>> import torch, pyro_bdl as bdl
    >>> torch.manual_seed(0)                                                               # doctest: +ELLIPSIS
    <...>
    >>> x = torch.randn(200, 4)
    >>> y = (x[:, 0] > 0).long()                                                           # three inputs say nothing
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()))
    >>> guide = bdl.guides.AutoMeanField(model)
    >>> adam = lambda p: torch.optim.Adam(p, lr=0.02)
    >>> _ = bdl.fit_svi(model, guide, (x, y), epochs=300, batch_size=200, optimizer=adam, progress=False, seed=0)
    >>> small = bdl.compress(net, guide, example_input=x[:1])
    >>> small.report().architecture.split("-")[0], small.report().file_bytes < 60
    ('1', True)

    Soft weight sharing of point weights, whose file holds the few values and where each stands:

    >>> from pyro.infer.autoguide import AutoDelta
    >>> prior = bdl.priors.SoftWeightSharing(components=4, zero_share=0.5, hyper_weight=0.1)
    >>> model = bdl.Classifier(bdl.BayesianModule(net, prior))
    >>> guide = AutoDelta(model, init_loc_fn=bdl.guides.init_to_network)
    >>> _ = bdl.fit_svi(model, guide, (x, y), epochs=100, batch_size=200, optimizer=adam, progress=False, seed=0,
    ...                 kl_weight=0.1, estimator="plain")
    >>> small = bdl.compress(net, guide, example_input=x[:1], codebook=prior)
    >>> len(torch.cat([p.flatten() for p in small.module.parameters()]).unique()) <= 5
    True
    """
    net = net.net if isinstance(net, BayesianModule) else net
    require_network(net)
    if tolerance is not None and not tolerance >= 0:
        raise InputError("tolerance", expected="a number that is not negative", got=repr(tolerance))
    evaluate, points = (None, None) if validation is None else error_function(validation)
    if draw is not None and not (codebook is None and spread is None and trade is None):
        raise InputError("draw", expected="None beside codebook, spread or trade", got=repr(draw))
    if retraining is not None and codebook is not None:
        raise InputError("retraining", expected="None beside a codebook", got="one for integers or a draw")
    if evaluate is not None and tolerance is None and points is None:
        raise InputError("tolerance", expected="a number, with a function for validation", got="None")
    example = _as_arguments(net, example_input)
    posterior = _posterior(net, guide, example, scales=codebook is None)
    if codebook is not None:
        sharing_of(codebook, posterior)  # is it one?
    mean = with_values(net, posterior.mean)
    inputs, units = _units(mean, example)
    unpruned = math.nan if evaluate is None else evaluate(mean)
    if tolerance is None and points is not None:
        tolerance = standard_error(unpruned, points)
    task = Task(mean, posterior, units, example, unit_thresholds, evaluate, unpruned, tolerance, retraining, progress)
    if draw is None:
        coded = as_integers(task, spread=spread, trade=trade, codebook=codebook)
    else:
        coded = as_draw(task, draw if retraining is None else draw.while_retraining())
    pruned = Pruned.of(mean, posterior, units, coded.kept)
    error = math.nan if evaluate is None else evaluate(pruned.module)
    widths, fast, below = at_widths(pruned, evaluate, error=error, spread=spread)
    variants = {"pruned": pruned.module, **fast, "coded": coded.module}
    errors = {}
    if evaluate is not None:
        errors = {"posterior mean": unpruned, "pruned": error}
        errors |= {name: evaluate(variants[name]) for name in (*fast, "coded")}
        if errors["coded"] > task.limit:
            who = "No choice tried keeps" if retraining is None else "What was retrained does not keep"
            warnings.warn(
                f"{who} the tolerance: validation error {errors['coded']:.4g}, limit {task.limit:.4g}",
                UserWarning,
                stacklevel=2,
            )
    return CompressedNetwork(
        variants=variants, kept=coded.kept, units=units, parameters=coded.parameters, code=coded.code, widths=widths,
        errors=errors, errors_one_bit_below=below, architecture=architecture_of(net), weights=count(net), inputs=inputs,
    )  # fmt: skip


def _as_arguments(net: nn.Module, example_input: Any) -> tuple[Tensor, ...]:
    """The example as positional arguments, numbers in the network's dtype and on its device."""
    ExampleInputs.of(example_input)
    own = next(net.parameters())
    return tuple(x.to(own) if x.is_floating_point() else x.to(own.device) for x in positional(example_input))


def _posterior(net: nn.Module, guide: Any, example: tuple[Tensor, ...], *, scales: bool) -> WeightPosterior:
    if isinstance(guide, WeightPosterior):
        _check_posterior(net, guide, scales=scales)
        return WeightPosterior(
            {n: m.detach() for n, m in guide.mean.items()}, {n: v.detach() for n, v in guide.variance.items()}
        )
    try:
        return (weight_posterior if scales else weight_moments)(net, guide, *example)
    except TypeError as error:  # arguments that the model wants besides, or all sorts of things within it
        raise InputError(
            "the guide's model", expected="one that can be called with the example input alone", got=str(error),
            remedy="Hand over weight_posterior(net, guide, ...) with all of its arguments instead of the guide",
        ) from error  # fmt: skip


def _check_posterior(net: nn.Module, posterior: WeightPosterior, *, scales: bool) -> None:
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    found = {name: tuple(mean.shape) for name, mean in posterior.mean.items()}
    if shapes != found:
        wrong = [n for n in {**shapes, **found} if shapes.get(n) != found.get(n)]
        raise InputError(
            "the posterior", expected=f"moments of {[(n, shapes.get(n)) for n in wrong]}",
            got=f"{[(n, found.get(n)) for n in wrong]}",
        )  # fmt: skip
    if scales and not posterior.has_scales:
        raise UnsupportedModelError("the posterior", expected="scales", got="no variance but zero")


def _units(mean: nn.Module, example: tuple[Tensor, ...]) -> tuple[ExampleInputs, Units]:
    """The units as a reader of the file will find them, if possible by one example."""
    inputs = ExampleInputs.of(example)
    if (one := inputs.of_one()) != inputs:
        try:
            return one, _found(mean, one)
        except InputError:  # what looked like a number of examples is none
            pass
    return inputs, _found(mean, inputs)


def _found(mean: nn.Module, inputs: ExampleInputs) -> Units:
    require_affordable(mean, inputs)
    return find_units(mean, inputs.zeros(mean))
