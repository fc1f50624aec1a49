"""Observations to frame tokens and back, and actions to vectors, by the Gymnasium space.

Unusual: the encoder sees one frame alone (memory lives in the backbone only), and a frame is
always a grid of tokens. Images fill the grid; all other parts of an observation are added to
every token and decoded from the mean over the tokens. Without an image the grid is one token.
What is observed is prepared once (scaled, cut into patches, counted from 0), for the encoder and
for the loss alike: with images these are the largest arrays of a training step.
"""

import math
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from itertools import pairwise
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldmodel.actions import count_words
from worldmodel.heads import mlp, symexp, symlog
from worldmodel.spaces import SUPPORTED, flatten_space

WIDEST = 1e4  # a wider Box is taken for one without bounds
WIDEST_PICTURE = 2.0**16  # the same for pictures: of 16 bits at most


def _is_image(space: gym.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


class ImageCodec(nn.Module):
    """Images of any size (H, W, channels) to a square grid of tokens and back.

    Stages of linear maps on patches, each 4 or 2 wide: plain matrix products on channels-last
    images, several times faster on a CPU than convolutions of the same shape.
    """

    def __init__(self, space: spaces.Box, width: int, grid: int) -> None:
        super().__init__()
        self.size, self.channels = space.shape[:2], space.shape[2]
        channels = self.channels
        low, high = float(space.low.min()), float(space.high.max())
        self.bounded = 0 < high - low < WIDEST_PICTURE
        self.offset, self.range = low, high - low
        stages = max(0, math.ceil(math.log2(max(self.size) / grid)))
        self.side, self.grid = grid * 2**stages, grid
        patches = [4] * (stages // 2) + [2] * (stages % 2) or [1]
        inner = [max(16, width >> (len(patches) - i - 1)) for i in range(len(patches) - 1)]
        depths = [*inner, width]
        self.patch, self.embed = patches[0], _Merge(1, channels * patches[0] ** 2, depths[0])
        pairs = list(zip(patches[1:], pairwise(depths), strict=True))
        self.encoder = nn.Sequential(*(_Merge(patch, a, b) for patch, (a, b) in pairs))
        self.decoder = nn.Sequential(*(_Split(patch, b, a) for patch, (a, b) in pairs[::-1]))
        self.pixels = nn.Linear(depths[0], channels * self.patch**2)

    @property
    def about(self) -> str:
        """How it is read, in words."""
        height, width = self.size
        bounds = f"{self.offset:g} to {self.offset + self.range:g}" if self.bounded else "by symlog"
        tokens = f"{self.grid} x {self.grid} tokens"
        return f"picture of {height} x {width} x {self.channels}, {bounds}, in {tokens}"

    def prepare(self, image: Tensor) -> Float[Tensor, "n h w pqc"]:
        """Patches of images (n, H, W, c), in [-1/2, 1/2]; by symlog where there are no bounds."""
        x = F.pad(image, (0, 0, 0, self.side - self.size[1], 0, self.side - self.size[0]))
        x = rearrange(x, "n (h p) (w q) c -> n h w (p q c)", p=self.patch, q=self.patch)
        # In place, on a copy: each new array of this size costs more than what is computed in it.
        x = x.to(torch.float, copy=True)
        if not self.bounded:
            return symlog(x)
        return x.sub_(self.offset + self.range / 2).div_(self.range)

    def encode(self, patches: Float[Tensor, "n h w pqc"]) -> Float[Tensor, "n S D"]:
        """Token embeddings of prepared images."""
        return self.encoder(self.embed(patches)).flatten(1, 2)

    def decode(self, tokens: Float[Tensor, "n S D"]) -> Float[Tensor, "n h w pqc"]:
        """Patches, not clipped."""
        return self.pixels(self.decoder(tokens.unflatten(1, (self.grid, self.grid))))

    def loss(self, decoded: Tensor, patches: Tensor) -> Float[Tensor, " n"]:
        """Squared error summed over the pixels of a frame."""
        return cast(Tensor, _SquaredError.apply(decoded, patches))

    def restore(self, decoded: Tensor) -> Tensor:
        """Images in the units of the space."""
        image = _unpatch(decoded, self.patch)[:, : self.size[0], : self.size[1]]
        if not self.bounded:
            return symexp(image)
        return (image + 0.5).clamp(0, 1) * self.range + self.offset


class _SquaredError(torch.autograd.Function):
    """Squared error summed over all but the first dimension.

    By hand, because pixels are the largest arrays of a training step: autograd makes four of them
    where two will do.
    """

    @staticmethod
    def forward(ctx: Any, decoded: Float[Tensor, "n ..."], target: Float[Tensor, "n ..."]):
        error = decoded - target
        ctx.save_for_backward(error)
        ctx.dtype = decoded.dtype
        return torch.linalg.vector_norm(error.flatten(1), dim=1).square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (error,) = ctx.saved_tensors
        factor = 2 * gradients[0].view(-1, *[1] * (error.dim() - 1))
        return torch.mul(error, factor, out=torch.empty_like(error, dtype=ctx.dtype)), None


class _Merge(nn.Module):
    """Patches to single places, with more channels."""

    def __init__(self, patch: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(inputs * patch**2, outputs)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "n H W a"]) -> Float[Tensor, "n h w b"]:
        p = self.patch
        x = rearrange(x, "n (h p) (w q) c -> n h w (p q c)", p=p, q=p)
        return F.silu(self.norm(self.linear(x)))


class _Split(nn.Module):
    """Single places to patches, with fewer channels."""

    def __init__(self, patch: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(inputs, outputs * patch**2)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "n h w a"]) -> Float[Tensor, "n H W b"]:
        return F.silu(self.norm(_unpatch(self.linear(x), self.patch)))


def _unpatch(x: Float[Tensor, "n h w pqc"], patch: int) -> Float[Tensor, "n H W c"]:
    return rearrange(x, "n h w (p q c) -> n (h p) (w q) c", p=patch, q=patch)


class VectorCodec(nn.Module):
    """Boxes of any rank but 3, flattened: bounded entries scaled to [-1, 1], others by symlog."""

    bounded: Tensor
    middle: Tensor
    scale: Tensor

    def __init__(self, space: spaces.Box, width: int) -> None:
        super().__init__()
        self.shape, size = space.shape, math.prod(space.shape)
        low, high = space.low.flatten().astype(float), space.high.flatten().astype(float)
        bounded = (low < high) & (low > -WIDEST) & (high < WIDEST)
        low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
        middle, half = (low + high) / 2, (high - low) / 2
        for name, value in {"bounded": bounded, "middle": middle, "scale": half}.items():
            tensor = torch.as_tensor(value, dtype=None if value is bounded else torch.float)
            self.register_buffer(name, tensor, persistent=False)
        self.encoder = mlp(size, 2 * width, width)
        self.decoder = mlp(width, 2 * width, size)

    @property
    def about(self) -> str:
        """How it is read, in words."""
        scaled = int(self.bounded.sum())
        ways = {"scaled to [-1, 1]": scaled, "by symlog": len(self.bounded) - scaled}
        said = ", ".join(f"{number} {way}" for way, number in ways.items() if number)
        return f"numbers: {said}"

    def prepare(self, vector: Tensor) -> Float[Tensor, "n size"]:
        """Vectors (n, ...), flattened and scaled."""
        flat = (vector.float().reshape(len(vector), -1) - self.middle) / self.scale
        return torch.where(self.bounded, flat, symlog(flat))

    def encode(self, flat: Float[Tensor, "n size"]) -> Float[Tensor, "n D"]:
        """Embeddings of prepared vectors."""
        return self.encoder(flat)

    def decode(self, token: Float[Tensor, "n D"]) -> Tensor:
        """Flattened, scaled values."""
        return self.decoder(token)

    def loss(self, decoded: Tensor, flat: Tensor) -> Float[Tensor, " n"]:
        """Squared error of the scaled values, summed."""
        return (decoded - flat).square().sum(-1)

    def restore(self, decoded: Tensor) -> Tensor:
        """Decoded values in the units and the shape of the space."""
        flat = torch.where(self.bounded, decoded.clamp(-1, 1), symexp(decoded))
        return (flat * self.scale + self.middle).reshape(-1, *self.shape)


class DiscreteCodec(nn.Module):
    """Discrete, MultiDiscrete and MultiBinary of any rank, as the categories that they are.

    Parts with as many classes lie side by side, fewest classes first: hundreds of them, as the
    symbols of a grid, are then computed as one array for each number of classes.
    """

    start: Tensor
    order: Tensor
    offset: Tensor

    def __init__(self, space: gym.Space, width: int) -> None:
        super().__init__()
        counts, start = (array.flatten().astype(np.int64) for array in _categories(space))
        order = counts.argsort(kind="stable")
        self.counts, self.shape = counts[order].tolist(), space.shape or ()
        self.groups = list(Counter(self.counts).items())
        offset, size = counts[order].cumsum() - counts[order], int(counts.sum())
        for name, value in {"start": start, "order": order, "offset": offset}.items():
            self.register_buffer(name, torch.as_tensor(value), persistent=False)
        self.encoder = mlp(size, 2 * width, width)
        self.decoder = mlp(width, 2 * width, size)

    @property
    def about(self) -> str:
        """How it is read, in words."""
        return f"categories: {count_words(self.counts)}"

    def prepare(self, value: Tensor) -> Int[Tensor, "n parts"]:
        """Categories (n, ...), flattened, counted from 0, and in the order of their classes."""
        return (value.reshape(len(value), -1).long() - self.start)[:, self.order]

    def encode(self, index: Int[Tensor, "n parts"]) -> Float[Tensor, "n D"]:
        """Embeddings of prepared categories."""
        hot = torch.zeros(len(index), sum(self.counts), device=index.device)
        return self.encoder(hot.scatter_(1, index + self.offset, 1.0))

    def decode(self, token: Float[Tensor, "n D"]) -> Tensor:
        """Logits of all categories, side by side."""
        return self.decoder(token)

    def loss(self, decoded: Tensor, index: Tensor) -> Float[Tensor, " n"]:
        """Cross-entropy in nats, summed."""
        indices = index.split([number for _, number in self.groups], -1)
        nats = [
            F.cross_entropy(logits.flatten(0, 1), one.flatten(), reduction="none").view_as(one)
            for logits, one in zip(self._groups(decoded), indices, strict=True)
        ]
        return torch.cat(nats, -1).sum(-1)

    def restore(self, decoded: Tensor) -> Tensor:
        """The likeliest categories, in the shape of the space."""
        best = torch.cat([logits.argmax(-1) for logits in self._groups(decoded)], -1)
        return (best[:, self.order.argsort()] + self.start).reshape(-1, *self.shape)

    def _groups(self, decoded: Tensor) -> list[Tensor]:
        """Logits (n, parts, classes) of the parts with as many classes."""
        sizes = [classes * number for classes, number in self.groups]
        parts = zip(decoded.split(sizes, -1), self.groups, strict=True)
        return [logits.unflatten(-1, (number, classes)) for logits, (classes, number) in parts]


def _categories(space: gym.Space) -> tuple[np.ndarray, np.ndarray]:
    """Number of classes and first class of each category of a discrete space."""
    if isinstance(space, spaces.MultiBinary):
        return np.full(space.shape, 2), np.zeros(space.shape, np.int64)
    if isinstance(space, spaces.Discrete):
        return np.array([space.n]), np.array([space.start])
    assert isinstance(space, spaces.MultiDiscrete)
    return space.nvec, space.start


class ObservationCodec(nn.Module):
    """All parts of an observation to the tokens of one frame and back."""

    def __init__(self, space: gym.Space, width: int, grid: int) -> None:
        super().__init__()
        leaves = flatten_space(space)
        if not leaves:
            raise ValueError(f"Nothing can be observed in {space}: {SUPPORTED} are supported.")
        self.names = list(leaves)
        self.dtypes = {name: np.dtype(leaf.dtype) for name, leaf in leaves.items()}
        self.shapes = {name: tuple(leaf.shape or ()) for name, leaf in leaves.items()}
        images = [name for name in leaves if _is_image(leaves[name])]
        self.images = images
        self.grid = (grid, grid) if images else (1, 1)
        # A list, because module names may hold no dots; its order is that of self.names.
        self.parts = nn.ModuleList(_part(leaves[name], width, grid) for name in self.names)

    @property
    def about(self) -> list[str]:
        """How each leaf is read, in words."""
        return [part.about for _, part in self._parts()]

    def prepare(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the other methods want for observations; each leaf is (n, ...), in its units."""
        return {name: part.prepare(observation[name]) for name, part in self._parts()}

    def encode(self, prepared: Mapping[str, Tensor]) -> Float[Tensor, "n S D"]:
        """Token embeddings of prepared frames."""
        parts = [(name, part.encode(prepared[name])) for name, part in self._parts()]
        tokens = [x if name in self.images else x[:, None] for name, x in parts]
        return reduce(torch.add, tokens)

    def decode(self, tokens: Float[Tensor, "n S D"]) -> dict[str, Tensor]:
        """Raw decodings by name; `restore` turns them into observations."""
        return {
            name: part.decode(tokens if name in self.images else tokens.mean(-2))
            for name, part in self._parts()
        }

    def loss(
        self, decoded: Mapping[str, Tensor], prepared: Mapping[str, Tensor]
    ) -> Float[Tensor, " n"]:
        """Reconstruction loss of each prepared frame, summed over the parts."""
        losses = [part.loss(decoded[n], prepared[n]) for n, part in self._parts()]
        return torch.stack(losses).sum(0)

    def restore(self, decoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Decodings in the units of the observation space."""
        return {name: part.restore(decoded[name]) for name, part in self._parts()}

    def _parts(self) -> list[tuple[str, Any]]:
        return list(zip(self.names, self.parts, strict=True))

    def rank(self, name: str) -> int:
        """Dimensions of one leaf of a single observation."""
        return len(self.shapes[name])


def _part(space: gym.Space, width: int, grid: int) -> nn.Module:
    if _is_image(space):
        return ImageCodec(space, width, grid)  # pyright: ignore[reportArgumentType]
    if isinstance(space, spaces.Box):
        return VectorCodec(space, width)
    return DiscreteCodec(space, width)
