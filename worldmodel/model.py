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
    sharp: bool = False
    """Scans begin as memories of single tokens: what was seen comes to be found again sooner."""
    grid: int = 4
    """Rows and columns of tokens of a frame with images."""
    codec: int = 64
    """Width of a token while it is encoded and decoded: 256 draws small things, for some three
    times the time."""
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
    detached: bool = False
    """Latents enter the backbone without gradient: the codec learns to show frames, and no more, so
    that codes stay what they were while something is learned of them."""
    imagined: float = 0.0
    """Share of the frames that the model, in training, replaces by what it expected to see."""
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        for name in ("width", "head", "state", "expand", "grid", "codec", "latents", "recalls"):
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


class Outcome(NamedTuple):
    """What records bring, as their features tell it."""

    reward: Float[Tensor, "*n"]
    continuation: Float[Tensor, "*n"]
    """How likely the episode goes on."""


class Seen(NamedTuple):
    """One window: its losses and their doubts, (B, T) each, and what was computed on the way."""

    losses: dict[str, Tensor]
    doubts: dict[str, Tensor]
    observed: Observed
    carry: Carry
    snapshots: Carry | None


class Learned(NamedTuple):
    """The losses of a batch, and what was computed on the way."""

    total: Float[Tensor, ""]
    losses: dict[str, Tensor]
    surprise: Float[Tensor, "B T"]
    """Nats by which each frame surprised; 0 where there was nothing to foresee it by."""
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
        self.codec = ObservationCodec(observation_space, config.codec, config.grid)
        self.actions = ActionCodec(action_space)
        sizes = config.width, config.head, config.state, config.expand, config.sharp
        self.sizes = Sizes(self.codec.grid, *sizes)
        shape, width, tokens = (config.latents, config.classes), config.width, self.sizes.tokens
        self.frame_place = nn.Parameter(0.02 * torch.randn(tokens, config.codec))
        logits = mlp(config.codec, config.codec, shape[0] * shape[1])
        self.to_latents = scale_last(logits, SHARPNESS)
        self.to_frame = nn.Linear(shape[0] * shape[1], config.codec)
        self.from_latents = nn.Linear(shape[0] * shape[1], width)
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
        posterior, _ = self._posterior(observation, prev_action.shape[:2])
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
    ) -> tuple[Float[Tensor, "B S K C"], Carry]:
        """Take an (encoded) action and sample the latents it leads to; also the carry after them.

        With `forget`, nothing is known afterwards but that record: imagination with memory off.
        """
        prior = self.transition(carry.features, action)
        latents = latent.mode(prior) if deterministic else latent.sample(latent.unmixed(prior))
        first = torch.full((len(action), 1), forget, device=action.device)
        _, carry, _ = self._advance(latents[:, None], action[:, None], first, carry)
        return latents, carry

    def outcome(self, features: Float[Tensor, "*n S D"]) -> Outcome:
        """Reward and continuation of records with these features."""
        pooled = self.pool(features)
        continuation = self.continuation(pooled).squeeze(-1).float().sigmoid()
        return Outcome(self.two_hot.mean(self.reward(pooled)), continuation)

    def suspense(
        self, features: Float[Tensor, "*n S D"], action: Float[Tensor, "*n A"]
    ) -> Float[Tensor, "*n"]:
        """Nats by which the record that an (encoded) action leads to is expected to surprise.

        The entropy of what the transition foretells: 0 where all is known, or remembered.
        """
        expected = latent.unmixed(self.transition(features, action))
        return -(expected.exp() * expected).sum((-3, -2, -1))

    def decode(self, latents: Float[Tensor, "n S K C"]) -> dict[str, Tensor]:
        """The observations that latents stand for, in the units of the observation space."""
        return self.codec.restore(self._decode(latents))

    def encode(self, observation: dict[str, Tensor]) -> Float[Tensor, "n S K C"]:
        """The likeliest latents of frames (n, ...), each by itself."""
        posterior, _ = self._posterior(_in_rows(observation), _rows(observation))
        return latent.mode(posterior)[:, 0]

    def codec_loss(self, observation: dict[str, Tensor]) -> Float[Tensor, " n"]:
        """The reconstruction loss of frames (n, ...) alone, for a codec that is learned first."""
        posterior, prepared = self._posterior(_in_rows(observation), _rows(observation))
        return self.codec.loss(self._decode(latent.sample(posterior)[:, 0]), prepared)

    def codec_parameters(self) -> list[nn.Parameter]:
        """What `codec_loss` depends on."""
        parts = (self.codec, self.to_latents, self.to_frame)
        return [self.frame_place, *(p for part in parts for p in part.parameters())]

    def transition_loss(
        self,
        seen: Float[Tensor, "B T S K C"],
        latents: Float[Tensor, "B T S K C"],
        prev_action: Tensor,
        is_first: Bool[Tensor, "B T"],
        carry: Carry,
    ) -> tuple[Float[Tensor, "B T"], Carry]:
        """Nats by which latents surprise one who has `seen` those before, and the carry after them.

        For a transition that is learned by itself, in front of a codec that is learned already.
        """
        action = self.actions.encode(prev_action)
        features, after, _ = self._advance(seen, action, is_first, carry)
        before = torch.cat([carry.features[:, None], features[:, :-1]], 1)
        nats = -(latents * self.transition(before, action)).sum((-3, -2, -1))
        return nats * _foreseen(is_first, carry), after

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
        comes in the backward pass, so that only features and latents grow with T. Frames that do
        not `count` are only looked at.
        """
        counts = torch.ones_like(records.is_first) if counts is None else counts
        window = window or counts.shape[1]
        assert counts.shape[1] % window == 0
        parts = [records_at(records, i, i + window) for i in range(0, counts.shape[1], window)]
        see = partial(checkpoint, self._see, use_reentrant=False) if parts[1:] else self._see
        seen: list[Seen] = []
        for part in parts:
            seen.append(see(part, carry, every))
            carry = seen[-1].carry
        return self._conclude(seen, records, past or self.initial_past(len(counts)), counts)

    def _conclude(
        self, seen: list[Seen], records: Records, past: Past, counts: Bool[Tensor, "B T"]
    ) -> Learned:
        """All windows together: frames weighed against each other, and recall across windows."""
        frames = {k: torch.cat([s.losses[k] for s in seen], 1) for k in seen[0].losses}
        surprise, first = frames["dynamics"].detach(), records.is_first
        for name in seen[0].doubts:
            doubt = torch.cat([s.doubts[name] for s in seen], 1)
            frames[name] = frames[name] * (doubt / doubt.mean().clamp(min=1e-8))
        # What is to be recalled must have been encoded: rare frames are no afterthought.
        share = frame_share(surprise, first) * first.shape[1]
        frames["reconstruction"] = frames["reconstruction"] * (1 + share) / 2
        losses = {name: (value * counts).mean() for name, value in frames.items()}
        observed = _join([s.observed for s in seen])
        if self.config.loss.recall:
            losses["recall"] = self._recall_loss(observed, surprise, first, past, counts)
            past = keep(past, observed.posterior.detach(), surprise, first)
        weights = asdict(self.config.loss)
        assert losses.keys() | {"recall"} == weights.keys()
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        snapshots = _join([s.snapshots for s in seen])
        return Learned(total, losses, surprise, observed, seen[-1].carry, past, snapshots)

    def _see(self, records: Records, carry: Carry, every: int | None) -> Seen:
        """One window, all losses but recall."""
        posterior, prepared = self._posterior(records.observation, records.is_first.shape)
        latents = latent.sample(posterior)
        action = self.actions.encode(records.prev_action)
        led = (action, records.is_first, carry)
        entered = self._dream_some(latents, *led) if self.config.imagined else latents
        entered = entered.detach() if self.config.detached else entered
        features, after, snapshots = self._advance(entered, *led, every)
        before = torch.cat([carry.features[:, None], features[:, :-1]], 1)
        prior = self.transition(before, action)
        foreseen = _foreseen(records.is_first, carry)
        losses, doubts = self._prediction_losses(features, latents, records, prepared)
        logits = self.foresight(torch.cat([self.pool(before), action], -1))
        losses["foresight"] = self.two_hot.loss(logits, records.reward) * foreseen
        doubts["foresight"] = self.two_hot.doubt(logits) * foreseen
        losses |= self._divergences(posterior, prior, foreseen)
        return Seen(losses, doubts, Observed(features, latents, posterior), after, snapshots)

    @torch.no_grad()
    def _dream_some(self, latents, action, is_first, carry) -> Float[Tensor, "B T S K C"]:
        """Some frames as the model expected them, so that it learns to go on from its own dreams.

        Scheduled sampling in two parallel passes (Mihaylova and Martins 2019, arXiv 1906.07651).
        """
        features, _, _ = self._advance(latents, action, is_first, carry)
        before = torch.cat([carry.features[:, None], features[:, :-1]], 1)
        expected = latent.sample(latent.unmixed(self.transition(before, action)))
        chosen = torch.rand(is_first.shape, device=is_first.device) < self.config.imagined
        chosen &= _foreseen(is_first, carry)
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

    def _posterior(self, observation: dict[str, Tensor], batch: tuple[int, ...]):
        """What each frame says by itself, (B, T, S, K, C), and the frames as the codec has them."""
        frames = {name: value.flatten(0, 1) for name, value in observation.items()}
        prepared = self.codec.prepare(frames)
        tokens = self.codec.encode(prepared).unflatten(0, batch)
        logits = self._split(self.to_latents(tokens + self.frame_place))
        return latent.unimix(latent.capped(logits)), prepared

    def _split(self, logits: Float[Tensor, "*n KC"]) -> Float[Tensor, "*n K C"]:
        return logits.unflatten(-1, (self.config.latents, self.config.classes))

    def _decode(self, latents: Float[Tensor, "n S K C"]) -> dict[str, Tensor]:
        return self.codec.decode(self.to_frame(latents.flatten(-2)) + self.frame_place)

    def _prediction_losses(
        self, features, latents, records: Records, prepared: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of what is decoded from the latents or read off the features, and doubts."""
        decoded = self._decode(latents.flatten(0, 1))
        pooled = self.pool(features)
        reward = self.reward(pooled)
        goes_on = (~records.is_terminal).float()
        losses = {
            "reconstruction": self.codec.loss(decoded, prepared).view_as(records.reward),
            "reward": self.two_hot.loss(reward, records.reward),
            "continuation": F.binary_cross_entropy_with_logits(
                self.continuation(pooled).squeeze(-1), goes_on, reduction="none"
            ),
        }
        return losses, {"reward": self.two_hot.doubt(reward)}

    def _divergences(
        self,
        posterior: Float[Tensor, "B T S K C"],
        prior: Float[Tensor, "B T S K C"],
        foreseen: Bool[Tensor, "B T"],
    ) -> dict[str, Tensor]:
        """Both halves of the KL, (B, T) each, where there was anything to foresee a record by.

        Free nats are for the representation alone. A transition that may be a nat off wherever it
        is nearly right dreams of shortcuts, and the policy finds them.
        """
        dynamics = latent.kl_divergence(posterior.detach(), prior)
        representation = latent.kl_divergence(posterior, prior.detach())
        representation = representation.clamp(min=self.config.free_nats)
        return {"dynamics": dynamics * foreseen, "representation": representation * foreseen}

    def _recall_loss(
        self,
        observed: Observed,
        surprise: Float[Tensor, "B T"],
        is_first: Bool[Tensor, "B T"],
        past: Past,
        counts: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of surprising past frames, given later features that count and the gap."""
        picks = pick_recalls(surprise, is_first, past, self.config.recalls)
        row = torch.arange(len(is_first), device=is_first.device)[:, None]
        known = torch.cat([past.latents, observed.posterior.detach()], 1)[row, picks.past]
        recalled = self.recall(observed.features[row, picks.later], picks.gap.float())
        nats = -(known.exp() * recalled).sum((-3, -2, -1))
        valid = picks.exists & counts[row, picks.later]
        return (nats * valid).sum() / valid.sum().clamp(min=1)


def detach(carry: Carry) -> Carry:
    """The same carry in float32, without the gradient of how it came about."""
    return tree_map(lambda a: (a.float() if a.is_floating_point() else a).detach(), carry)


def _foreseen(is_first: Bool[Tensor, "B T"], carry: Carry) -> Bool[Tensor, "B T"]:
    """Which records had anything before them: not those that begin an episode or a row."""
    known = carry.features.detach().flatten(1).any(1)
    return torch.cat([~is_first[:, :1] & known[:, None], ~is_first[:, 1:]], 1)


def _rows(observation: dict[str, Tensor]) -> tuple[int, int]:
    return len(next(iter(observation.values()))), 1


def _in_rows(observation: dict[str, Tensor]) -> dict[str, Tensor]:
    """Frames as rows of one frame each."""
    return {name: value[:, None] for name, value in observation.items()}


def records_at(records: Records, start: int, stop: int) -> Records:
    """The records from `start` to `stop` of every row."""
    observation = {name: value[:, start:stop] for name, value in records.observation.items()}
    return Records(observation, *(part[:, start:stop] for part in records[1:]))


def _join(parts: list[Any]) -> Any:
    """The trees of all windows as one tree, along time."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    return tree_map(lambda *leaves: torch.cat(leaves, 1), *parts)
