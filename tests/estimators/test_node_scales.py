"""Hierarchical weights: scale times raw weight, with the scale drawn for each data point where it acts."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor

from pyro_bdl.estimators import DeferredDraw, flipout, local_reparameterization
from tests.estimators.programs import Program, inputs, log_normal, normal
from tests.statistics import Mismatch, means_agree

W = (3, 4)


def case(network: Callable[..., Tensor], x: tuple[int, ...], **sites: Any) -> tuple[Program, Tensor]:
    return Program(sites, network), inputs(*x)


LOCAL: dict[str, tuple[Program, Tensor]] = {
    "linear, inputs": case(lambda x, w, z: F.linear(x, w * z), (2, 4), w=normal(*W), z=normal(4)),
    "linear, inputs, positive": case(lambda x, w, z: F.linear(x, z * w), (2, 4), w=normal(*W), z=log_normal(4)),
    "linear, outputs": case(lambda x, w, z: F.linear(x, w * z[:, None]), (2, 4), w=normal(*W), z=normal(3)),
    "linear, outputs, random bias": case(
        lambda x, w, z, b: F.linear(x, w * z.reshape(3, 1), b), (2, 4), w=normal(*W), z=log_normal(3), b=normal(3)),
    "linear, one scale": case(lambda x, w, z: F.linear(x, w * z), (2, 4), w=normal(*W), z=log_normal(1)),
    "linear, one scale without dimensions": case(lambda x, w, z: F.linear(x, w * z), (2, 4), w=normal(*W), z=normal()),
    "linear, one input": case(lambda x, w, z: F.linear(x, w * z), (2, 1), w=normal(3, 1), z=log_normal(1)),
    "x @ w, inputs": case(lambda x, w, z: x @ (w * z[:, None]), (2, 4), w=normal(4, 3), z=log_normal(4)),
    "x @ w.T, transposed after scaling": case(
        lambda x, w, z: x @ (w * z[None, :]).T, (2, 4), w=normal(*W), z=log_normal(4)),
    "product of scales": case(
        lambda x, w, z, t: F.linear(x, w * (z * t)), (2, 4), w=normal(*W), z=log_normal(4), t=log_normal(4, seed=5)),
    "product of scales, one after the other": case(
        lambda x, w, z, t: F.linear(x, w * z * t), (2, 4), w=normal(*W), z=log_normal(4), t=log_normal(4, seed=5)),
    "power of a scale": case(
        lambda x, w, z: F.linear(x, w * (z**-0.5) / 2.0), (2, 4), w=normal(*W), z=log_normal(4)),
    "root of a product of scales": case(
        lambda x, w, z, t: F.linear(x, w * (2.0 * z.square() * t).sqrt()), (2, 4),
        w=normal(*W), z=log_normal(4), t=log_normal(4, seed=5)),
    "a scale common to all nodes": case(
        lambda x, w, z, s: F.linear(x, w * (z * s)), (2, 4), w=normal(*W), z=log_normal(4), s=log_normal(1, seed=5)),
    "a scale common to all nodes, one after the other": case(
        lambda x, w, z, s: F.linear(x, w * z[None] * s), (2, 4), w=normal(*W), z=log_normal(4), s=log_normal(seed=5)),
    "a horseshoe's scale": case(
        lambda x, w, z, t, s, r: F.linear(x, w * (2.0 * (z * t).sqrt() * (s * r) ** 0.5).reshape(1, 4)), (2, 4),
        w=normal(*W), z=log_normal(4), t=log_normal(4, seed=5), s=log_normal(1, seed=6), r=log_normal(1, seed=7)),
    "a horseshoe's scale of output channels": case(
        lambda x, w, z, s: F.conv2d(x, w * (z * s)[:, None, None, None]), (2, 2, 3, 3),
        w=normal(3, 2, 2, 2), z=log_normal(3), s=log_normal(1, seed=5)),
    "divided by a scale": case(lambda x, w, z: F.linear(x, w / z), (2, 4), w=normal(*W), z=log_normal(4)),
    "conv2d, inputs": case(
        lambda x, w, z: F.conv2d(x, w * z[:, None, None]), (2, 2, 3, 3), w=normal(3, 2, 2, 2), z=log_normal(2)),
    "conv2d, outputs": case(
        lambda x, w, z, b: F.conv2d(x, w * z[:, None, None, None], b), (2, 2, 3, 3),
        w=normal(3, 2, 2, 2), z=normal(3), b=normal(3)),
    "conv1d, outputs, groups": case(
        lambda x, w, z: F.conv1d(x, w * z[:, None, None], groups=2), (2, 4, 4), w=normal(4, 2, 2), z=log_normal(4)),
    "conv_transpose1d, inputs": case(
        lambda x, w, z: F.conv_transpose1d(x, w * z[:, None, None]), (2, 2, 3), w=normal(2, 3, 2), z=log_normal(2)),
    "conv_transpose1d, outputs": case(
        lambda x, w, z: F.conv_transpose1d(x, w * z[:, None]), (2, 2, 3), w=normal(2, 3, 2), z=normal(3)),
}  # fmt: skip

DRAWN: dict[str, tuple[Program, Tensor]] = {
    "a scale of each weight": case(lambda x, w, z: F.linear(x, w * z), (2, 4), w=normal(*W), z=normal(*W)),
    "two scales, of inputs and outputs": case(
        lambda x, w, z, t: F.linear(x, w * z * t[:, None]), (2, 4), w=normal(*W), z=log_normal(4), t=log_normal(3)),
    "two normal scales": case(
        lambda x, w, z, t: F.linear(x, w * z * t), (2, 4), w=normal(*W), z=normal(4), t=normal(4, seed=5)),
    "a normal and a positive scale": case(
        lambda x, w, z, t: F.linear(x, w * z * t), (2, 4), w=normal(*W), z=normal(4), t=log_normal(4, seed=5)),
    "a normal and a positive scale, multiplied first": case(
        lambda x, w, z, t: F.linear(x, w * (z * t)), (2, 4), w=normal(*W), z=normal(4), t=log_normal(4, seed=5)),
    "the same scale twice": case(lambda x, w, z: F.linear(x, w * z * z), (2, 4), w=normal(*W), z=log_normal(4)),
    "a positive weight": case(lambda x, w: F.linear(x, w), (2, 4), w=log_normal(*W)),
    "a positive bias": case(lambda x, w, b: F.linear(x, w, b), (2, 4), w=normal(*W), b=log_normal(3)),
    "conv1d, inputs, groups": case(
        lambda x, w, z: F.conv1d(x, w * z[:, None], groups=2), (2, 4, 4), w=normal(4, 2, 2), z=log_normal(2)),
    "conv_transpose1d, outputs, groups": case(
        lambda x, w, z: F.conv_transpose1d(x, w * z[:, None], groups=2), (2, 4, 3), w=normal(4, 2, 2), z=log_normal(2)),
}  # fmt: skip

PARTLY: dict[str, tuple[Program, Tensor]] = {
    "the square of one scale": case(lambda x, w, z: F.linear(x, w * (z * z)), (2, 4), w=normal(*W), z=log_normal(4)),
    "the logarithm of a scale": case(
        lambda x, w, z: F.linear(x, w * z.log()), (2, 4), w=normal(*W), z=log_normal(4)),
}  # fmt: skip


def repeated(program: Program, estimator: Callable[..., Any], x: Tensor, n: int) -> Tensor:
    """n passes for the price of one: the data points repeated, each with draws of its own. (n, points, ...)."""
    with torch.no_grad():
        out = program.run(estimator, x.repeat(n, *(1,) * (x.dim() - 1)))
    return out.reshape(n, len(x), *out.shape[1:])


def same_marginals(a: Tensor, b: Tensor) -> None:
    """First and second moments of each output agree."""
    means_agree(a, b)
    means_agree(a.square(), b.square())


@pytest.mark.parametrize("name", LOCAL)
def test_local_law_is_that_of_ordinary_draws(name: str) -> None:
    program, x = LOCAL[name]
    local = local_reparameterization(program.guide, model=program.model, fallback="raise")
    same_marginals(repeated(program, local, x, 20_000), program.ordinary(x, 20_000))
    assert {use.site for use in local.coverage()} == set(program.sites)


@pytest.mark.parametrize("name", list(LOCAL)[::4])
def test_flipout_law_is_that_of_ordinary_draws(name: str) -> None:
    program, x = LOCAL[name]
    estimator = flipout(program.guide, model=program.model, fallback="raise")
    same_marginals(program.draws(estimator, x, 1_500), program.ordinary(x, 20_000))


@pytest.mark.parametrize("build", [local_reparameterization, flipout])
@pytest.mark.parametrize("name", DRAWN)
def test_scales_without_a_rule_get_an_ordinary_draw(
    name: str, build: Callable[..., Any], constant_noise: Callable[[float], None]
) -> None:
    program, x = DRAWN[name]
    for noise in (0.0, 1.0, -2.0):
        constant_noise(noise)
        estimator = build(program.guide, model=program.model)
        drawn = {
            name: (fn.loc + noise * fn.scale).exp() if "LogNormal" in repr(fn) else fn.loc + noise * fn.scale
            for name, fn in program.sites.items()
        }
        torch.testing.assert_close(program.run(estimator, x), program.network(x, **drawn))


@pytest.mark.parametrize("build", [local_reparameterization, flipout])
@pytest.mark.parametrize("name", PARTLY)
def test_a_scale_drawn_once_is_a_plain_factor_of_a_weight_drawn_for_each_data_point(
    name: str, build: Callable[..., Any]
) -> None:
    program, x = PARTLY[name]
    estimator = build(program.guide, model=program.model)
    same_marginals(program.draws(estimator, x, 1_500), program.ordinary(x, 20_000))
    assert {use.site: use.how for use in estimator.coverage()} == {"w": "local", "z": "drawn"}


MUTANTS: dict[str, Callable[[DeferredDraw], DeferredDraw]] = {
    "the scale is not random": lambda z: z.derive(z.loc, z.variance * 1e-12, z.value),
    "sigma of the scale for its variance": lambda z: z.derive(z.loc, z.variance.sqrt(), z.value),
    "log sigma": lambda z: z.derive(z.loc, z.variance.log().abs(), z.value),
    "noise x sqrt 2": lambda z: z.derive(z.loc, z.variance * 2.0, z.value),
    "the mode for the median": lambda z: z.derive(z.loc - z.variance, z.variance, z.value),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str) -> None:
    sites = {"w": normal(*W), "z": log_normal(4)}
    right = Program(sites, lambda x, w, z: F.linear(x, w * z))
    wrong = Program(sites, lambda x, w, z: F.linear(x, w * MUTANTS[mutant](z)))
    x = inputs(2, 4)
    local = local_reparameterization(wrong.guide, model=wrong.model)
    with pytest.raises(Mismatch):
        same_marginals(repeated(wrong, local, x, 20_000), right.ordinary(x, 20_000))


def test_a_common_scale_drawn_for_each_node_is_caught() -> None:
    """Nodes that share a factor are correlated: a factor for each makes the outputs' variance too small."""
    sites = {"w": normal(*W), "z": log_normal(4), "s": dist.LogNormal(torch.zeros(1).double(), 1.0)}
    right = Program(sites, lambda x, w, z, s: F.linear(x, w * (z * s)))
    spread = {**sites, "s": dist.LogNormal(torch.zeros(4).double(), 1.0)}
    wrong = Program(spread, right.network)
    x = inputs(2, 4)
    local = local_reparameterization(wrong.guide, model=wrong.model)
    with pytest.raises(Mismatch):
        same_marginals(repeated(wrong, local, x, 20_000), right.ordinary(x, 20_000))


def test_one_scale_for_all_rows_is_caught() -> None:
    """What `repeated` relies on: an ordinary draw, the same for all rows, cannot pass for draws of each."""
    program, x = LOCAL["linear, inputs, positive"]
    shared = local_reparameterization(program.guide, model=program.model, shared=["z"])
    with pytest.raises(Mismatch):
        same_marginals(repeated(program, shared, x, 20_000), program.ordinary(x, 20_000))


def test_a_positive_site_stays_log_normal_in_closed_form() -> None:
    program, x = case(lambda x, z, t: x, (1, 1), z=log_normal(4), t=log_normal(4, seed=5))
    trace = poutine.trace(local_reparameterization(program.guide)).get_trace(x)
    z, t = (trace.nodes[name]["value"] for name in "zt")
    scale = (3.0 * z**-1.5 / t.sqrt()).reciprocal()
    assert isinstance(scale, DeferredDraw)
    assert scale.log_normal
    expected = 3.0 * z.value() ** -1.5 / t.value().sqrt()
    torch.testing.assert_close(scale.value(), 1.0 / expected)
    torch.testing.assert_close(scale.loc, -(torch.log(torch.tensor(3.0)) - 1.5 * z.loc - 0.5 * t.loc))
    torch.testing.assert_close(scale.variance, 1.5**2 * z.variance + 0.25 * t.variance)
