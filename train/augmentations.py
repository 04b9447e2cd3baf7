"""Random changes of an ECG that leave its diagnosis: the authors' eight, and how a few of them are drawn a record.

Each class takes a batch of signals (records, leads, samples) in millivolts and returns a new one; whatever is random is
drawn for each record, from the generator that is given. `level` is 0 to 10: the share of an augmentation's greatest
strength, which is 0.3 of a record's length, of its samples, or 0.3 mV (arXiv 2410.08559, design section 8).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling_ecg_jepa import EcgJepaConfigError

#: At level 10: the share of a record that is moved, cut, dropped or covered, and millivolts that are added.
GREATEST_RATIO, GREATEST_MILLIVOLTS = 0.3, 0.3

#: Periods of the added sine in a record.
SINE_PERIODS = 2

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class _WithLevel:
    level: float = 10

    @property
    def ratio(self) -> float:
        return GREATEST_RATIO * self.level / 10

    @property
    def millivolts(self) -> float:
        return GREATEST_MILLIVOLTS * self.level / 10


class Shift(_WithLevel):
    """Moves all leads earlier or later, by up to `ratio` of the record; what is left free is zero."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        samples = signals.shape[-1]
        shift = ((2 * _uniform(signals, generator) - 1) * self.ratio * samples).round().long()
        source = torch.arange(samples) - shift
        inside = (source >= 0) & (source < samples)
        return signals.gather(2, source.clamp(0, samples - 1).expand_as(signals)) * inside


class Cutout(_WithLevel):
    """Sets a stretch of `ratio` of the record to zero, in all leads."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        return signals * ~_stretch(signals, self.ratio, generator)


class Drop(_WithLevel):
    """Sets random samples to zero, `ratio` of them, in all leads."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        kept = torch.rand((len(signals), 1, signals.shape[-1]), generator=generator) >= self.ratio
        return signals * kept


class Flip(_WithLevel):
    """Turns the sign of all leads. Not among the defaults: physiologically that is another patient, with the electrodes
    of another."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        return -signals


class Erase(_WithLevel):
    """Sets one lead to zero, whichever the level; a record of one lead stays as it is."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        records, leads, _ = signals.shape
        if leads == 1:
            return signals.clone()
        erased = torch.randint(leads, (records, 1, 1), generator=generator)
        return signals * (torch.arange(leads)[:, None] != erased)


class Sine(_WithLevel):
    """Adds a slow sine of two periods a record, up to `millivolts` high, to all leads: a wandering baseline."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        return signals + self.millivolts * _uniform(signals, generator) * _sine(signals, generator)


class PartialSine(_WithLevel):
    """Adds such a sine to a stretch of `ratio` of the record."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        added = self.millivolts * _uniform(signals, generator) * _sine(signals, generator)
        return signals + added * _stretch(signals, self.ratio, generator)


class PartialWhiteNoise(_WithLevel):
    """Adds white noise of a standard deviation up to `millivolts` to a stretch of `ratio` of the record, each lead its
    own."""

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(signals.shape, generator=generator)
        added = self.millivolts * _uniform(signals, generator) * noise
        return signals + added * _stretch(signals, self.ratio, generator)


AUGMENTATIONS: dict[str, type[_WithLevel]] = {
    "shift": Shift,
    "cutout": Cutout,
    "drop": Drop,
    "erase": Erase,
    "sine": Sine,
    "partial_sine": PartialSine,
    "partial_white_noise": PartialWhiteNoise,
    "flip": Flip,
}

#: What is drawn from where nothing else is said: all but the sign flip.
DEFAULT = tuple(name for name in AUGMENTATIONS if name != "flip")


@dataclass(frozen=True)
class RandAugment:
    """Applies a few augmentations to each record, drawn anew for it, each with a probability (after arXiv 1909.13719).

    Args:
        names: what is drawn from, keys of `AUGMENTATIONS`.
        operations: how many are drawn, one after the other, the same one perhaps twice.
        probability: with which each that was drawn is applied.
        level: 0 to 10.

    Raises:
        EcgJepaConfigError: an unknown name.
    """

    names: Sequence[str] = DEFAULT
    operations: int = 2
    probability: float = 0.5
    level: float = 10

    def __post_init__(self):
        unknown = [name for name in self.names if name not in AUGMENTATIONS]
        if unknown or not self.names:
            raise EcgJepaConfigError(
                f"augmentations={list(self.names)!r}: {', '.join(unknown) or 'none'} is none of "
                f"{', '.join(AUGMENTATIONS)}."
            )

    def __call__(self, signals: Tensor, generator: torch.Generator) -> Tensor:
        signals = signals.clone()
        for _ in range(self.operations):
            drawn = torch.randint(len(self.names), (len(signals),), generator=generator)
            drawn[torch.rand(len(signals), generator=generator) >= self.probability] = -1
            for place, name in enumerate(self.names):
                records = (drawn == place).nonzero()[:, 0]
                if len(records):
                    signals[records] = AUGMENTATIONS[name](self.level)(signals[records], generator)
        return signals


# What several of them draw --------------------------------------------------------------------------------------------


def _uniform(signals: Tensor, generator: torch.Generator) -> Tensor:
    """A number in [0, 1) a record, (records, 1, 1)."""
    return torch.rand((len(signals), 1, 1), generator=generator)


def _stretch(signals: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """True in a stretch of `ratio` of each record, which begins anywhere where it fits: (records, 1, samples)."""
    samples = signals.shape[-1]
    length = round(ratio * samples)
    start = (_uniform(signals, generator) * (samples - length + 1)).long()
    time = torch.arange(samples)
    return (time >= start) & (time < start + length)


def _sine(signals: Tensor, generator: torch.Generator) -> Tensor:
    """`SINE_PERIODS` periods at a random phase, (records, 1, samples)."""
    time = torch.arange(signals.shape[-1]) / signals.shape[-1]
    return torch.sin(2 * torch.pi * (SINE_PERIODS * time + _uniform(signals, generator)))
