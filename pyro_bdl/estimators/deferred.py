"""A random tensor that is drawn where it is used."""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor

from pyro_bdl.errors import UnsupportedModelError
from pyro_bdl.estimators.passes import Root


class DeferredDraw(Tensor):
    r"""A tensor of independent normal or log-normal elements that nobody has drawn yet.

    It has a shape, dtype and device but no storage. Functions that the estimator has a rule for (`F.linear`,
    convolutions, `matmul`) draw their *output*; algebra that stays in the family (a plain factor, a power of a
    log-normal, a transposition, a node scale) gives another deferred draw; any other function gets one ordinary draw
    of the weight, the same for all of them.

    Attributes:
        loc, variance: the mean and variance of each element; of its logarithm if `log_normal`.
        log_normal: whether the elements are log-normal.
        scale: a deferred node scale by which a normal weight is multiplied, broadcast to its shape; or `None`. Of a
            log-normal draw: one more log-normal number, by which all its elements are multiplied.
        roots: the sample sites it comes from.
        accumulate: whether `loc` and `variance` are leaves into whose `.grad` a rule may add its gradient itself.
    """

    loc: Tensor
    variance: Tensor
    log_normal: bool
    scale: "DeferredDraw | None"
    roots: tuple[Root, ...]
    accumulate: bool
    _value: Callable[[], Tensor]

    @staticmethod
    def __new__(
        cls,
        loc: Tensor,
        variance: Tensor,
        roots: tuple[Root, ...],
        value: Callable[[], Tensor],
        *,
        log_normal: bool = False,
        scale: "DeferredDraw | None" = None,
        accumulate: bool = False,
    ) -> "DeferredDraw":
        """A deferred draw of these moments; `value` gives the ordinary draw."""
        self = Tensor._make_wrapper_subclass(
            cls, loc.shape, dtype=loc.dtype, device=loc.device, requires_grad=loc.requires_grad
        )
        self.loc, self.variance, self.log_normal = loc, variance, log_normal
        self.scale, self.roots, self.accumulate, self._value = scale, roots, accumulate, value
        return self

    def value(self) -> Tensor:
        """The ordinary reparameterised draw, the same at each call; not counted as a use."""
        return self._value()

    def derive(
        self,
        loc: Tensor,
        variance: Tensor,
        value: Callable[[], Tensor],
        *,
        roots: tuple[Root, ...] | None = None,
        scale: "DeferredDraw | None" = None,
    ) -> "DeferredDraw":
        """A deferred draw of the same family that follows from this one."""
        return DeferredDraw(
            loc, variance, self.roots if roots is None else roots, value, log_normal=self.log_normal, scale=scale
        )

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        names = ", ".join(root.name for root in self.roots)
        return f"DeferredDraw({names}, shape={tuple(self.loc.shape)})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        algebra = ALGEBRA.get(func)
        if algebra is not None:
            result = algebra(*args, **kwargs)
            if result is not NotImplemented:
                return result
        draw = next(deferred_in(args, kwargs))
        _refuse_writing(func, draw)
        return draw.roots[0].estimator.apply(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> NoReturn:
        raise TypeError(f"{func} reached a weight that is not drawn yet; call its value() first")


def deferred_in(*containers: Any) -> Iterator[DeferredDraw]:
    """The deferred draws among arguments, also within lists, tuples and dictionaries."""
    for item in containers:
        if isinstance(item, DeferredDraw):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from deferred_in(*item)
        elif isinstance(item, dict):
            yield from deferred_in(*item.values())


def drawn(item: Any) -> Any:
    """The same arguments with each deferred draw replaced by its ordinary draw."""
    if isinstance(item, DeferredDraw):
        return item.value()
    if isinstance(item, (list, tuple)):
        parts = [drawn(part) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
    if isinstance(item, dict):
        return {key: drawn(part) for key, part in item.items()}
    return item


def _refuse_writing(func: Any, draw: DeferredDraw) -> None:
    name = getattr(func, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        raise UnsupportedModelError(
            f"{name} of {draw!r}",
            expected="functions that leave a random weight as it is",
            got="one that writes into it",
            remedy=f"Use the function without the underscore, {name[:-1]}",
        )


def _disjoint(a: DeferredDraw, b: DeferredDraw) -> bool:
    return not set(map(id, a.roots)) & set(map(id, b.roots))


def _multiply(input: Any, other: Any) -> Any:
    if isinstance(input, DeferredDraw) and isinstance(other, DeferredDraw):
        return _product(input, other)
    draw, factor = (input, other) if isinstance(input, DeferredDraw) else (other, input)
    if isinstance(factor, Tensor):
        # Broadcasting the draw itself would repeat it: no longer independent elements.
        if draw.log_normal or torch.broadcast_shapes(draw.loc.shape, factor.shape) != draw.loc.shape:
            return NotImplemented
    elif draw.log_normal:
        if factor <= 0:
            return NotImplemented
        shift = torch.as_tensor(factor, dtype=draw.loc.dtype, device=draw.loc.device).log()
        return draw.derive(draw.loc + shift, draw.variance, lambda: draw.value() * factor, scale=draw.scale)
    return draw.derive(
        draw.loc * factor, draw.variance * (factor * factor), lambda: draw.value() * factor, scale=draw.scale
    )


def _product(a: DeferredDraw, b: DeferredDraw) -> Any:
    """A weight times its node scale, or two positive scales; each of its own sites."""
    if not _disjoint(a, b):
        return NotImplemented
    roots = a.roots + b.roots

    def value() -> Tensor:
        return a.value() * b.value()

    if a.log_normal and b.log_normal:
        if a.loc.shape != b.loc.shape:
            return _with_common(a, b, value)
        if a.scale is not None and b.scale is not None:
            return NotImplemented
        common = b.scale if a.scale is None else a.scale
        return a.derive(a.loc + b.loc, a.variance + b.variance, value, roots=roots, scale=common)
    weight, scale = (b, a) if a.log_normal or a.loc.numel() < b.loc.numel() else (a, b)
    if weight.log_normal or (scale.scale is not None and not scale.log_normal):
        return NotImplemented
    if torch.broadcast_shapes(weight.loc.shape, scale.loc.shape) != weight.loc.shape:
        return NotImplemented
    if weight.scale is not None:
        scale = _product(weight.scale, scale)
        if scale is NotImplemented or (scale.scale is not None and not scale.log_normal):
            return NotImplemented
    return weight.derive(weight.loc, weight.variance, value, roots=roots, scale=scale)


def _with_common(a: DeferredDraw, b: DeferredDraw, value: Callable[[], Tensor]) -> Any:
    """Positive scales times one positive number: their elements then share a factor, which stands apart."""
    each, one = (a, b) if b.loc.numel() == 1 else (b, a)
    if one.loc.numel() != 1 or each.scale is not None or one.scale is not None:
        return NotImplemented
    if torch.broadcast_shapes(each.loc.shape, one.loc.shape) != each.loc.shape:
        return NotImplemented
    return each.derive(each.loc, each.variance, value, roots=a.roots + b.roots, scale=one)


def _divide(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        return NotImplemented
    if isinstance(other, DeferredDraw):
        reciprocal = _power(other, -1.0)
        return NotImplemented if reciprocal is NotImplemented else _multiply(input, reciprocal)
    if isinstance(other, Tensor):
        return _multiply(input, other.reciprocal())
    return _multiply(input, 1.0 / other) if other else NotImplemented


def _power(input: Any, exponent: Any) -> Any:
    if not (isinstance(input, DeferredDraw) and input.log_normal and isinstance(exponent, (int, float))):
        return NotImplemented
    common = None if input.scale is None else _power(input.scale, exponent)
    return input.derive(
        input.loc * exponent, input.variance * exponent**2, lambda: input.value() ** exponent, scale=common
    )


def _view(func: Callable[..., Tensor], *, keeps_dims: bool = False) -> Callable[..., Any]:
    """A rearrangement of elements, which leaves them independent."""

    def apply(input: DeferredDraw, *args: Any, **kwargs: Any) -> Any:
        scale: Any = input.scale
        if scale is not None and not input.log_normal:
            if not (keeps_dims and scale.dim() == input.dim()):
                return NotImplemented
            scale = func(scale, *args, **kwargs)
        return input.derive(
            func(input.loc, *args, **kwargs),
            func(input.variance, *args, **kwargs),
            lambda: func(input.value(), *args, **kwargs),
            scale=scale,
        )

    return apply


def _index(draw: DeferredDraw, index: Any) -> Any:
    """`w[..., None]` and the like: new dimensions of length one, nothing taken out."""
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or (isinstance(part, slice) and part == slice(None)) for part in parts):
        return _view(Tensor.__getitem__)(draw, index)
    return NotImplemented


def _expand(draw: DeferredDraw, *sizes: Any) -> Any:
    shape = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    kept = len(shape) == draw.loc.dim() and all(n in (-1, m) for n, m in zip(shape, draw.loc.shape, strict=True))
    return draw if kept else NotImplemented


def _like(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A tensor of the draw's shape, dtype and device, whatever its value."""
    return lambda input, *args, **kwargs: func(input.loc, *args, **kwargs)


ALGEBRA: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.mul, torch.multiply, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _multiply),
    **dict.fromkeys((Tensor.__rdiv__, Tensor.__rtruediv__), lambda a, other: _divide(other, a)),
    **dict.fromkeys((torch.div, torch.true_divide, Tensor.div, Tensor.__truediv__), _divide),
    **dict.fromkeys((torch.pow, Tensor.pow, Tensor.__pow__), _power),
    **dict.fromkeys((torch.sqrt, Tensor.sqrt), lambda input: _power(input, 0.5)),
    **dict.fromkeys((torch.square, Tensor.square), lambda input: _power(input, 2.0)),
    **dict.fromkeys((torch.reciprocal, Tensor.reciprocal), lambda input: _power(input, -1.0)),
    **dict.fromkeys((torch.neg, Tensor.neg, Tensor.__neg__), lambda input: _multiply(input, -1.0)),
    **{
        func: _view(func)
        for func in (torch.reshape, Tensor.reshape, Tensor.view, torch.unsqueeze, Tensor.unsqueeze)
    },
    **{
        func: _view(func, keeps_dims=True)
        for func in (
            torch.t, Tensor.t, torch.transpose, Tensor.transpose, torch.permute, Tensor.permute,
            *(getattr(Tensor, name).__get__ for name in ("T", "mT")),
        )
    },
    Tensor.__getitem__: _index,
    Tensor.expand: _expand,
    Tensor.contiguous: lambda draw: draw,
    **{
        func: _like(func)
        for func in (
            torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.rand_like, torch.randn_like,
            Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor,
        )
    },
}  # fmt: skip

METADATA = {
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "ndim", "dtype", "device", "requires_grad", "layout", "is_leaf", "is_cuda", "is_sparse",
                     "is_quantized", "is_mkldnn", "is_nested", "grad_fn", "is_mps", "is_meta")
    ),
    *(
        getattr(Tensor, name)
        for name in ("size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex", "__len__",
                     "element_size")
    ),
    torch.is_floating_point,
    torch.is_complex,
    torch.numel,
}  # fmt: skip
