"""Each way of writing a product with a random weight: drawn at its output, with the right mean and variance."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.estimators import flipout, local_reparameterization
from tests.estimators.programs import Network, Program, inputs, normal

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch, once a process

W, B = (3, 4), (3,)  # the weight's and the bias' shape, for 4 inputs and 3 outputs


def _sites(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def case(network: Network, x: tuple[int, ...], **shapes: tuple[int, ...]) -> tuple[Program, Tensor]:
    return Program(_sites(**shapes), network), inputs(*x)


PLAIN = inputs(3, 4, seed=7)
POSITIVE = PLAIN.abs()
VECTOR = inputs(3, seed=8)

CASES: dict[str, tuple[Program, Tensor]] = {
    "F.linear": case(lambda x, w: F.linear(x, w), (2, 4), w=W),
    "F.linear, keywords": case(lambda x, w: F.linear(input=x, weight=w), (2, 4), w=W),
    "F.linear, random bias": case(lambda x, w, b: F.linear(x, w, b), (2, 4), w=W, b=B),
    "F.linear, bias by keyword": case(lambda x, w, b: F.linear(x, weight=w, bias=b), (2, 4), w=W, b=B),
    "F.linear, plain bias": case(lambda x, w: F.linear(x, w, VECTOR), (2, 4), w=W),
    "F.linear, only the bias random": case(lambda x, b: F.linear(x, PLAIN, b), (2, 4), b=B),
    "F.linear, one data point": case(lambda x, w, b: F.linear(x, w, b), (4,), w=W, b=B),
    "F.linear, transposed weight": case(lambda x, w: F.linear(x, w.t()), (2, 4), w=(4, 3)),
    "x @ w.T": case(lambda x, w: x @ w.T, (2, 4), w=W),
    "x @ w.mT": case(lambda x, w: x @ w.mT, (2, 4), w=W),
    "x @ w": case(lambda x, w: x @ w, (2, 4), w=(4, 3)),
    "x @ w, transposed twice": case(lambda x, w: x @ w.T.transpose(0, 1), (2, 4), w=(4, 3)),
    "x @ w, permuted": case(lambda x, w: x @ torch.permute(w, (1, 0)), (2, 4), w=W),
    "x @ w, one data point": case(lambda x, w: x @ w, (4,), w=(4, 3)),
    "x @ vector": case(lambda x, w: x @ w, (2, 4), w=(4,)),
    "x @ vector, one data point": case(lambda x, w: (x @ w)[None], (4,), w=(4,)),
    "x.mv(vector)": case(lambda x, w: x.mv(w), (2, 4), w=(4,)),
    "w @ x": case(lambda x, w: w @ x.T, (2, 4), w=W),
    "w.T @ x": case(lambda x, w: w.T @ x.T, (2, 4), w=(4, 3)),
    "w @ x, one data point": case(lambda x, w: w @ x, (4,), w=W),
    "vector @ x": case(lambda x, w: w @ x.T, (2, 4), w=(4,)),
    "torch.matmul": case(lambda x, w: torch.matmul(x, other=w), (2, 4), w=(4, 3)),
    "Tensor.matmul": case(lambda x, w: x.matmul(w), (2, 4), w=(4, 3)),
    "mm, weight right": case(lambda x, w: torch.mm(x, w), (2, 4), w=(4, 3)),
    "mm, weight left": case(lambda x, w: w.mm(x.T), (2, 4), w=W),
    "addmm, random bias": case(lambda x, w, b: torch.addmm(b, x, w), (2, 4), w=(4, 3), b=B),
    "addmm, plain bias": case(lambda x, w: torch.addmm(VECTOR, x, w.T), (2, 4), w=W),
    "w with a plain factor": case(lambda x, w: F.linear(x, w * POSITIVE * 0.5), (2, 4), w=W),
    "a plain factor from the left": case(lambda x, w: F.linear(x, torch.mul(POSITIVE, other=w)), (2, 4), w=W),
    "w by a plain divisor": case(lambda x, w: F.linear(x, w / 3.0 / POSITIVE), (2, 4), w=W),
    "w negated": case(lambda x, w: F.linear(x, -w * PLAIN), (2, 4), w=W),
    "w of another shape": case(lambda x, w: F.linear(x, w.reshape(3, 4)), (2, 4), w=(12,)),
    "w of another dimension": case(lambda x, w: F.linear(x, w[None, :]), (2, 4), w=(4,)),
    "conv1d": case(lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1), (2, 2, 6), w=(3, 2, 3), b=B),
    "conv1d, keywords": case(lambda x, w: F.conv1d(input=x, weight=w), (2, 2, 6), w=(3, 2, 3)),
    "conv1d, unbatched": case(lambda x, w, b: F.conv1d(x, w, b), (2, 6), w=(3, 2, 3), b=B),
    "conv1d, same": case(lambda x, w: F.conv1d(x, w, padding="same", dilation=2), (2, 2, 6), w=(3, 2, 4)),
    "conv1d, only the bias random": case(
        lambda x, b: F.conv1d(x, PLAIN[:, :2, None], b), (2, 2, 6), b=B),
    "conv2d": case(lambda x, w, b: F.conv2d(x, w, b, dilation=(1, 2)), (2, 2, 4, 5), w=(3, 2, 2, 2), b=B),
    "conv2d, same": case(lambda x, w: F.conv2d(x, w, padding="same"), (2, 2, 4, 3), w=(3, 2, 2, 3)),
    "conv2d, valid": case(lambda x, w: F.conv2d(x, w, padding="valid"), (2, 2, 4, 3), w=(3, 2, 2, 3)),
    "conv2d, groups": case(lambda x, w, b: F.conv2d(x, w, b, groups=2), (2, 4, 3, 3), w=(4, 2, 2, 2), b=(4,)),
    "conv3d": case(lambda x, w, b: F.conv3d(x, w, b), (2, 1, 3, 3, 3), w=(3, 1, 2, 2, 2), b=B),
    "conv_transpose1d": case(
        lambda x, w, b: F.conv_transpose1d(x, w, b, stride=3, output_padding=1), (2, 2, 4), w=(2, 3, 2), b=B),
    "conv_transpose2d, groups": case(
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 0, 2, 1), (2, 4, 3, 3), w=(4, 2, 2, 2), b=(4,)),
    "conv_transpose2d, unbatched": case(
        lambda x, w, b: F.conv_transpose2d(x, w, b, dilation=2), (2, 3, 3), w=(2, 3, 2, 2), b=B),
    "conv_transpose3d": case(lambda x, w, b: F.conv_transpose3d(x, w, b), (2, 1, 2, 2, 2), w=(1, 3, 2, 2, 2), b=B),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_local_draw_has_the_exact_moments(name: str, constant_noise: Callable[[float], None]) -> None:
    program, x = CASES[name]
    mean, variance = program.moments(x)
    for noise in (0.0, 1.0, -2.0):
        constant_noise(noise)
        local = local_reparameterization(program.guide, model=program.model, fallback="raise")
        torch.testing.assert_close(program.run(local, x), mean + noise * variance.sqrt())
        assert {use.site for use in local.coverage()} == set(program.sites)
        assert all(use.how == "local" for use in local.coverage())


@pytest.mark.parametrize("name", sorted(set(CASES) - {"w negated"}))  # the noise of a negative weight is negative
def test_flipout_is_an_ordinary_draw_but_for_its_signs(
    name: str, constant_noise: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all signs positive and all noise c, each weight is m + c s."""
    program, x = CASES[name]
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, device: torch.ones(shape, dtype=torch.int64))
    for noise in (0.0, 1.0, -2.0):
        constant_noise(noise)
        estimator = flipout(program.guide, model=program.model, fallback="raise")
        drawn = {name: fn.mean + noise * fn.stddev for name, fn in program.sites.items()}
        torch.testing.assert_close(program.run(estimator, x), program.network(x, **drawn))
        assert all(use.how == "local" for use in estimator.coverage())


FALLBACKS: dict[str, tuple[Program, Tensor, str]] = {
    "an unknown function": (*case(lambda x, w: x * w.tanh().sum(), (2, 4), w=W), "no rule"),
    "a bilinear form": (*case(lambda x, w: F.bilinear(x, x, w), (2, 4), w=(3, 4, 4)), "no rule"),
    "einsum": (*case(lambda x, w: torch.einsum("bi,oi->bo", x, w), (2, 4), w=W), "no rule"),
    "part of a weight": (*case(lambda x, w: F.linear(x, w[:2]), (2, 4), w=W), "no rule"),
    "an embedding": (*case(lambda x, w: F.embedding(x.abs().long().clamp(max=2), w), (2, 4), w=W), "no rule"),
    "stacked weights": (*case(lambda x, v, w: F.linear(x, torch.stack([v, w])), (2, 4), v=(4,), w=(4,)), "no rule"),
    "a repeated weight": (*case(lambda x, w: x @ (w * PLAIN.T), (2, 4), w=(1, 3)), "no rule"),
    "several positions": (*case(lambda x, w: F.linear(x, w), (2, 5, 4), w=W), "several positions"),
    "a batch of matrices": (*case(lambda x, w: x @ w, (2, 5, 4), w=(4, 3)), "several positions"),
    "two random matrices": (*case(lambda x, v, w: x.sum() + v @ w, (2, 4), v=(3, 4), w=(4, 3)), "two random"),
    "a random input": (*case(lambda x, w: x.sum() + F.linear(w, PLAIN), (2, 4), w=(2, 4)), "is the input"),
    "addmm with factors": (*case(lambda x, w: torch.addmm(VECTOR, x, w, alpha=2), (2, 4), w=(4, 3)), "factors"),
    "addmm of a matrix": (*case(lambda x, w: torch.addmm(PLAIN[:2, :3], x, w), (2, 4), w=(4, 3)), "of a matrix"),
    "bias and weight from one site": (
        *case(lambda x, w: F.linear(x, w.reshape(4, 4), w.reshape(4, 4).reshape(-1)[:4]), (2, 4), w=(16,)), "no rule"),
    "a site twice in one function": (*case(lambda x, w: F.linear(x, w[None], w), (2, 1), w=(1,)), "more than once"),
}  # fmt: skip


@pytest.mark.parametrize("build", [local_reparameterization, flipout])
@pytest.mark.parametrize("name", FALLBACKS)
def test_what_has_no_rule_gets_one_ordinary_draw(
    name: str, build: Callable[..., Any], constant_noise: Callable[[float], None]
) -> None:
    program, x, reason = FALLBACKS[name]
    for noise in (0.0, 1.0, -2.0):
        constant_noise(noise)
        estimator = build(program.guide, model=program.model)
        drawn = {name: fn.mean + noise * fn.stddev for name, fn in program.sites.items()}
        torch.testing.assert_close(program.run(estimator, x), program.network(x, **drawn))
        uses = estimator.coverage()
        assert {use.site for use in uses} == set(program.sites)
        assert all(use.how == "drawn" for use in uses)
        assert any(reason in use.reason for use in uses)


@pytest.mark.parametrize("write", ["mul_", "add_", "zero_", "clamp_"])
def test_writing_into_a_random_weight_is_refused(write: str) -> None:
    arguments = {"mul_": (2.0,), "add_": (1.0,), "zero_": (), "clamp_": (0.0,)}[write]
    program = Program(_sites(w=W), lambda x, w: F.linear(x, getattr(w, write)(*arguments)))
    estimator = local_reparameterization(program.guide)
    trace = poutine.trace(estimator).get_trace(inputs(2, 4))
    with pytest.raises(UnsupportedModelError, match=f"{write}.*w.*writes into it"):
        poutine.replay(program.model, trace)(inputs(2, 4))
