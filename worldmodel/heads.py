"""What is read off the features: reward, continuation, the next frame, and frames long past."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from worldmodel.attention import attend
from worldmodel.latents import unimix

SURE = 0.01  # nats; what a prediction without any doubt still counts


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|) (DreamerV3, arXiv 2301.04104, eq. 9)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def mlp(inputs: int, width: int, outputs: int, layers: int = 1) -> nn.Sequential:
    """Hidden layers of Linear, LayerNorm and SiLU, then a Linear."""
    widths = [inputs] + [width] * layers
    hidden = [
        module
        for a, b in pairwise(widths)
        for module in (nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], outputs))


def scale_last(net: nn.Sequential, factor: float) -> nn.Sequential:
    """The net with its last Linear scaled; by 0 predictions start neutral (DreamerV3, Table 4)."""
    with torch.no_grad():
        for parameter in net[-1].parameters():
            parameter.mul_(factor)
    return net


class Pool(nn.Module):
    """Token features to one vector a frame, by learned queries that attend over the tokens.

    A frame of one token is passed through as it is.
    """

    def __init__(self, tokens: int, width: int, queries: int = 4) -> None:
        super().__init__()
        self.alone = tokens == 1
        self.outputs = width if self.alone else queries * width
        if not self.alone:
            self.queries = nn.Parameter(torch.randn(queries, width) / math.sqrt(width))
            self.key = nn.Linear(width, width, bias=False)
            self.value = nn.Linear(width, width, bias=False)

    def forward(self, features: Float[Tensor, "*n S D"]) -> Float[Tensor, "*n outputs"]:
        """Queries' answers, side by side."""
        if self.alone:
            return features.squeeze(-2)
        scores = self.key(features) @ self.queries.T / math.sqrt(features.shape[-1])
        return (scores.softmax(-2).mT @ self.value(features)).flatten(-2)


class TwoHot(nn.Module):
    """A scalar as a distribution over exponentially spaced bins (DreamerV3, eq. 10).

    Bins are `unit` x symexp of an even grid, out to 4e8. With DreamerV3's unit of 1 the bins next
    to 0 lie at 0.17, and a reward of 0.01 hardly moves the cross-entropy; with 0.01 they lie at
    0.002, and large values are as finely divided as before.
    """

    bins: Tensor

    def __init__(self, bins: int = 255, unit: float = 0.01, largest: float = 4e8) -> None:
        super().__init__()
        half = unit * symexp(torch.linspace(-math.log1p(largest / unit), 0, bins // 2 + 1))
        # Mirrored halves: a uniform distribution has the mean 0 exactly.
        self.register_buffer("bins", torch.cat([half, -half[:-1].flip(0)]), persistent=False)

    def mean(self, logits: Float[Tensor, "*n bins"]) -> Float[Tensor, "*n"]:
        """Expected value; summed from the inside out, so that large bins cancel exactly."""
        weighted = logits.float().softmax(-1) * self.bins
        middle = weighted.shape[-1] // 2
        pairs = weighted[..., :middle].flip(-1) + weighted[..., middle + 1 :]
        return weighted[..., middle] + pairs.sum(-1)

    @torch.no_grad()
    def doubt(self, logits: Float[Tensor, "*n bins"]) -> Float[Tensor, "*n"]:
        """Entropy in nats, and a little more: how much a frame should weigh in a loss.

        A reward that depends on a memory comes once in hundreds of frames whose rewards are plain.
        Weighed so, it is not lost among them; and since a weight depends on the prediction alone,
        not on the outcome, what is predicted in the end stays the same.
        """
        log_probs = logits.float().log_softmax(-1)
        return SURE - (log_probs.exp() * log_probs).sum(-1)

    def loss(
        self, logits: Float[Tensor, "*n bins"], target: Float[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """Cross-entropy against the two bins around the target, in nats."""
        log_probs = logits.float().log_softmax(-1)
        target = target.clamp(self.bins[0], self.bins[-1])
        above = torch.searchsorted(self.bins, target.contiguous()).clamp(1, len(self.bins) - 1)
        low, high = self.bins[above - 1], self.bins[above]
        weight = (target - low) / (high - low)
        pick = torch.stack([above - 1, above], -1)
        below_nats, above_nats = log_probs.gather(-1, pick).neg().unbind(-1)
        return torch.lerp(below_nats, above_nats, weight)


class Exchange(nn.Module):
    """Attention among the tokens of one frame, after a LayerNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(4, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "*n S D"]) -> Float[Tensor, "*n S D"]:
        """What the tokens tell each other."""
        qkv = self.qkv(self.norm(x)).flatten(0, -3)
        q, k, v = rearrange(qkv, "b s (n h c) -> n b h s c", n=3, h=self.heads)
        return self.out(rearrange(attend(q, k, v), "b h s c -> b s (h c)").view_as(x))


class Transition(nn.Module):
    """The distribution of the next frame's latents, given the features and an action.

    All tokens at once: where a frame has several, they exchange once what the action moves.
    """

    def __init__(self, tokens: int, width: int, action: int, latents: tuple[int, int]) -> None:
        super().__init__()
        self.latents = latents
        self.action = nn.Linear(action, width)
        self.exchange = Exchange(width) if tokens > 1 else None
        self.net = mlp(width, 2 * width, math.prod(latents))

    def forward(
        self, features: Float[Tensor, "*n S D"], action: Float[Tensor, "*n A"]
    ) -> Float[Tensor, "*n S K C"]:
        """Log-probabilities of the next frame's latents."""
        x = features + self.action(action)[..., None, :]
        x = x if self.exchange is None else x + self.exchange(x)
        return unimix(self.net(x).unflatten(-1, self.latents))


class Recall(nn.Module):
    """The latents of a past frame, given later features and how long ago it was."""

    rates: Tensor

    def __init__(self, width: int, latents: tuple[int, int], frequencies: int = 8) -> None:
        super().__init__()
        self.latents = latents
        self.register_buffer(
            "rates", 2.0 ** -torch.arange(frequencies - 2, -2, -1), persistent=False
        )
        self.gap = nn.Linear(2 * frequencies, width)
        self.net = mlp(width, 2 * width, math.prod(latents))

    def forward(
        self, features: Float[Tensor, "*n S D"], gap: Float[Tensor, "*n"]
    ) -> Float[Tensor, "*n S K C"]:
        """Log-probabilities of the latents `gap` frames before the features."""
        phase = gap.log()[..., None] * self.rates
        embedding = self.gap(torch.cat([phase.sin(), phase.cos()], -1))
        return F.log_softmax(
            self.net(features + embedding[..., None, :]).unflatten(-1, self.latents), -1
        )
