"""How a draw of a posterior is coded."""

from dataclasses import dataclass, replace

from pyro_bdl.compression.random_code.code import MAX_BITS, check_seed
from pyro_bdl.errors import InputError

EXTRA_BITS = 2.0
EXTRA_BITS_RETRAINED = 1.0


@dataclass(frozen=True)
class RandomDraw:
    r"""How `compress` codes the weights as a draw of their posterior (relative-entropy coding).

    Its cost is about the KL of the posterior from a Gaussian coding prior, whose scales by layer, row and column are
    stored (`coding_prior`), instead of the entropy of rounded means; see `pyro_bdl.compression.random_code` and Havasi,
    Peharz & Hernandez-Lobato 2019.

    Args:
        seed: shared by sender and receiver; another gives another draw.
        bits: of each block's index, 1 to 24: 2^bits candidates are tried of each. Default 16, as there are then seconds
            to minutes to wait.
        extra_bits: by how much an index is longer than its block's KL. Default: 2 for a draw of the posterior as it is,
            which keeps its law; 1 where it is retrained in between, which makes up for what is lost.
        rate: by how much the multiplier of a block's KL moves a step of retraining, see `KLBudget`. Default 0.01: it
            must follow within some blocks.

    Raises:
        InputError: numbers out of range.

    >>> RandomDraw(seed=3, bits=12)
    RandomDraw(seed=3, bits=12, extra_bits=None, rate=0.01)
    """

    seed: int = 0
    bits: int = 16
    extra_bits: float | None = None
    rate: float = 0.01

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not isinstance(self.bits, int) or not 1 <= self.bits <= MAX_BITS:
            raise InputError("RandomDraw.bits", expected=f"an integer from 1 to {MAX_BITS}", got=repr(self.bits))
        if not 0 <= self.extra < self.bits:
            raise InputError("RandomDraw.extra_bits", expected=f"in [0, {self.bits})", got=str(self.extra_bits))
        if not 0 < self.rate < 1:
            raise InputError("RandomDraw.rate", expected="in (0, 1)", got=str(self.rate))

    @property
    def extra(self) -> float:
        """`extra_bits`, or its default for a draw of the posterior as it is."""
        return min(EXTRA_BITS, self.bits - 1) if self.extra_bits is None else self.extra_bits

    @property
    def overhead(self) -> float:
        """The share by which indices are longer than the KL."""
        return self.extra / (self.bits - self.extra)

    def while_retraining(self) -> "RandomDraw":
        """With the default of `extra_bits` for weights that adapt."""
        return (
            self if self.extra_bits is not None else replace(self, extra_bits=min(EXTRA_BITS_RETRAINED, self.bits - 1))
        )
