"""Models that are run once: the calls of the chosen one, played to the encoder, give the bytes of a second run."""

from typing import Any

import numpy as np
import pytest

from pyro_bdl.compression.coding import tape
from pyro_bdl.compression.coding.coder import Decoder, Encoder
from pyro_bdl.compression.coding.contexts import ContextIntegers, ContextMask
from pyro_bdl.compression.coding.meter import measure
from pyro_bdl.compression.coding.protocol import Model
from pyro_bdl.compression.coding.sparse import Mask, RowsColumns
from pyro_bdl.compression.coding.tape import Tape
from pyro_bdl.compression.coding.weights import Dense, Signed, Sparse, Weights

RNG = np.random.default_rng(3)
VALUES = (RNG.integers(-9, 9, (60, 50)) * (RNG.random((60, 50)) < 0.1)).astype(np.int32)
MASKS: list[Model] = [Mask(), RowsColumns(), ContextMask(1)]
SIGNED: list[Model] = [Weights(), Dense(), Signed(), Sparse(), ContextIntegers(2)]


def encoded(values: np.ndarray, model: Model) -> bytes:
    encoder = Encoder()
    encoder.put(values, model)
    return encoder.finish()


@pytest.mark.parametrize("model", [*MASKS, *SIGNED], ids=lambda model: type(model).__name__)
def test_what_is_played_is_what_was_asked(model: Model) -> None:
    values = (VALUES != 0).astype(np.int32) if model in MASKS else VALUES
    kept, encoder = Tape(), Encoder()
    model.code(kept, values)
    kept.play(encoder)
    assert kept.whole
    assert encoder.finish() == encoded(values, model)
    assert kept.bits == measure(values, model)


@pytest.mark.parametrize("most", [0, 100, 10_000])
def test_a_tape_that_is_too_long_changes_no_byte(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoded(VALUES, Weights())
    monkeypatch.setattr(tape, "MOST_KEPT", most)
    assert encoded(VALUES, Weights()) == expected
    cut_off: Any = Tape()
    Dense().code(cut_off, VALUES)
    assert cut_off.whole == (most == 10_000)
    assert cut_off.whole or not cut_off.calls
    assert cut_off.bits == measure(VALUES, Dense())


def test_calls_on_contexts_are_not_mistaken_for_others() -> None:
    """The first question of `ContextMask` and `ContextIntegers` is asked once for both: of one array and settings."""
    for settings in range(3):
        for values in (VALUES, np.roll(VALUES, 1, axis=0), VALUES.T.copy(), VALUES.reshape(50, 60)):
            for model in (ContextMask(settings), ContextIntegers(settings)):
                given = (values != 0).astype(np.int32) if isinstance(model, ContextMask) else values
                decoder = Decoder(encoded(given, model))  # whose decisions are its own
                np.testing.assert_array_equal(decoder.get(values.shape, model), given)
                decoder.close()
