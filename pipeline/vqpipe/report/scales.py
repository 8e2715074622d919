"""From values to places along an axis, and the ticks that stand there."""

import math
from dataclasses import dataclass

from vqpipe.report.formats import short


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    """Percent of the axis from its lower end."""
    label: str
    is_spare: bool = False
    """Whether it can go where there is little room."""


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`; both above 0 if it is logarithmic."""

    low: float
    high: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Returns the value's place in percent from the lower end, held within 0 to 100."""
        low, high, value = (self._flatten(each) for each in (self.low, self.high, value))
        return min(max(100 * (value - low) / (high - low), 0.0), 100.0)

    def _flatten(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.is_log else value


def nice_step(span: float, parts: int, least: float = 0.0) -> float:
    """Returns the smallest of 1, 2, 5 times a power of ten that cuts a span into so many parts."""
    raw = max(span / parts, least, 1e-12)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= raw * 0.999)


def from_zero(most: float, *, whole: bool = False, parts: int = 5) -> tuple[Scale, list[Tick]]:
    """Returns an axis from 0 to the first round value at or above `most`; whole: of whole steps."""
    step = nice_step(most, parts, 1.0 if whole else 0.0)
    scale = Scale(0.0, step * max(math.ceil(most / step - 1e-9), 1))
    return scale, ticks(scale, step)


def ticks(scale: Scale, step: float) -> list[Tick]:
    """Returns ticks at the multiples of `step` within a linear axis."""
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [index * step for index in range(first, last + 1)]
    labels = [short(value) if step >= 1 else f"{value:.{digits}f}" for value in values]
    return _thinned([scale.place(value) for value in values], labels)


def decades(scale: Scale) -> list[Tick]:
    """Returns ticks at powers of ten within a logarithmic axis, and between if these are few."""
    first = math.ceil(math.log10(scale.low) - 1e-9)
    last = math.floor(math.log10(scale.high) + 1e-9)
    factors = (1, 2, 5) if last - first < 2 else (1,)
    powers = range(first, last + 1, 1 + (last - first) // 7)
    values = [factor * 10.0**power for power in powers for factor in factors]
    values = [value for value in values if value <= scale.high * (1 + 1e-9)]
    return _thinned([scale.place(value) for value in values], [short(value) for value in values])


def _thinned(places: list[float], labels: list[str]) -> list[Tick]:
    crowded = len(places) > 6
    return [
        Tick(place, label, crowded and index % 2 == 1)
        for index, (place, label) in enumerate(zip(places, labels, strict=True))
    ]
