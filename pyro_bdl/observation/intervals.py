"""The intervals on which a baseline hazard is constant."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_bdl.distributions.piecewise_exponential import check_increasing
from pyro_bdl.errors import InputError
from pyro_bdl.observation.checks import check_events, check_rank, check_times


class Intervals(NamedTuple):
    """Where a piecewise constant hazard changes, and what it is like without covariates.

    Attributes:
        cuts: the ends of all intervals but the last, which has none: (J - 1,), in the unit of time.
        rates: events in each interval over the time spent in it, (J,), in one over the unit of time: the hazard of
            largest likelihood without covariates (Friedman 1982).

    >>> time, event = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1, 1, 0, 1])
    >>> Intervals.of_events(time, event, count=2)  # 2 events in 7 units of time up to 2, one in 3 units after it
    Intervals(cuts=tensor([2.]), rates=tensor([0.2857, 0.3333]))
    """

    cuts: Tensor
    rates: Tensor

    @classmethod
    def of_events(cls, time: Tensor, event: Tensor, *, count: int = 10) -> "Intervals":
        """Intervals with equally many events.

        Args:
            time: times of events and censorings (N,), positive.
            event: 1 or True for an event, 0 or False for a censored time, (N,).
            count: J, how many. Default 10, which is enough for a baseline that changes smoothly; a rate has the
                relative error of a Poisson count, one over the root of its events. Fewer where events have ties.

        Raises:
            InputError: times that are not positive, no event, or fewer events than intervals.
        """
        check_rank("times", time, 1, "(N,)")
        check_times(time, time)
        check_events(event, time)
        happened = time[event.bool()].sort().values
        if count < 1 or len(happened) < count:
            raise InputError("the number of events", expected=f"at least one in each of {count} intervals",
                             got=f"{len(happened)} among {len(time)} subjects")  # fmt: skip
        shares = torch.arange(1, count, device=time.device) * len(happened)
        cuts = happened[-(-shares // count) - 1].unique()
        return cls.at(cuts[cuts < happened[-1]], time, event)

    @classmethod
    def at(cls, cuts: Tensor, time: Tensor, event: Tensor) -> "Intervals":
        """Intervals with given cuts; where there is no event the rate is that of half an event.

        Raises:
            InputError: cuts that are not positive and increasing, or that leave nobody under observation; times that
                are not positive.
        """
        check_times(time, time)
        check_events(event, time)
        check_increasing(cuts)
        starts = torch.cat([cuts.new_zeros(1), cuts])
        widths = torch.cat([starts.diff(), cuts.new_full((1,), torch.inf)])
        spent = (time[:, None] - starts).clamp_min(0.0).minimum(widths).sum(0)
        if not bool((spent > 0).all()):
            raise InputError("cuts", expected=f"times below {float(time.max()):.4g}, the last one observed",
                             got=f"{float(cuts[-1]):.4g}")  # fmt: skip
        events = torch.bincount(torch.searchsorted(cuts, time[event.bool()]), minlength=len(starts))
        return cls(cuts, events.to(time.dtype).clamp_min(0.5) / spent)
