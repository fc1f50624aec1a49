"""Actions to vectors, by the Gymnasium space: one-hot categories, or boxes scaled to [-1, 1]."""

from collections import Counter
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

MOST = 64  # actions that are tried one by one


class ActionCodec(nn.Module):
    """What an action of a space looks like to the networks.

    Raises:
        ValueError: for a space other than Discrete, MultiDiscrete or a bounded Box.
    """

    start: Tensor
    span: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, space: gym.Space) -> None:
        super().__init__()
        self.continuous = isinstance(space, spaces.Box)
        self.shape, self.dtype = space.shape or (), np.dtype(space.dtype)
        if isinstance(space, spaces.Box):
            if not np.issubdtype(space.dtype, np.floating):
                raise ValueError(f"The action space {space} must hold floats, or be MultiDiscrete.")
            if not space.is_bounded():
                raise ValueError(f"The action space {space} must be bounded: wrap the environment.")
            start, span = space.low / 2 + space.high / 2, space.high / 2 - space.low / 2
            self.counts, self.size = [], int(np.prod(space.shape))
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            discrete = isinstance(space, spaces.Discrete)
            start = np.array([space.start]) if discrete else space.start.astype(np.int64)
            self.counts = [int(space.n)] if discrete else space.nvec.flatten().tolist()
            span, self.size = np.ones_like(start), sum(self.counts)
        else:
            supported = "Discrete, MultiDiscrete and bounded Box are"
            binary = isinstance(space, spaces.MultiBinary)
            cure = (
                "Declare MultiDiscrete, with 2 for each" if binary else "Turn it into one of these"
            )
            raise ValueError(
                f"The action space is {space}, which is not supported: {supported}. {cure}."
            )
        parts = {"start": start, "span": span}
        if isinstance(space, spaces.Box):
            parts |= {"low": space.low, "high": space.high}
        for name, array in parts.items():
            self.register_buffer(name, torch.as_tensor(array.flatten()), persistent=False)

    @property
    def about(self) -> str:
        """How actions are chosen, in words."""
        if self.continuous:
            return f"numbers: {self.size}, normal, squashed into their bounds by tanh"
        return f"categories: {count_words(self.counts)}"

    def encode(self, action: Tensor) -> Float[Tensor, "*n A"]:
        """Raw actions (*n, *shape) as vectors."""
        flat = action.flatten(action.dim() - len(self.shape)) if self.shape else action[..., None]
        if self.continuous:
            flat, start, span = flat.float(), self.start.float(), self.span.float()
            return (flat - start) / span.clamp(min=1e-30)
        columns = zip((flat.long() - self.start).unbind(-1), self.counts, strict=True)
        return torch.cat([F.one_hot(c, n) for c, n in columns], -1).float()

    def decode(self, vector: Float[Tensor, "*n A"]) -> Tensor:
        """Raw actions of vectors; categories by their largest entry, boxes clipped to bounds."""
        if self.continuous:
            raw = (vector * self.span + self.start).clamp(self.low, self.high)
        else:
            parts = [part.argmax(-1) for part in vector.split(self.counts, -1)]
            raw = torch.stack(parts, -1) + self.start
        return raw.reshape(vector.shape[:-1] + self.shape)

    def all(self) -> Float[Tensor, "n A"]:
        """Every action of a Discrete space, as vectors.

        Raises:
            ValueError: where there are more than `MOST` of them, or it is another space.
        """
        if len(self.counts) != 1 or self.size > MOST:
            raise ValueError(
                f"behaviour.compare tries every action, which has to be one of {MOST} at most in a "
                f"Discrete space; these are {self.about}. Set behaviour.compare = False."
            )
        return torch.eye(self.size, device=self.start.device)

    def random(self, number: int) -> Tensor:
        """So many raw actions (number, *shape), drawn uniformly from the space."""
        device = self.start.device
        if self.continuous:
            return self.decode(2 * torch.rand(number, self.size, device=device) - 1)
        parts = [torch.rand(number, count, device=device) for count in self.counts]
        return self.decode(torch.cat(parts, -1))


def count_words(counts: Sequence[int]) -> str:
    """How many categories there are of how many classes: "49 of 11, 49 of 6, 49 of 4"."""
    return ", ".join(f"{number} of {n}" for n, number in Counter(counts).items())
