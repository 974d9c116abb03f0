"""Of which sites of a Pyro program a tensor is made: marks that go with it through torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance, track_provenance
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SiteNames = frozenset[str]

# What makes of a tensor something that has no marks.
LEAVING = frozenset({
    "__array__", "__bool__", "__complex__", "__contains__", "__dlpack__", "__float__", "__index__", "__int__",
    "allclose", "equal", "is_nonzero", "item", "numpy", "tolist",
})  # fmt: skip


class Marks:
    """What is made of a marked tensor is marked, too, and so is what it is written into.

    Pyro's `ProvenanceTensor` (Wingate et al. 2011) has the marks of a result. Those of a tensor that is written into
    are noted by its memory, which its views share: all of it depends on whatever was written into any part. A run is
    watched from two sides: as torch's functions, which know what they are called with, and as its operations, which
    know where they write and see into TorchScript and `torch.func`.

    Not followed: the shape of a tensor (`len(x[mask])`, `torch.zeros(n)`), memory read or written without torch,
    TorchScript that is fused into one kernel.

    Args:
        leave: told the name of a function that takes a value out of torch, and the value's marks.

    Attributes:
        may_leave: whether that is no loss for now, and not told.

    >>> marks = Marks(lambda function, names: print(function, *names))
    >>> with marks.followed():
    ...     a, b = marks.put(torch.tensor(1.0), "a"), torch.zeros(2)
    ...     b[0] = a
    ...     print(*marks.of(b.exp()))
    ...     _ = float(b[1])
    a
    __float__ a
    """

    def __init__(self, leave: Callable[[str, SiteNames], None]) -> None:
        self._leave = leave
        self.may_leave = False
        self._function, self._given = "an operation", SiteNames()  # what runs, and the marks it was called with
        self._transformed = False  # whether it does within torch.func, where what it returns wraps what is marked
        self._written: dict[int, tuple[torch.UntypedStorage, SiteNames]] = {}  # held, so that no other takes its place

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Inside of it, marks go along."""
        with _Functions(self), _Operations(self):
            yield

    def of(self, values: Any) -> SiteNames:
        """The marks of all the tensors in a structure."""
        with torch._C.DisableTorchFunction():
            tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
            tensors += [_inner(tensor) for tensor in tensors]
            noted = (self._written[key][1] for key in map(_memory, tensors) if key in self._written)
            return get_provenance(tensors).union(*noted)

    def put(self, value: Tensor, name: str) -> Tensor:
        """The value with this mark alone."""
        value = self.without(value)
        with torch._C.DisableTorchFunction():
            return ProvenanceTensor(value, SiteNames({name}))

    def without(self, value: Tensor) -> Tensor:
        """The value without marks; a copy, if it had some."""
        if not self.of(value):
            return value
        with torch._C.DisableTorchFunction():
            return detach_provenance(value.clone())

    @contextmanager
    def _running(self, function: str, given: SiteNames) -> Iterator[None]:
        outer = self._function, self._given, self._transformed
        self._function, self._given = function, given
        self._transformed = torch._C._functorch.maybe_current_level() is not None
        try:
            yield
        finally:
            self._function, self._given, self._transformed = outer

    def _note_written(self, tensor: Tensor, names: SiteNames) -> None:
        key = _memory(tensor)
        if key is None:
            self._note_left(self._function, names)
        else:
            self._written[key] = tensor.untyped_storage(), self.of(tensor) | names

    def _note_left(self, function: str, names: SiteNames) -> None:
        if names and not self.may_leave:
            self._leave(function, names)


class _Functions(TorchFunctionMode):
    """Marks what functions return, and notes those that leave torch."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        marks, name, kwargs = self._marks, getattr(func, "__name__", "a function"), kwargs or {}
        given, ends = marks.of((args, kwargs)), marks.of(_ends_of_slices((args, kwargs)))
        marks._note_left(name, given if name in LEAVING else ends)
        with marks._running(name, given):
            out = func(*_plain(args), **_plain(kwargs))
            if func == Tensor.data.__set__:  # type: ignore[attr-defined]
                marks._note_written(args[0], given)
            return _each(Tensor, lambda tensor: _marked(tensor, given), out) if given else out


class _Operations(TorchDispatchMode):
    """Marks what operations return, and notes what they write into, and numbers out of marked tensors."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self._marks = marks

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        marks, kwargs = self._marks, kwargs or {}
        own = marks.of((args, kwargs))
        names = own | marks._given
        out = func(*_plain(args), **_plain(kwargs))
        if isinstance(out, (bool, int, float, complex)):
            marks._note_left(marks._function, own - marks._given)  # a function's own are in what it returns
        if not func._schema.is_mutable:
            return track_provenance(out, names if marks._transformed else own - marks._given)
        for tensor in _written(func._schema, args, kwargs) if names else ():
            marks._note_written(tensor, names)
        return out


def _ends_of_slices(values: Any) -> list[Any]:
    """What `x[a:b]` is called with besides x."""
    return [(leaf.start, leaf.stop, leaf.step) for leaf in tree_leaves(values) if isinstance(leaf, slice)]


def _written(schema: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation writes into."""
    values = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
    targets = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [leaf for leaf in tree_leaves([values.get(name) for name in targets]) if isinstance(leaf, Tensor)]


def _plain(values: Any) -> Any:
    """A structure of tensors without their marks, but for those of memory."""
    return _each(ProvenanceTensor, detach_provenance, values)


def _each(kind: type[Tensor], change: Callable[[Any], Any], values: Any) -> Any:
    """A structure with its tensors changed, in which a shape does not become a tuple."""
    return tree_map_only(kind, change, values, is_leaf=lambda leaf: isinstance(leaf, torch.Size))


def _marked(tensor: Tensor, names: SiteNames) -> Tensor:
    """The tensor with these marks, too; one that wraps another has them within, by `_Operations`."""
    return track_provenance(tensor, names) if _inner(tensor) is tensor else tensor


def _inner(tensor: Tensor) -> Tensor:
    """The tensor that those of `torch.func` wrap, if it is one of them."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _memory(tensor: Tensor) -> int | None:
    """The memory that a tensor lies in; none for one that is sparse or wraps another."""
    try:
        return tensor.untyped_storage()._cdata
    except RuntimeError:
        return None
