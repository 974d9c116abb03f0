"""Standardisation: by the training part alone, safe on constant columns."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pyro_bdl.data import Dataset, Standardizer, load, standardize
from pyro_bdl.errors import InputError


@given(arrays("float64", array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e6, 1e6)))
def test_columns_get_mean_zero_and_deviation_one_or_are_constant(values) -> None:
    x = torch.from_numpy(values)
    standard = Standardizer.fit(x)
    z = standard(x)
    span = x.amax(0) - x.amin(0)
    constant = span < 1e-290  # nothing is promised of the deviation of numbers without full precision
    assert torch.isfinite(z).all()
    assert (z[:, span == 0] == 0).all() if x.ndim > 1 else span > 0 or (z == 0).all()
    # Rounding of x itself in units of the deviation: relative to its size, and the step of the subnormal numbers.
    rounding = len(x) * (1e-15 * x.abs().amax(0) + 4e-323) / standard.scale
    assert (z.mean(0).abs() <= 1e-12 + rounding).all()
    assert (((z.std(0, correction=0) - 1).abs() <= 1e-9 + rounding) | constant).all()
    assert ((standard.inverse(z) - x).abs() <= 1e-12 * x.abs().amax(0) + 1e-300).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 288.0, 0.998, 1e30, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_column_becomes_zero(value: float, dtype: torch.dtype) -> None:
    x = torch.full((10_741, 2), value, dtype=dtype)
    x[:, 1] = torch.linspace(0, 1, len(x), dtype=dtype)
    standard = Standardizer.fit(x)
    assert (standard(x)[:, 0] == 0).all()
    assert float(standard.scale[0]) == 1.0


def test_columns_as_small_and_as_large_as_can_be() -> None:
    for value in (1e-200, 1e300):
        x = torch.tensor([0.0, value], dtype=torch.float64)
        assert Standardizer.fit(x)(x).tolist() == [-1.0, 1.0]
    with pytest.raises(InputError, match="range is finite"):
        Standardizer.fit(torch.tensor([-1e308, 1e308], dtype=torch.float64))


def test_a_deviation_too_small_for_the_type_does_not_divide_by_zero() -> None:
    x = torch.zeros(10_000, dtype=torch.float32)
    x[0] = 1e-45
    assert torch.isfinite(Standardizer.fit(x)(x)).all()


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(0, 3),
        torch.zeros(3, dtype=torch.int64),
        torch.tensor(1.0),
        torch.tensor([1.0, torch.nan]),
        torch.tensor([1.0, torch.inf]),
    ],
    ids=["empty", "integers", "no rows", "nan", "infinite"],
)
def test_what_cannot_be_standardised_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(InputError, match="finite floating tensor"):
        Standardizer.fit(x)


def changed_outside_training(data: Dataset) -> Dataset:
    return replace(
        data,
        x_validation=data.x_validation + 100,
        y_validation=data.y_validation + 100,
        x_test=data.x_test * 7,
        y_test=data.y_test * 7,
    )


def test_only_the_training_part_counts() -> None:
    data = load("diabetes", dtype=torch.float64)
    one, other = standardize(data), standardize(changed_outside_training(data))
    assert torch.equal(one.data.x_train, other.data.x_train)
    assert torch.equal(one.inputs.mean, other.inputs.mean)
    assert one.targets is not None
    assert other.targets is not None
    assert torch.equal(one.targets.scale, other.targets.scale)
    torch.testing.assert_close(one.data.x_train.mean(0), torch.zeros(10, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(one.data.y_train.std(correction=0), torch.ones((), dtype=torch.float64))
    for part in ("x_train", "x_validation", "x_test"):
        torch.testing.assert_close(one.inputs.inverse(getattr(one.data, part)), getattr(data, part))
    torch.testing.assert_close(one.targets.inverse(one.data.y_test), data.y_test)


def test_labels_stay_as_they_are() -> None:
    data = load("breast_cancer")
    standard = standardize(data)
    assert standard.targets is None
    assert torch.equal(standard.data.y_train, data.y_train)
    assert standard.data.y_train.dtype == torch.int64


def test_images_are_no_table() -> None:
    with pytest.raises(InputError, match=r"a table, inputs \(N, D\), got digits"):
        standardize(load("digits"))
