"""A stop that was asked for from outside, put off until what there is has been saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Within it, SIGINT and SIGTERM are noted; `obey` then does what they would have done.

    In a thread other than the main one Python has no signals, and nothing is noted.

    Args:
        heed: whether to do so, or to let signals do their work at once.

    Attributes:
        asked: the signal that came, if one did.

    >>> with StopRequests() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.asked.name
    'SIGTERM'
    """

    def __init__(self, *, heed: bool = True) -> None:
        self._heed = heed
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if self._heed and threading.current_thread() is threading.main_thread():
            heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def obey(self) -> None:
        """Let the signal that came do its work, after the end of the block: by default, end the process."""
        if self.asked is not None:
            signal.raise_signal(self.asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
