"""A coder that writes down what it is asked, to be asked again of another without running the model."""

from typing import Any

from pyro_bdl.compression.coding.meter import Meter
from pyro_bdl.compression.coding.protocol import Coder, Frequencies, Integers

MOST_KEPT = 1 << 20


class Tape:
    """Counts bits as `Meter` does and keeps the calls, up to 2^20 numbers of them.

    Attributes:
        calls: the name of a method of `Coder`, and its two arguments; none are left once they are too many.

    >>> from pyro_bdl.compression.coding.coder import Encoder
    >>> tape, encoder = Tape(), Encoder()
    >>> tape.bit(1 << 15, 1), tape.bits, tape.whole
    (1, 1.0, True)
    >>> tape.play(encoder)
    >>> len(encoder.finish())
    1
    """

    decoding = False

    def __init__(self) -> None:
        self._meter, self.calls, self._room = Meter(), list[tuple[str, Any, Any]](), MOST_KEPT

    @property
    def bits(self) -> float:
        """What an `Encoder` would need."""
        return self._meter.bits

    @property
    def whole(self) -> bool:
        """Whether all calls were kept."""
        return self._room >= 0

    def play(self, coder: Coder) -> None:
        """Ask another coder the same."""
        for name, first, second in self.calls:
            getattr(coder, name)(first, second)

    def block(self, frequencies: Frequencies, values: Integers) -> None:
        """See `Coder`."""
        self._meter.block(frequencies, values)
        self._keep(frequencies.size + values.size, "block", frequencies, values)

    def until_one(self, ones: Frequencies, values: Integers) -> int:
        """See `Coder`."""
        count = self._meter.until_one(ones, values)
        self._keep(2 * count, "until_one", ones[:count].copy(), values[:count])  # a view would keep the rest
        return count

    def bit(self, one: int, value: int) -> int:
        """See `Coder`."""
        self._room -= 1
        if self._room >= 0:  # not by `_keep`: there are many
            self.calls.append(("bit", one, value))
        return self._meter.bit(one, value)

    def _keep(self, size: int, name: str, first: Any, second: Any) -> None:
        self._room -= size
        if self._room >= 0:
            self.calls.append((name, first, second))
        else:
            self.calls.clear()
