"""The world model: what was seen goes in, what comes next and what it is worth comes out.

Time convention (one record t): observation, reward, is_first and is_terminal arrive together,
with the action that led there. `features_t` is all that is known after record t; the transition
from `features_t` and an action gives the latents of record t + 1. Rewards are predicted, never
observed, so an agent needs nothing but observations to act.
"""

import math
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldmodel import latents as latent
from worldmodel.actions import ActionCodec
from worldmodel.backbone import Backbone, check_head
from worldmodel.codec import ObservationCodec
from worldmodel.heads import Pool, Recall, Transition, TwoHot, mlp, scale_last
from worldmodel.layers import Sizes
from worldmodel.pattern import read_pattern
from worldmodel.recall import Past, empty_past, frame_share, keep, pick_recalls
from worldmodel.types import Carry, Records, tree_map

# Posterior logits start this much larger than torch's default would make them, so that different
# frames have different codes from the first update on. From near-uniform codes, frames as rare
# as one in a hundred (a cue) took many hundred updates to be told apart.
SHARPNESS = 8.0


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses. A weight of 0 switches a loss off."""

    reconstruction: float = 1.0
    """Observations, decoded from the latents of their own frame."""
    reward: float = 1.0
    """Reward, two-hot."""
    continuation: float = 1.0
    """Whether the episode goes on."""
    foresight: float = 1.0
    """The next reward, before the record that brings it: what to act on must be in the features."""
    dynamics: float = 1.0
    """KL that draws the predicted next frame to the observed one."""
    representation: float = 0.1
    """KL that draws the observed frame to the predicted one."""
    recall: float = 1.0
    """Surprising past frames, recalled from later features."""

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"model.loss.{name} = {weight} must be 0 or a positive number.")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and losses of the world model."""

    layers: tuple[str, ...] = ("lssvwm",)
    """A pattern: lssvwm, mamba, mamba-local, block-1, window:K, full:K or gru. Or operations in
    order: 'scan', 'scan:HxW', 'attend:K', 'mlp', 'clock', 'gru'."""
    width: int = 64
    """Width of a token."""
    head: int = 16
    """Channels of a head, in scans and in attention."""
    state: int = 16
    """State size of each channel of a scan."""
    expand: int = 2
    """Inner width of scans and MLPs, as a multiple of the width."""
    grid: int = 4
    """Rows and columns of tokens of a frame with images."""
    latents: int = 8
    """Categoricals of a token."""
    classes: int = 16
    """Classes of a categorical."""
    free_nats: float = 1.0
    """KL of a frame, in nats, below which the representation is not drawn to the prediction."""
    recalls: int = 32
    """Past frames recalled in each row of a batch."""
    kept: int = 32
    """Frames of a row's running episode that are kept to be recalled in later windows."""
    imagined: float = 0.0
    """Share of the frames that the model, in training, replaces by what it expected to see."""
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        for name in ("width", "head", "state", "expand", "grid", "latents", "recalls"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} = {getattr(self, name)} must be at least 1.")
        if self.kept < 0:
            raise ValueError(f"model.kept = {self.kept} must be 0 or more.")
        if not 0 <= self.imagined <= 1:
            raise ValueError(f"model.imagined = {self.imagined} must lie in [0, 1].")
        if self.classes < 2:
            raise ValueError(f"model.classes = {self.classes} must be at least 2.")
        if not 0 <= self.free_nats < math.inf:
            raise ValueError(f"model.free_nats = {self.free_nats} must be 0 or a positive number.")
        check_head(self.head, self.width)
        read_pattern(self.layers, (self.grid, self.grid))


class Observed(NamedTuple):
    """What the model makes of a sequence of records."""

    features: Float[Tensor, "B T S D"]
    latents: Float[Tensor, "B T S K C"]
    posterior: Float[Tensor, "B T S K C"]


class Imagined(NamedTuple):
    """One imagined record."""

    features: Float[Tensor, "B S D"]
    latents: Float[Tensor, "B S K C"]
    reward: Float[Tensor, " B"]
    continuation: Float[Tensor, " B"]


class Seen(NamedTuple):
    """One window: its losses, averaged over B and T, and what was computed on the way."""

    losses: dict[str, Tensor]
    observed: Observed
    surprise: Float[Tensor, "B T"]
    carry: Carry
    snapshots: Carry | None


class Learned(NamedTuple):
    """The losses of a batch, and what was computed on the way."""

    total: Float[Tensor, ""]
    losses: dict[str, Tensor]
    observed: Observed
    carry: Carry
    past: Past
    snapshots: Carry | None


class WorldModel(nn.Module):
    """A state-space video world model (after Po et al. 2025, arXiv 2505.20171).

    Raises:
        ValueError: where a space is not supported or a setting does not fit; names which.
    """

    def __init__(
        self, observation_space: gym.Space, action_space: gym.Space, config: ModelConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.codec = ObservationCodec(observation_space, config.width, config.grid)
        self.actions = ActionCodec(action_space)
        self.sizes = Sizes(self.codec.grid, config.width, config.head, config.state, config.expand)
        shape, width, tokens = (config.latents, config.classes), config.width, self.sizes.tokens
        self.to_latents = scale_last(mlp(width, width, shape[0] * shape[1]), SHARPNESS)
        self.from_latents = nn.Linear(shape[0] * shape[1], width)
        self.to_frame = nn.Linear(shape[0] * shape[1], width)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.action = nn.Linear(self.actions.size, width)
        self.backbone = Backbone(self.sizes, config.layers)
        self.transition = Transition(tokens, width, self.actions.size, shape)
        self.pool = Pool(tokens, width)
        self.two_hot = TwoHot()
        self.reward = scale_last(mlp(self.pool.outputs, 2 * width, len(self.two_hot.bins)), 0.0)
        self.continuation = mlp(self.pool.outputs, 2 * width, 1)
        self.foresight = scale_last(
            mlp(self.pool.outputs + self.actions.size, 2 * width, len(self.two_hot.bins)), 0.0
        )
        self.recall = Recall(width, shape)

    def initial(self, batch: int) -> Carry:
        """What the model knows before the first record."""
        empty = torch.zeros(batch, self.sizes.tokens, self.sizes.width, device=self.place.device)
        return Carry(self.backbone.initial(batch), empty)

    def observe(
        self,
        observation: dict[str, Tensor],
        prev_action: Tensor,
        is_first: Bool[Tensor, "B T"],
        carry: Carry,
        every: int | None = None,
        deterministic: bool = False,
    ) -> tuple[Observed, Carry, Carry | None]:
        """Take in T records; also the carries after each `every` of them, stacked along dim 1.

        Observations and actions are in the units of their spaces, (B, T, ...). Latents are
        sampled, or the likeliest ones where `deterministic`.
        """
        posterior = self._posterior(observation)
        latents = latent.mode(posterior) if deterministic else latent.sample(posterior)
        action = self.actions.encode(prev_action)
        features, after, snapshots = self._advance(latents, action, is_first, carry, every)
        return Observed(features, latents, posterior), after, snapshots

    def imagine_step(
        self,
        carry: Carry,
        action: Float[Tensor, "B A"],
        deterministic: bool = False,
        forget: bool = False,
    ) -> tuple[Imagined, Carry]:
        """Take an (encoded) action and sample the record it leads to.

        With `forget`, nothing is known afterwards but that record: imagination with memory off.
        """
        prior = self.transition(carry.features, action)
        latents = latent.mode(prior) if deterministic else latent.sample(latent.unmixed(prior))
        first = torch.full((len(action), 1), forget, device=action.device)
        features, carry, _ = self._advance(latents[:, None], action[:, None], first, carry)
        pooled = self.pool(features[:, 0])
        reward = self.two_hot.mean(self.reward(pooled))
        continuation = self.continuation(pooled).squeeze(-1).sigmoid()
        return Imagined(features[:, 0], latents, reward, continuation), carry

    def decode(self, latents: Float[Tensor, "n S K C"]) -> dict[str, Tensor]:
        """The observations that latents stand for, in the units of the observation space."""
        return self.codec.restore(self._decode(latents))

    def initial_past(self, batch: int) -> Past:
        """Nothing kept to be recalled."""
        shape = (batch, self.config.kept, self.sizes.tokens)
        shape = (*shape, self.config.latents, self.config.classes)
        return empty_past(torch.zeros(shape, device=self.place.device))

    def loss(
        self,
        records: Records,
        carry: Carry,
        past: Past | None = None,
        every: int | None = None,
        window: int | None = None,
        counts: Bool[Tensor, "B T"] | None = None,
    ) -> Learned:
        """The weighted losses of T records that follow on `carry`, averaged over B and T.

        Worked off in windows of `window` frames (default: T), which must divide T. Gradients flow
        across all of them, but only one at a time is held: each is computed again when its turn
        comes in the backward pass, so that memory hardly grows with T. Frames that do not `count`
        are only looked at.
        """
        counts = torch.ones_like(records.is_first) if counts is None else counts
        window = window or counts.shape[1]
        parts = [records_at(records, i, i + window) for i in range(0, counts.shape[1], window)]
        see = partial(checkpoint, self._see, use_reentrant=False) if parts[1:] else self._see
        seen: list[Seen] = []
        for part, counted in zip(parts, counts.split(window, 1), strict=True):
            seen.append(see(part, carry, counted, every))
            carry = seen[-1].carry
        return self._conclude(seen, records, past or self.initial_past(len(counts)))

    def _conclude(self, seen: list[Seen], records: Records, past: Past) -> Learned:
        """All windows together: what they lost, and what was recalled across them."""
        observed = _join([s.observed for s in seen])
        snapshots = _join([s.snapshots for s in seen])
        losses = {k: torch.stack([s.losses[k] for s in seen]).mean() for k in seen[0].losses}
        if self.config.loss.recall:
            surprise = torch.cat([s.surprise for s in seen], 1)
            losses["recall"] = self._recall_loss(observed, surprise, records.is_first, past)
            past = keep(past, observed.posterior.detach(), surprise, records.is_first)
        weights = asdict(self.config.loss)
        assert losses.keys() | {"recall"} == weights.keys()
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return Learned(total, losses, observed, seen[-1].carry, past, snapshots)

    def _see(
        self, records: Records, carry: Carry, counts: Bool[Tensor, "B T"], every: int | None
    ) -> Seen:
        """One window, all losses but recall."""
        posterior = self._posterior(records.observation)
        latents = latent.sample(posterior)
        action = self.actions.encode(records.prev_action)
        led = (action, records.is_first, carry)
        entered = self._dream_some(latents, *led) if self.config.imagined else latents
        features, after, snapshots = self._advance(entered, *led, every)
        before = torch.cat([carry.features[:, None], features[:, :-1]], 1)
        prior = self.transition(before, action)
        losses = self._prediction_losses(features, latents, records)
        losses["foresight"] = self._foresight_loss(before, action, records)
        divergences = self._divergences(posterior, prior, records.is_first)
        losses |= divergences
        surprise = divergences["dynamics"].detach()
        # What is to be recalled must have been encoded: rare frames are no afterthought.
        share = frame_share(surprise, records.is_first) * records.is_first.shape[1]
        losses["reconstruction"] = losses["reconstruction"] * (1 + share) / 2
        means = {name: (value * counts).mean() for name, value in losses.items()}
        return Seen(means, Observed(features, latents, posterior), surprise, after, snapshots)

    @torch.no_grad()
    def _dream_some(self, latents, action, is_first, carry) -> Float[Tensor, "B T S K C"]:
        """Some frames as the model expected them, so that it learns to go on from its own dreams.

        Scheduled sampling in two parallel passes (Mihaylova and Martins 2019, arXiv 1906.07651).
        """
        features, _, _ = self._advance(latents, action, is_first, carry)
        before = torch.cat([carry.features[:, None], features[:, :-1]], 1)
        expected = latent.sample(self.transition(before, action))
        chosen = (
            torch.rand(is_first.shape, device=is_first.device) < self.config.imagined
        ) & ~is_first
        return torch.where(chosen[..., None, None, None], expected, latents)

    def _advance(self, latents, action, is_first, carry: Carry, every: int | None = None):
        """Features and carries after records whose latents and encoded actions are given."""
        led_here = self.action(action) * ~is_first[..., None]
        x = self.from_latents(latents.flatten(-2)) + self.place + led_here[..., None, :]
        features, after, snapshots = self.backbone(x, carry.backbone, is_first, every)
        final = Carry(after, features[:, -1])
        if every is None:
            return features, final, None
        return features, final, Carry(snapshots, features[:, every - 1 :: every])

    def _posterior(self, observation: dict[str, Tensor]) -> Float[Tensor, "B T S K C"]:
        """What each frame says by itself."""
        tokens = self.codec.encode(observation)
        return latent.unimix(latent.capped(self._split(self.to_latents(tokens + self.place))))

    def _split(self, logits: Float[Tensor, "*n KC"]) -> Float[Tensor, "*n K C"]:
        return logits.unflatten(-1, (self.config.latents, self.config.classes))

    def _decode(self, latents: Float[Tensor, "n S K C"]) -> dict[str, Tensor]:
        return self.codec.decode(self.to_frame(latents.flatten(-2)))

    def _prediction_losses(self, features, latents, records: Records) -> dict[str, Tensor]:
        """Losses of what is decoded from the latents or read off the features, (B, T) each."""
        frames = {name: value.flatten(0, 1) for name, value in records.observation.items()}
        decoded = self._decode(latents.flatten(0, 1))
        pooled = self.pool(features)
        goes_on = (~records.is_terminal).float()
        continuation = self.continuation(pooled).squeeze(-1)
        return {
            "reconstruction": self.codec.loss(decoded, frames).view_as(records.reward),
            "reward": self._value_loss(self.reward(pooled), records.reward),
            "continuation": F.binary_cross_entropy_with_logits(
                continuation, goes_on, reduction="none"
            ),
        }

    def _foresight_loss(self, before, action, records: Records) -> Float[Tensor, "B T"]:
        """Reward of each record from the features before it and the action that led there."""
        logits = self.foresight(torch.cat([self.pool(before), action], -1))
        return self._value_loss(logits, records.reward) * ~records.is_first

    def _value_loss(self, logits, target) -> Float[Tensor, "B T"]:
        """Two-hot, with most weight where the model is in doubt."""
        return self.two_hot.loss(logits, target) * self.two_hot.doubt(logits)

    def _divergences(
        self,
        posterior: Float[Tensor, "B T S K C"],
        prior: Float[Tensor, "B T S K C"],
        is_first: Bool[Tensor, "B T"],
    ) -> dict[str, Tensor]:
        """Both halves of the KL, (B, T) each; nothing predicts a first record.

        Free nats are for the representation alone. A transition that may be a nat off wherever it
        is nearly right dreams of shortcuts, and the policy finds them.
        """
        dynamics = latent.kl_divergence(posterior.detach(), prior)
        representation = latent.kl_divergence(posterior, prior.detach())
        representation = representation.clamp(min=self.config.free_nats)
        return {"dynamics": dynamics * ~is_first, "representation": representation * ~is_first}

    def _recall_loss(
        self,
        observed: Observed,
        surprise: Float[Tensor, "B T"],
        is_first: Bool[Tensor, "B T"],
        past: Past,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of surprising past frames, given later features and the gap."""
        picks = pick_recalls(surprise, is_first, past, self.config.recalls)
        row = torch.arange(len(is_first), device=is_first.device)[:, None]
        known = torch.cat([past.latents, observed.posterior.detach()], 1)[row, picks.past]
        recalled = self.recall(observed.features[row, picks.later], picks.gap.float())
        nats = -(known.exp() * recalled).sum((-3, -2, -1))
        return (nats * picks.exists).sum() / picks.exists.sum().clamp(min=1)


def detach(carry: Carry) -> Carry:
    """The same carry, without the gradient of how it came about."""
    return tree_map(Tensor.detach, carry)


def records_at(records: Records, start: int, stop: int) -> Records:
    """The records from `start` to `stop` of every row."""
    observation = {name: value[:, start:stop] for name, value in records.observation.items()}
    return Records(observation, *(part[:, start:stop] for part in records[1:]))


def _join(parts: list[Any]) -> Any:
    """The trees of all windows as one tree, along time."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    return tree_map(lambda *leaves: torch.cat(leaves, 1), *parts)
