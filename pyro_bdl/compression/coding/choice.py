"""The shortest of several models."""

from dataclasses import dataclass

from pyro_bdl.compression.coding.protocol import Coder, Integers, Model
from pyro_bdl.compression.coding.symbols import number
from pyro_bdl.compression.coding.tape import Tape
from pyro_bdl.errors import InputError


@dataclass(frozen=True)
class Best:
    """The shortest of several models, named in the stream.

    Args:
        models: among which.
        tried: the indices of those worth trying on these values; one at least must be able to code them.
    """

    models: tuple[Model, ...]
    tried: tuple[int, ...]

    def code(self, coder: Coder, values: Integers) -> None:
        """See `Model`."""
        if coder.decoding:
            self.models[number(coder, 0, len(self.models))].code(coder, values)
            return
        index, tape = self._shortest(values)
        number(coder, index, len(self.models))
        if tape.whole:
            tape.play(coder)
        else:
            self.models[index].code(coder, values)

    def _shortest(self, values: Integers) -> tuple[int, Tape]:
        found: tuple[int, Tape] | None = None
        for index in self.tried:
            tape = Tape()
            try:
                self.models[index].code(tape, values)
            except InputError:  # more than this model takes
                continue
            if found is None or tape.bits < found[1].bits:
                found = index, tape
        if found is None:
            raise InputError(
                "values", expected="what one of the models can code", got=f"{values.min()} to {values.max()}"
            )
        return found
