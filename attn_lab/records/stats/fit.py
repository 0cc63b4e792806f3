"""How a time grows along a swept axis: the exponent of a power, with the interval of its fit."""

from collections.abc import Sequence
from typing import NamedTuple

LEAST_POINTS = 3  # two make a line, and no interval


class Exponent(NamedTuple):
    """time ~ axis^value over all points, with the 95 % interval of the fit; `last`: between the two largest alone."""

    value: float
    low: float
    high: float
    last: float
    points: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"


def fit_exponent(places: Sequence[float], times: Sequence[float]) -> Exponent | None:
    """The least-squares line through the logarithms; None unless there are three places or more, each once.

    Its interval is Student's: a bent curve has a wide one, and follows no power.

    Args:
        places: values of the axis, above 0, in rising order.
        times: one time for each, above 0.
    """
    import numpy as np
    from scipy.special import stdtrit

    if len(places) < LEAST_POINTS or len(set(places)) != len(places):
        return None
    x, y = np.log(np.asarray(places, float)), np.log(np.asarray(times, float))
    freedom, spread = len(x) - 2, float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    left = y - y.mean() - slope * (x - x.mean())
    half = float(stdtrit(freedom, 0.975)) * float((left**2).sum() / freedom / spread) ** 0.5
    return Exponent(slope, slope - half, slope + half, float((y[-1] - y[-2]) / (x[-1] - x[-2])), len(x))
