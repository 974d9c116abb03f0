"""The sample sites of one run of a Pyro program, without what a whole trace costs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.subsample_messenger import _Subsample

from pyro_bdl.errors import InputError

Node = dict[str, Any]


class Record(Messenger):
    """Writes down the sample sites of a program; `answers` are the values of those that it does not observe.

    `Record.of(guide)` and `Record.of(model, answers=...)` are what `poutine.trace` and `poutine.replay` give, for whom
    the sites are enough: a step of a small network takes a third less of Python's time.

    Attributes:
        nodes: by name what Pyro knows of a site: fn, value, scale, mask, infer and so on.

    Raises:
        InputError: two sites of one name.

    >>> import pyro, pyro.distributions as dist
    >>> def program():
    ...     return pyro.sample("z", dist.Normal(0.0, 1.0))
    >>> first = Record.of(program)
    >>> Record.of(program, answers=first.nodes).nodes["z"]["value"] == first.nodes["z"]["value"]
    tensor(True)
    """

    def __init__(self, answers: Mapping[str, Node] | None = None) -> None:
        super().__init__()
        self.answers = answers or {}
        self.nodes: dict[str, Node] = {}

    @classmethod
    def of(
        cls, program: Callable[..., Any], *args: Any, answers: Mapping[str, Node] | None = None, **kwargs: Any
    ) -> "Record":
        """The sites of a program called with these arguments."""
        record = cls(answers)
        with record:
            program(*args, **kwargs)
        return record

    def _pyro_sample(self, msg: Message) -> None:
        answer = self.answers.get(str(msg["name"]))
        if answer is not None and not msg["is_observed"] and not msg["done"]:
            msg["value"], msg["infer"], msg["done"] = answer["value"], answer["infer"], True

    def _pyro_post_sample(self, msg: Message) -> None:
        name = str(msg["name"])
        if name in self.nodes:
            raise InputError("the program", expected="sample sites of different names", got=f"two sites {name!r}")
        self.nodes[name] = msg  # type: ignore[assignment]


def sample_sites(trace: Any) -> Iterator[Node]:
    """The sample sites of a record or of a Pyro trace, without those by which plates draw their rows."""
    for node in trace.nodes.values():
        if node["type"] == "sample" and not isinstance(node["fn"], _Subsample):
            yield node


def latent(trace: Any) -> Iterator[Node]:
    """The sites of a model that its data do not tell."""
    return (node for node in sample_sites(trace) if not node["is_observed"])


def posterior_of(node: Node, guide_trace: Any) -> Node:
    """What a guide says of a latent site of the model.

    Raises:
        InputError: nothing: Pyro would silently draw it from the prior.
    """
    if node["name"] not in guide_trace.nodes:
        raise InputError("the guide", expected=f"a site {node['name']!r}, latent in the model", got="none of that name")
    return guide_trace.nodes[node["name"]]
