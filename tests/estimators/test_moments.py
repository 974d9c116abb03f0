"""The draws of linear maps and convolutions: closed forms, gradients, edges."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_bdl.estimators.moments import LocalConvolution, LocalLinear
from tests.estimators.programs import inputs, normal


@dataclass(frozen=True)
class Layer:
    """One layer by the shapes of its inputs and weights, and torch's own function for it."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    outputs: int
    function: Callable[..., Tensor] = F.linear
    geometry: dict[str, Any] = field(default_factory=dict)

    def torch_geometry(self) -> tuple[Any, ...] | None:
        """What `torch.convolution` takes after the bias."""
        if self.function is F.linear:
            return None
        dims = len(self.weight) - 2
        options = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0} | self.geometry
        many = {k: [v] * dims if isinstance(v, int) else list(v) for k, v in options.items() if k != "groups"}
        transposed = "transpose" in self.function.__name__
        order = (many["stride"], many["padding"], many["dilation"], transposed, many["output_padding"])
        return (*order, self.geometry.get("groups", 1))

    def draw(self, x: Tensor, loc: Tensor, variance: Tensor, bias: Any, bias_variance: Any, noise: Any) -> Tensor:
        """The package's draw of it."""
        geometry = self.torch_geometry()
        if geometry is None:
            return LocalLinear.apply(x, loc, variance, bias, bias_variance, noise, False)
        return LocalConvolution.apply(x, loc, variance, bias, bias_variance, noise, geometry)


LAYERS = {
    "linear": Layer((4, 5), (3, 5), 3),
    "linear of one unit": Layer((1, 1), (1, 1), 1),
    "conv1d": Layer((2, 3, 7), (4, 3, 3), 4, F.conv1d),
    "conv1d strided": Layer((2, 3, 8), (4, 3, 3), 4, F.conv1d, {"stride": 2, "padding": 1}),
    "conv2d": Layer((2, 2, 5, 6), (3, 2, 3, 2), 3, F.conv2d),
    "conv2d dilated": Layer((2, 2, 6, 6), (3, 2, 2, 2), 3, F.conv2d, {"dilation": (2, 3), "padding": (1, 0)}),
    "conv2d grouped": Layer((2, 4, 5, 5), (6, 2, 2, 2), 6, F.conv2d, {"groups": 2}),
    "conv2d depthwise": Layer((2, 3, 4, 4), (3, 1, 2, 2), 3, F.conv2d, {"groups": 3}),
    "conv3d": Layer((1, 2, 3, 4, 3), (2, 2, 2, 2, 2), 2, F.conv3d, {"padding": 1, "stride": (1, 2, 1)}),
    "conv_transpose1d": Layer((2, 3, 4), (3, 2, 3), 2, F.conv_transpose1d, {"stride": 2, "output_padding": 1}),
    "conv_transpose2d": Layer((2, 2, 3, 3), (2, 3, 2, 3), 3, F.conv_transpose2d, {"padding": 1, "dilation": 2}),
    "conv_transpose2d grouped": Layer((2, 4, 3, 3), (4, 2, 2, 2), 4, F.conv_transpose2d, {"groups": 2, "stride": 2}),
    "conv_transpose3d": Layer((1, 2, 2, 2, 3), (2, 2, 2, 2, 2), 2, F.conv_transpose3d),
}
BIASES = ("none", "plain", "random")


def arguments(layer: Layer, bias: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    weight, offset = normal(*layer.weight, seed=2), normal(layer.outputs, seed=3)
    return (
        inputs(*layer.x),
        weight.mean,
        weight.variance,
        None if bias == "none" else offset.mean,
        offset.variance if bias == "random" else None,
    )


def moments(layer: Layer, bias: str) -> tuple[Tensor, Tensor]:
    """Mean and variance of the outputs, from the derivative of torch's own function by each weight."""
    x, loc, variance, bias_loc, bias_variance = arguments(layer, bias)
    mean = layer.function(x, loc, bias_loc, **layer.geometry)
    jacobian = torch.func.jacrev(lambda w: layer.function(x, w, None, **layer.geometry))(loc)
    spread = (jacobian.square() * variance).sum(tuple(range(mean.dim(), jacobian.dim())))
    if bias_variance is not None:
        spread = spread + bias_variance.reshape(-1, *(1,) * (mean.dim() - 2))
    return mean, spread


def check_closed_form(layer: Layer, bias: str, draw: Callable[..., Tensor]) -> None:
    """m + s * noise with m and s^2 the closed forms, for noise 0 and for noise 1.5."""
    mean, variance = moments(layer, bias)
    arrays = arguments(layer, bias)
    torch.testing.assert_close(draw(*arrays, torch.zeros_like(mean)), mean)
    torch.testing.assert_close(draw(*arrays, torch.full_like(mean, 1.5)), mean + 1.5 * variance.sqrt())


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", LAYERS)
def test_mean_and_variance(name: str, bias: str) -> None:
    check_closed_form(LAYERS[name], bias, LAYERS[name].draw)


MUTANTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "sigma for the variance": lambda x, m, v, b, bv, e: (x, m, v.sqrt(), b, bv, e),
    "log sigma for the variance": lambda x, m, v, b, bv, e: (x, m, v.log().mul(0.5).abs(), b, bv, e),
    "sigma without the square of x": lambda x, m, v, b, bv, e: (x.abs().sqrt() * x.sign(), m, v, b, bv, e),
    "noise x 1.05": lambda x, m, v, b, bv, e: (x, m, v, b, bv, e * 1.05),
    "noise x sqrt 2": lambda x, m, v, b, bv, e: (x, m, v, b, bv, e * 2**0.5),
    "mean off by 0.01": lambda x, m, v, b, bv, e: (x, m + 0.01, v, b, bv, e),
    "the bias is not random": lambda x, m, v, b, bv, e: (x, m, v, b, None, e),
    "sigma of the bias for its variance": lambda x, m, v, b, bv, e: (x, m, v, b, bv.sqrt(), e),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv_transpose1d"])
def test_mutants_are_caught(name: str, mutant: str) -> None:
    layer = LAYERS[name]
    with pytest.raises(AssertionError):
        check_closed_form(layer, "random", lambda *arrays: layer.draw(*MUTANTS[mutant](*arrays)))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_finite_differences(name: str, bias: str) -> None:
    layer = LAYERS[name]
    leaves = [None if a is None else a.clone().requires_grad_() for a in arguments(layer, bias)]
    noise = torch.randn_like(moments(layer, bias)[0])
    assert torch.autograd.gradcheck(lambda *arrays: layer.draw(*arrays, noise), leaves, fast_mode=True)


@pytest.mark.parametrize("frozen", range(5))
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_an_argument_without_gradient_changes_no_other_gradient(name: str, frozen: int) -> None:
    layer = LAYERS[name]
    noise = torch.randn_like(moments(layer, "random")[0])

    def gradients(without: int | None) -> list[Tensor | None]:
        leaves = [a.clone().requires_grad_(i != without) for i, a in enumerate(arguments(layer, "random"))]
        layer.draw(*leaves, noise).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    for i, (a, b) in enumerate(zip(gradients(frozen), gradients(None), strict=True)):
        if i == frozen:
            assert a is None
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_accumulated_gradients_equal_autograds() -> None:
    layer = LAYERS["linear"]
    noise = torch.randn(4, 3, dtype=torch.float64)
    results = []
    for accumulate in (False, True):
        x, loc, variance, bias, bias_variance = (a.clone().requires_grad_() for a in arguments(layer, "random"))
        loc.grad, variance.grad = torch.ones_like(loc), torch.full_like(variance, 2.0)
        LocalLinear.apply(x, loc, variance, bias, bias_variance, noise, accumulate).pow(3).sum().backward()
        results.append([leaf.grad for leaf in (x, loc, variance, bias, bias_variance)])
    for plain, accumulated in zip(*results, strict=True):
        torch.testing.assert_close(accumulated, plain, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv_transpose1d"])
def test_dead_inputs_have_gradient_zero(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    x, loc, variance, _, _ = (None if a is None else a.to(dtype) for a in arguments(layer, "none"))
    leaves = [torch.zeros_like(x), loc, variance]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    noise = torch.randn(moments(layer, "none")[0].shape).to(dtype)
    out = layer.draw(*leaves, None, None, noise)
    out.square().sum().backward()
    assert out.abs().max() < 1e-15
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    assert leaves[1].grad.abs().max() == 0
    assert leaves[2].grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@settings(max_examples=40, deadline=None)
@given(
    log_variance=st.floats(-100.0, 46.0),
    size=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e3]),
    noise=st.floats(-6.0, 6.0),
)
def test_extreme_variances_stay_finite(dtype: torch.dtype, log_variance: float, size: float, noise: float) -> None:
    """From a deviation of 1e-22 (zero in float32, once squared) to 1e10."""
    x = torch.tensor([[size, 0.0], [0.0, 0.0]], dtype=dtype)
    parameter = torch.full((2, 2), log_variance, dtype=dtype, requires_grad=True)
    loc = torch.zeros(2, 2, dtype=dtype, requires_grad=True)
    out = LocalLinear.apply(x, loc, parameter.exp(), None, None, torch.full((2, 2), noise, dtype=dtype), False)
    out.sum().backward()
    assert out.isfinite().all()
    assert loc.grad.isfinite().all()
    assert parameter.grad.isfinite().all()
    expected = abs(noise) * size * 2.718281828459045 ** (log_variance / 2)
    if 1e-12 < expected < 1e12:
        torch.testing.assert_close(out[0].abs().double().mean().item(), expected, rtol=0.3, atol=0.0)
