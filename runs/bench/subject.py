"""What is measured: the default model on images of 64 x 64, and one training step of it."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from worldmodel.model import ModelConfig, WorldModel, detach, records_at
from worldmodel.types import Records

IMAGES = spaces.Box(0, 255, (64, 64, 3), np.uint8)
ACTIONS = spaces.Discrete(6)
RESETS = 1 / 200  # share of the records that begin an episode
SUBJECT = "lssvwm"  # the pattern that figures are about
RATE = 1e-4  # of Adam: random records teach nothing


def build(pattern: str = SUBJECT, **sizes: Any) -> WorldModel:
    """The default model with the backbone of a pattern, or one of other sizes."""
    return WorldModel(IMAGES, ACTIONS, ModelConfig(layers=(pattern,), **sizes))


def random_records(rows: int, frames: int, resets: float = RESETS) -> Records:
    """Noise, in episodes of random length."""
    shape = (rows, frames)
    images = torch.randint(0, 256, (*shape, *IMAGES.shape), dtype=torch.uint8)
    action = torch.randint(0, int(ACTIONS.n), shape)
    is_first = torch.rand(shape) < resets
    is_first[:, 0] = True
    is_terminal = torch.zeros(shape, dtype=torch.bool)
    return Records({"observation": images}, action, torch.randn(shape), is_first, is_terminal)


class Training:
    """A model and its optimiser. Gradients stop where a stretch ends, the state goes on.

    With `bf16`, losses are computed under autocast, as `optimiser.precision = bf16` has it.
    """

    def __init__(self, pattern: str = SUBJECT, bf16: bool = False, **sizes: Any) -> None:
        self.model, self.bf16 = build(pattern, **sizes), bf16
        self.optimiser = torch.optim.Adam(self.model.parameters(), RATE)

    def step(self, records: Records, window: int, gradient: int | None = None) -> dict[str, float]:
        """One optimiser step on a context, its gradients across so many frames; the losses."""
        rows, frames = records.is_first.shape
        stretch = min(gradient or window, frames)
        carry, past = self.model.initial(rows), self.model.initial_past(rows)
        self.optimiser.zero_grad(set_to_none=True)
        found = []
        for start in range(0, frames, stretch):
            part = records_at(records, start, start + stretch)
            with torch.autocast("cpu", torch.bfloat16, self.bf16, cache_enabled=False):
                learned = self.model.loss(part, carry, past, window=window)
            (learned.total * stretch / frames).backward()
            found.append({name: loss.detach() for name, loss in learned.losses.items()})
            carry, past = detach(learned.carry), learned.past
        self.optimiser.step()
        return {name: float(torch.stack([f[name] for f in found]).mean()) for name in found[0]}
