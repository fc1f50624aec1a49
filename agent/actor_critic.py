"""The policy and the value, and how they learn from sequences of features.

Both read token features through learned queries of their own, so that what matters for acting
need not matter for predicting. Only the critic's loss on replay reaches the world model.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.polynomial.hermite import hermgauss
from torch import Tensor, nn

from agent.imagination import Imagination
from agent.returns import PercentileScale, lambda_returns
from worldmodel.actions import ActionCodec
from worldmodel.heads import Pool, TwoHot, mlp, scale_last
from worldmodel.latents import UNIMIX, sample, unimix
from worldmodel.types import Records

FLOOR = 0.002  # probability below which no category is pushed further down
FARTHEST = 3.0  # of a box's normal from the middle, before tanh: 0.995 of the way to the bound
EDGE = 1e-6  # from the bound, where atanh would be infinite
NODES = 16  # of the quadrature of a squashed normal's entropy


@dataclass(frozen=True)
class BehaviourConfig:
    """How the policy and the value learn."""

    horizon: int = 16
    """Steps imagined from each start."""
    starts: int = 16
    """Imagination starts after every so many frames of the replayed context."""
    discount: float = 0.997
    """Discount of a step."""
    lam: float = 0.95
    """λ of the returns."""
    entropy: float = 3e-4
    """Weight of the policy's entropy."""
    dream_unimix: float = 0.01
    """Share of uniformly random actions in imagination; when acting, it is 0.01."""
    curiosity: float = 0.0
    """Reward for each nat by which a record is expected to surprise more than the mean. It leads
    where there is something to be found out, and no longer once that is remembered."""
    compare: bool = False
    """Whether the policy learns by comparing all actions at each start, dreamed for one step, by
    the values after it, and not by what rollouts took; for Discrete actions."""
    replay_value: float = 0.3
    """Weight of the critic's loss on replayed returns, beside the imagined ones."""
    slow_rate: float = 0.02
    """Rate at which the critic's slow copy follows it."""

    def __post_init__(self) -> None:
        for name in ("horizon", "starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"behaviour.{name} = {getattr(self, name)} must be at least 1.")
        for name in ("discount", "lam", "slow_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"behaviour.{name} = {getattr(self, name)} must lie in [0, 1].")
        if not 0 < self.dream_unimix < 1:
            raise ValueError(f"behaviour.dream_unimix = {self.dream_unimix} must lie in (0, 1).")
        for name in ("entropy", "curiosity", "replay_value"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"behaviour.{name} = {getattr(self, name)} must be 0 or more.")


class ActionDistribution(NamedTuple):
    """Independent categoricals (log-probabilities), or normals whose samples tanh squashes.

    A squashed normal has density N(u) / (1 - a²) at a = tanh(u), which lies inside the bounds.
    """

    categories: tuple[Float[Tensor, "*n classes"], ...] = ()
    unmixed: tuple[Float[Tensor, "*n classes"], ...] = ()
    mean: Float[Tensor, "*n A"] | None = None
    std: Float[Tensor, "*n A"] | None = None

    def sample(self) -> Float[Tensor, "*n A"]:
        """Encoded actions."""
        if self.mean is not None and self.std is not None:
            return (self.mean + self.std * torch.randn_like(self.mean)).tanh()
        return torch.cat([sample(log_probs).round() for log_probs in self.categories], -1)

    def mode(self) -> Float[Tensor, "*n A"]:
        """The likeliest actions; `ActionCodec.decode` takes the largest entry of each category.

        Of a box the median: squashed, a wide normal is likeliest at the bounds, both of them.
        """
        return torch.cat(self.categories, -1) if self.mean is None else self.mean.tanh()

    def gain(
        self, action: Float[Tensor, "*n A"], advantage: Float[Tensor, "*n"]
    ) -> Float[Tensor, "*n"]:
        """What to climb, so that actions of positive advantage become likelier and others rarer.

        A box follows the plain policy gradient. Categories are moved in their logits, whatever
        their probability, down to a floor and back from it (NeuRD, arXiv 1906.00190): the plain
        gradient revives an action in proportion to its probability, and one that was given up
        for another stayed so for good. `action` must be drawn from this very distribution.
        """
        if self.mean is not None:
            return advantage * self.log_density(action)
        taken = action.split([part.shape[-1] for part in self.unmixed], -1)
        parts = list(zip(taken, self.unmixed, self.categories, strict=True))
        nats = [(a * own).sum(-1) for a, own, _ in parts]
        free = [(advantage > 0) | (n.detach() > math.log(FLOOR)) for n in nats]
        # Against what was likely in the dream, random actions included: an advantage that all
        # actions share, as long as values rise or fall, then moves nothing.
        likely = [(mixed.detach().exp() * own).sum(-1) for _, own, mixed in parts]
        moved = [(n - mean) * f for n, mean, f in zip(nats, likely, free, strict=True)]
        return advantage * torch.stack(moved).sum(0)

    def gain_of_all(self, values: Float[Tensor, "*n A"]) -> Float[Tensor, "*n"]:
        """What to climb where the values of all of A actions are known: NeuRD, without sampling.

        Every logit is moved by its action's advantage, however rare the action is.
        """
        (nats,) = self.unmixed
        advantage = values - (nats.detach().exp() * values).sum(-1, keepdim=True)
        free = (advantage > 0) | (nats.detach() > math.log(FLOOR))
        return (advantage * free * (nats - nats.mean(-1, keepdim=True))).sum(-1)

    def entropy(self) -> Float[Tensor, "*n"]:
        """Entropy in nats, summed over the parts of an action."""
        if self.mean is not None:
            return (self._normal().entropy() + self._mean_log_slope()).sum(-1)
        return -torch.stack([(c.exp() * c).sum(-1) for c in self.categories]).sum(0)

    def log_density(self, action: Float[Tensor, "*n A"]) -> Float[Tensor, "*n"]:
        """Of the actions of a box, in [-1, 1]; at the bounds, that of the last number before."""
        before = action.clamp(EDGE - 1, 1 - EDGE).atanh()
        return (self._normal().log_prob(before) - _log_slope(before)).sum(-1)

    def _mean_log_slope(self) -> Float[Tensor, "*n A"]:
        """What squashing adds to the entropy: a mean over the normal, by Gauss-Hermite."""
        assert self.mean is not None
        assert self.std is not None
        nodes, weights = (self.mean.new_tensor(part) for part in hermgauss(NODES))
        before = self.mean[..., None] + self.std[..., None] * math.sqrt(2) * nodes
        return (_log_slope(before) * weights).sum(-1) / math.sqrt(math.pi)

    def _normal(self) -> torch.distributions.Normal:
        assert self.mean is not None
        assert self.std is not None
        return torch.distributions.Normal(self.mean, self.std, validate_args=False)


def _log_slope(before: Tensor) -> Tensor:
    """log(1 - tanh²), exact where tanh is 1 to the last digit."""
    return 2 * (math.log(2) - before - F.softplus(-2 * before))


class Actor(nn.Module):
    """The policy: features to a distribution over actions."""

    def __init__(self, tokens: int, width: int, actions: ActionCodec) -> None:
        super().__init__()
        self.counts, self.continuous = actions.counts, actions.continuous
        self.pool = Pool(tokens, width)
        outputs = 2 * actions.size if self.continuous else actions.size
        self.net = scale_last(mlp(self.pool.outputs, 2 * width, outputs, layers=2), 0.0)

    def forward(self, features: Float[Tensor, "*n S D"], mix: float = UNIMIX) -> ActionDistribution:
        """The policy at these features, a share `mix` of it uniformly random.

        Continuous policies are not mixed: their standard deviations lie in [0.1, 1]. Their means
        do not go where tanh is flat, and nothing could bring them back.
        """
        logits = self.net(self.pool(features))
        if self.continuous:
            mean, std = logits.float().chunk(2, -1)
            mean = FARTHEST * (mean / FARTHEST).tanh()
            return ActionDistribution(mean=mean, std=0.1 + 0.9 * (std + 2).sigmoid())
        parts = logits.split(self.counts, -1)
        unmixed = tuple(part.float().log_softmax(-1) for part in parts)
        return ActionDistribution(tuple(unimix(part, mix) for part in parts), unmixed)


class Critic(nn.Module):
    """The value: features to a distribution over returns."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pool = Pool(tokens, width)
        self.two_hot = TwoHot()
        outputs = len(self.two_hot.bins)
        self.net = scale_last(mlp(self.pool.outputs, 2 * width, outputs, layers=2), 0.0)

    def forward(self, features: Float[Tensor, "*n S D"]) -> Float[Tensor, "*n bins"]:
        """Logits of the value's bins."""
        return self.net(self.pool(features))


class ActorCritic(nn.Module):
    """Actor, critic, the critic's slow copy and the returns' scale, with their losses."""

    def __init__(self, actor: Actor, tokens: int, width: int, config: BehaviourConfig) -> None:
        super().__init__()
        self.config, self.actor = config, actor
        self.critic = Critic(tokens, width)
        self.slow = Critic(tokens, width).requires_grad_(False)
        self.slow.load_state_dict(self.critic.state_dict())
        self.scale = PercentileScale()

    def imagination_losses(
        self, imagined: Imagination, branches: Imagination | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of actor and critic on imagined rollouts, and what to log of them.

        REINFORCE with λ-returns, advantages in units of the returns' spread, an entropy bonus
        (DreamerV3, arXiv 2301.04104, eq. 6 and 7). Steps count as far as they are reached. With
        `branches`, one step by each action from each start, the policy learns from these instead.
        """
        discount = self.config.discount * imagined.continuation
        logits = self.critic(imagined.features)
        value = self.critic.two_hot.mean(logits.detach())
        returns = lambda_returns(imagined.reward, discount, value, self.config.lam)
        self.scale.update(returns)
        reached = torch.cat([imagined.continuation[:, :1], discount[:, 1:-1]], 1).cumprod(1)
        if branches is None:
            advantage = (returns - value[:, :-1]) / self.scale.scale()
            policy = self.actor(imagined.features[:, :-1], self.config.dream_unimix)
            gain, learned = policy.gain(imagined.action, advantage), reached
        else:
            policy = self.actor(imagined.features[:, 0], self.config.dream_unimix)
            gain, learned = self._gain_of_all(policy, branches), imagined.continuation[:, 0]
        entropy = policy.entropy()
        critic_nats = self._value_loss(logits[:, :-1], imagined.features[:, :-1], returns)
        losses = {
            "actor": -(learned * (gain + self.config.entropy * entropy)).mean(),
            "critic": (reached * critic_nats).mean(),
        }
        metrics = {
            "entropy": entropy.mean(),
            "imagined_return": returns[:, 0].mean(),
            "imagined_reward": imagined.reward[:, 1:].mean(),
            "value": value.mean(),
            "return_scale": self.scale.scale(),
        }
        return losses, metrics

    def _gain_of_all(
        self, policy: ActionDistribution, branches: Imagination
    ) -> Float[Tensor, " N"]:
        """What the policy gains at starts from which every action was dreamed for one step."""
        starts = len(policy.categories[0])
        with torch.no_grad():
            value = self.critic.two_hot.mean(self.critic(branches.features[:, 1]))
        discount = self.config.discount * branches.continuation[:, 1]
        values = (branches.reward[:, 1] + discount * value) / self.scale.scale()
        return policy.gain_of_all(values.view(starts, -1))

    def replay_value_loss(
        self,
        features: Float[Tensor, "B T S D"],
        records: Records,
        surprise: Float[Tensor, "B T"],
        counts: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """The critic's loss on the rewards that were really met, bootstrapped by itself."""
        reward = records.reward + self.config.curiosity * surprise
        discount = self.config.discount * (~records.is_terminal).float()
        logits = self.critic(features)
        value = self.critic.two_hot.mean(logits.detach())
        returns = lambda_returns(reward, discount, value, self.config.lam, records.is_first)
        goes_on = ~records.is_terminal[:, :-1] & ~records.is_first[:, 1:]
        nats = self._value_loss(logits[:, :-1], features[:, :-1], returns)
        return (nats * (goes_on & counts[:, :-1])).mean()

    def dream_policy(self, features: Float[Tensor, "N S D"]) -> Float[Tensor, "N A"]:
        """Sampled actions, as imagination takes them."""
        return self.actor(features, self.config.dream_unimix).sample()

    @torch.no_grad()
    def update_slow(self) -> None:
        """Let the slow critic follow."""
        pairs = zip(self.slow.parameters(), self.critic.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, self.config.slow_rate)

    def _value_loss(self, logits: Tensor, features: Tensor, returns: Tensor) -> Tensor:
        """Towards the returns, and towards the slow copy's own opinion as a regulariser."""
        with torch.no_grad():
            slow = self.slow.two_hot.mean(self.slow(features))
        two_hot = self.critic.two_hot
        return two_hot.loss(logits, returns) + two_hot.loss(logits, slow)
