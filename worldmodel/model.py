"""The world model: what was seen goes in, what comes next and what it is worth comes out.

Time convention (one record t): observation, reward, is_first and is_terminal arrive together,
with the action that led there. `features_t` is all that is known after record t; the transition
from `features_t` and an action gives the latents of record t + 1. Rewards are predicted, never
observed, so an agent needs nothing but observations to act.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import gymnasium as gym
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel import latents as latent
from worldmodel.actions import ActionCodec
from worldmodel.backbone import DEFAULT_PATTERN, Backbone
from worldmodel.codec import ObservationCodec
from worldmodel.heads import Pool, Recall, Transition, TwoHot, mlp, scale_last
from worldmodel.layers import Sizes
from worldmodel.recall import pick_recalls
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

    layers: tuple[str, ...] = DEFAULT_PATTERN
    """Operations in order: 'scan', 'scan:HxW', 'attend:K' or 'mlp'."""
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
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        for name in ("width", "head", "state", "expand", "grid", "latents", "recalls"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} = {getattr(self, name)} must be at least 1.")
        if self.classes < 2:
            raise ValueError(f"model.classes = {self.classes} must be at least 2.")
        if not 0 <= self.free_nats < math.inf:
            raise ValueError(f"model.free_nats = {self.free_nats} must be 0 or a positive number.")


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


class Learned(NamedTuple):
    """The losses of a batch, and what was computed on the way."""

    total: Float[Tensor, ""]
    losses: dict[str, Tensor]
    observed: Observed
    carry: Carry
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
        tokens = self.codec.encode(observation)
        posterior = latent.unimix(self._split(self.to_latents(tokens + self.place)))
        latents = latent.mode(posterior) if deterministic else latent.sample(posterior)
        action = self.actions.encode(prev_action)
        features, after, snapshots = self._advance(latents, action, is_first, carry, every)
        return Observed(features, latents, posterior), after, snapshots

    def imagine_step(
        self, carry: Carry, action: Float[Tensor, "B A"], deterministic: bool = False
    ) -> tuple[Imagined, Carry]:
        """Take an (encoded) action and sample the record it leads to."""
        prior = self.transition(carry.features, action)
        latents = latent.mode(prior) if deterministic else latent.sample(prior)
        first = torch.zeros(len(action), 1, dtype=torch.bool, device=action.device)
        features, carry, _ = self._advance(latents[:, None], action[:, None], first, carry)
        pooled = self.pool(features[:, 0])
        reward = self.two_hot.mean(self.reward(pooled))
        continuation = self.continuation(pooled).squeeze(-1).sigmoid()
        return Imagined(features[:, 0], latents, reward, continuation), carry

    def decode(self, latents: Float[Tensor, "n S K C"]) -> dict[str, Tensor]:
        """The observations that latents stand for, in the units of the observation space."""
        return self.codec.restore(self._decode(latents))

    def loss(self, records: Records, carry: Carry, every: int | None = None) -> Learned:
        """The weighted losses of T records that follow on `carry`, averaged over B and T."""
        observed, after, snapshots = self.observe(
            records.observation, records.prev_action, records.is_first, carry, every
        )
        prior = self._prior(observed, records, carry)
        losses = self._prediction_losses(observed, records)
        losses["foresight"] = self._foresight_loss(observed, records, carry)
        losses |= self._divergences(observed, prior, records.is_first)
        if self.config.loss.recall:
            losses["recall"] = self._recall_loss(observed, prior, records.is_first)
        weights = asdict(self.config.loss)
        assert losses.keys() | {"recall"} == weights.keys()
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return Learned(total, losses, observed, after, snapshots)

    def _advance(self, latents, action, is_first, carry: Carry, every: int | None = None):
        """Features and carries after records whose latents and encoded actions are given."""
        led_here = self.action(action) * ~is_first[..., None]
        x = self.from_latents(latents.flatten(-2)) + self.place + led_here[..., None, :]
        features, after, snapshots = self.backbone(x, carry.backbone, is_first, every)
        final = Carry(after, features[:, -1])
        if every is None:
            return features, final, None
        return features, final, Carry(snapshots, features[:, every - 1 :: every])

    def _split(self, logits: Float[Tensor, "*n KC"]) -> Float[Tensor, "*n K C"]:
        return logits.unflatten(-1, (self.config.latents, self.config.classes))

    def _decode(self, latents: Float[Tensor, "n S K C"]) -> dict[str, Tensor]:
        return self.codec.decode(self.to_frame(latents.flatten(-2)))

    def _prior(
        self, observed: Observed, records: Records, carry: Carry
    ) -> Float[Tensor, "B T S K C"]:
        """What the model expected of each record before it arrived."""
        before = self._before(observed, carry)
        return self.transition(before, self.actions.encode(records.prev_action))

    def _before(self, observed: Observed, carry: Carry) -> Float[Tensor, "B T S D"]:
        """The features that each record found."""
        return torch.cat([carry.features[:, None], observed.features[:, :-1]], 1)

    def _prediction_losses(self, observed: Observed, records: Records) -> dict[str, Tensor]:
        """Losses of what is decoded from the latents or read off the features."""
        frames = {name: value.flatten(0, 1) for name, value in records.observation.items()}
        decoded = self._decode(observed.latents.flatten(0, 1))
        pooled = self.pool(observed.features)
        goes_on = (~records.is_terminal).float()
        continuation = self.continuation(pooled).squeeze(-1)
        return {
            "reconstruction": self.codec.loss(decoded, frames).mean(),
            "reward": self.two_hot.loss(self.reward(pooled), records.reward).mean(),
            "continuation": F.binary_cross_entropy_with_logits(continuation, goes_on),
        }

    def _foresight_loss(
        self, observed: Observed, records: Records, carry: Carry
    ) -> Float[Tensor, ""]:
        """Reward of each record from the features before it and the action that led there."""
        pooled = self.pool(self._before(observed, carry))
        action = self.actions.encode(records.prev_action)
        logits = self.foresight(torch.cat([pooled, action], -1))
        return (self.two_hot.loss(logits, records.reward) * ~records.is_first).mean()

    def _divergences(
        self,
        observed: Observed,
        prior: Float[Tensor, "B T S K C"],
        is_first: Bool[Tensor, "B T"],
    ) -> dict[str, Tensor]:
        """Both halves of the KL; nothing predicts a first record.

        Free nats are for the representation alone. A transition that may be a nat off wherever it
        is nearly right dreams of shortcuts, and the policy finds them.
        """
        posterior, predicted = observed.posterior, ~is_first
        dynamics = latent.kl_divergence(posterior.detach(), prior)
        representation = latent.kl_divergence(posterior, prior.detach())
        representation = representation.clamp(min=self.config.free_nats)
        return {
            "dynamics": (dynamics * predicted).mean(),
            "representation": (representation * predicted).mean(),
        }

    def _recall_loss(
        self,
        observed: Observed,
        prior: Float[Tensor, "B T S K C"],
        is_first: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of surprising past frames, given later features and the gap."""
        posterior = observed.posterior.detach()
        surprise = latent.kl_divergence(posterior, prior.detach())
        picks = pick_recalls(surprise, is_first, self.config.recalls)
        row = torch.arange(len(is_first), device=is_first.device)[:, None]
        later = observed.features[row, picks.later]
        recalled = self.recall(later, (picks.later - picks.past).clamp(min=1).float())
        nats = -(posterior[row, picks.past].exp() * recalled).sum((-3, -2, -1))
        return (nats * picks.exists).sum() / picks.exists.sum().clamp(min=1)


def detach(carry: Carry) -> Carry:
    """The same carry, without the gradient of how it came about."""
    return tree_map(Tensor.detach, carry)
