r"""Binary decisions under several contexts at once, mixed in the logistic domain; integers throughout.

A cell of a weight matrix has a row, a column, perhaps a place in a filter, and neighbours. Each context c estimates the
probability of a 1 from its own counts, drawn towards the estimate of all cells together, g:

.. math:: p_c = \frac{n_{c1} + s\, p_g}{n_{c0} + n_{c1} + s}, \qquad
   s = \frac{k}{\min(p_g, 1 - p_g)}, \qquad
   \operatorname{logit} p = \operatorname{logit} p_g + \sum_c w_c (\operatorname{logit} p_c - \operatorname{logit} p_g)

A context's own rate is then within about a factor of :math:`e^{\pm 1 / \sqrt k}` of the common one, however rare ones
are. With all :math:`w_c = 1` this is naive Bayes: independent evidence. The weights follow the gradient of the code
length after each bit, :math:`w_c \leftarrow w_c + \eta\,(x - p)(\operatorname{logit} p_c - \operatorname{logit} p_g)`
(logistic mixing: Mahoney 2005, "Adaptive weighing of context models for lossless data compression"). Logarithms and the
logistic function are tables of integers: logits in units of 1/256, probabilities in units of 2^-16.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_bdl.compression.coding.protocol import BIT_TOTAL, BitCoder

STEP = 256
LIMIT = 11 * STEP
UNIT = 1 << 16

# No entry is within 1e-6 of a rounding boundary (tested), so every machine's log and exp give the same integers.
LOGS = [0, *(round(STEP * math.log(n)) for n in range(1, 4097))]
SHIFTS = [shift * 45426 * STEP + (1 << 15) >> 16 for shift in range(64)]  # 45426 / 2^16 = log 2
LOGISTIC = [min(max(round(BIT_TOTAL / (1 + math.exp(-x / STEP))), 1), BIT_TOTAL - 1) for x in range(-LIMIT, LIMIT + 1)]


def log(n: int) -> int:
    """256 times the logarithm of an integer > 0, to about 1/2.

    >>> log(1), log(1 << 20)
    (0, 3549)
    """
    shift = n.bit_length() - 12
    return LOGS[n] if shift <= 0 else LOGS[n >> shift] + SHIFTS[shift]


@dataclass(frozen=True)
class Settings:
    """What the mixture starts from, the same on both sides.

    Attributes:
        pull: how many observations of the rarer bit the common estimate is worth in each context, in quarters.
        weight: the contexts' weights at the start, in units of 2^-16.
        rate: eta, the rate of learning, in units of 2^-16.
    """

    pull: int = 8
    weight: int = UNIT
    rate: int = 1_000


class Decision:
    """One kind of binary decision, with its counts and weights.

    Args:
        shares: for each context its weight at the start, as a share of the settings' weight, in sixteenths.
        settings: see there.
    """

    def __init__(self, shares: Sequence[int], settings: Settings) -> None:
        self._pull, self._rate = settings.pull, settings.rate
        self._ones, self._zeros, self._common = 1, 1, 0  # in halves: Krichevsky and Trofimov; the logit of the two
        self._counts: list[dict[int, list[int]]] = [{} for _ in shares]
        self._weights = [settings.weight * share // 16 for share in shares]

    def code(self, coder: BitCoder, bit: int, keys: Sequence[int]) -> int:
        """Code one bit; `keys` says which context of each sort it is in."""
        ones, zeros, common, logs, shifts = self._ones, self._zeros, self._common, LOGS, SHIFTS
        pulled_ones, pulled_zeros = self._pull * ones, self._pull * zeros
        rarer = 4 * (ones if ones < zeros else zeros)
        logit = common << 16
        cells, evidence = [], []
        for counts, weight, key in zip(self._counts, self._weights, keys, strict=True):
            cell = counts.get(key)
            if cell is None:
                cell = counts[key] = [0, 0]
            cells.append(cell)
            none, one = cell
            if none or one:  # two calls of `log`, in place: this is where the time goes
                one, none = one * rarer + pulled_ones, none * rarer + pulled_zeros
                shift, down = one.bit_length() - 12, none.bit_length() - 12
                told = (logs[one] if shift <= 0 else logs[one >> shift] + shifts[shift]) - common
                told -= logs[none] if down <= 0 else logs[none >> down] + shifts[down]
                logit += weight * told
                evidence.append(told)
            else:
                evidence.append(0)
        logit >>= 16
        one = LOGISTIC[logit + LIMIT if -LIMIT < logit < LIMIT else 0 if logit < 0 else 2 * LIMIT]
        bit = coder.bit(one, bit)
        slip = ((bit << 16) - one) * self._rate
        self._weights = [weight + (slip * told >> 24) for weight, told in zip(self._weights, evidence, strict=True)]
        for cell in cells:
            cell[bit] += 1
        if bit:
            self._ones = ones = ones + 2
        else:
            self._zeros = zeros = zeros + 2
        self._common = log(ones) - log(zeros)
        return bit
