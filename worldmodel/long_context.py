"""How a long context is learned from: a curriculum of lengths, windows, and where gradients stop.

A context of T frames is read as stretches, one after the other. State flows from stretch to
stretch, gradients stay inside one; a stretch is worked off in windows, of which one at a time is
held in memory. The losses of all stretches go into one optimiser step.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from worldmodel.pattern import divisors


@dataclass(frozen=True)
class LongContextConfig:
    """How a long context is learned from."""

    window: int = 0
    """Frames held in memory at a time; the others are computed again. 0: the whole stretch."""
    gradient: int = 0
    """Frames across which gradients flow, a multiple of the window. 0: the whole context."""
    curriculum: tuple[int, ...] = ()
    """Lengths of the context before the full one, short to long."""
    curriculum_updates: int = 100
    """Updates at each length of the curriculum."""
    carry: bool = True
    """Carry the state from batch to batch along replayed streams."""
    clean_prefix: float = 0.0
    """Share of the rows of a batch whose first half or more is only looked at, without a loss."""

    def __post_init__(self) -> None:
        for name in ("window", "gradient"):
            if getattr(self, name) < 0:
                raise ValueError(f"context.{name} = {getattr(self, name)} must be 0 or more.")
        if self.window and self.gradient % self.window:
            raise ValueError(
                f"context.gradient = {self.gradient} must be a multiple of "
                f"context.window = {self.window}, or 0."
            )
        if min(self.curriculum, default=1) < 1 or list(self.curriculum) != sorted(self.curriculum):
            raise ValueError(f"context.curriculum = {self.curriculum} must rise from 1 or more.")
        if self.curriculum_updates < 1:
            raise ValueError(
                f"context.curriculum_updates = {self.curriculum_updates} must be at least 1."
            )
        if not 0 <= self.clean_prefix <= 1:
            raise ValueError(f"context.clean_prefix = {self.clean_prefix} must lie in [0, 1].")

    def length(self, updates: int, full: int) -> int:
        """Frames of the context after so many updates."""
        stage = updates // self.curriculum_updates
        return self.curriculum[stage] if stage < len(self.curriculum) else full

    def stretch(self, length: int) -> int:
        """Frames of a context of `length` that gradients flow across."""
        return min(self.gradient or length, length)

    def held(self, length: int) -> int:
        """Frames of a context of `length` that are held in memory at a time."""
        return min(self.window or length, self.stretch(length))

    def check(self, full: int, starts: int | None) -> None:
        """Refuse lengths that do not go into each other; `starts` is None where nobody dreams.

        Raises:
            ValueError: naming the setting and the values that would do.
        """
        for name in ("window", "gradient"):
            if getattr(self, name) > full:
                raise ValueError(
                    f"context.{name} = {getattr(self, name)} must not be longer than "
                    f"replay.context = {full}; valid: 0 or {divisors(full)}."
                )
        for length in (*self.curriculum, full):
            named = f"a context of {length} frames (replay.context or context.curriculum)"
            for name, part in (("gradient", self.stretch(length)), ("window", self.held(length))):
                if length % part:
                    raise ValueError(
                        f"context.{name} = {part} must divide {named}; valid: {divisors(length)}."
                    )
            if self.stretch(length) < 2:
                raise ValueError(
                    f"Gradients across 1 frame of {named} leave nothing to learn from."
                )
            if starts and self.held(length) % starts:
                raise ValueError(
                    f"behaviour.starts = {starts} must divide every window; {named} has windows "
                    f"of {self.held(length)}. Valid: {divisors(self.held(length))}."
                )
        if max(self.curriculum, default=0) > full:
            raise ValueError(
                f"context.curriculum = {self.curriculum} must not go beyond "
                f"replay.context = {full}."
            )


def clean_prefix(is_first: Bool[Tensor, "B T"], share: float) -> Bool[Tensor, "B T"]:
    """Which frames count, if a `share` of the rows begins with a prefix that does not.

    A prefix takes half to nine tenths of a row. Counterpart, for this objective, of the clean
    prefixes of Po et al. 2025 (arXiv 2505.20171, section 4.3): what is left can be predicted only
    by who remembers.
    """
    rows, frames = is_first.shape
    length = torch.empty(rows, device=is_first.device).uniform_(0.5, 0.9) * frames
    length = length * (torch.rand_like(length) < share)
    return torch.arange(frames, device=is_first.device) >= length[:, None]
