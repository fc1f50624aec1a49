"""What policy and value learn, on problems whose answers are known."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agent.actor_critic import ActionDistribution, Actor, ActorCritic, BehaviourConfig
from agent.imagination import Imagination
from worldmodel.actions import ActionCodec
from worldmodel.latents import unimix
from worldmodel.types import Records

WIDTH = 16


def actor_critic(space=None, tokens: int = 1, **settings: float) -> ActorCritic:
    actions = ActionCodec(space or spaces.Discrete(4))
    return ActorCritic(Actor(tokens, WIDTH, actions), tokens, WIDTH, BehaviourConfig(**settings))


@torch.no_grad()
def bandit(behaviour: ActorCritic, reward_of, rows: int = 64) -> Imagination:
    """One-step dreams: a state, an action of the policy's, its reward, the end."""
    features = torch.ones(rows, 2, 1, WIDTH)
    action = behaviour.dream_policy(features[:, 0])[:, None]
    reward = torch.stack([torch.zeros(rows), reward_of(action[:, 0])], 1)
    continuation = torch.tensor([1.0, 0.0]).expand(rows, 2)
    return Imagination(features, action, reward, continuation)


def train(behaviour: ActorCritic, make_dream, updates: int = 200) -> dict[str, torch.Tensor]:
    optimiser = torch.optim.Adam(
        [*behaviour.actor.parameters(), *behaviour.critic.parameters()], 3e-3
    )
    metrics = {}
    for _ in range(updates):
        losses, metrics = behaviour.imagination_losses(make_dream())
        optimiser.zero_grad()
        (losses["actor"] + losses["critic"]).backward()
        optimiser.step()
        behaviour.update_slow()
    return metrics


@pytest.mark.parametrize("best", [0, 3])
def test_the_better_arm_is_found_and_valued(best: int) -> None:
    """Fails where advantages, their sign or the critic's targets are wrong."""
    behaviour = actor_critic(entropy=1e-3, slow_rate=0.2)
    train(behaviour, lambda: bandit(behaviour, lambda a: a[:, best]), 300)
    features = torch.ones(1, 1, WIDTH)
    assert behaviour.actor(features).categories[0].exp()[0, best] > 0.9
    value = behaviour.critic.two_hot.mean(behaviour.critic(features))
    assert value.item() == pytest.approx(1, abs=0.2)


def test_a_box_policy_moves_to_the_rewarded_value() -> None:
    """Fails where the log-probability is not that of the sample that was taken."""
    behaviour = actor_critic(spaces.Box(-1, 1, (1,), np.float32), entropy=1e-4)
    train(behaviour, lambda: bandit(behaviour, lambda a: -((a[:, 0] - 0.5) ** 2)), 300)
    mean = behaviour.actor(torch.ones(1, 1, WIDTH)).mode()
    assert mean.item() == pytest.approx(0.5, abs=0.2)


def categories(logits: torch.Tensor) -> ActionDistribution:
    return ActionDistribution((unimix(logits),), (logits.log_softmax(-1),))


def test_comparing_moves_every_logit_by_its_advantage() -> None:
    """Fails where a rare action is moved less than a likely one, or the mean is not the policy's.

    Of values 1, 0 and 0.5 at probabilities of about 0, 1 and 0 the advantages are 1, 0 and 0.5;
    what all logits have in common moves none.
    """
    logits = torch.tensor([[0.0, 9.0, 0.0]], requires_grad=True)
    gain = categories(logits).gain_of_all(torch.tensor([[1.0, 0.0, 0.5]]))
    (gradient,) = torch.autograd.grad(gain.sum(), [logits])
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5, 0.0]]), atol=1e-3, rtol=0)
    # Below the floor nothing is pushed any further down.
    worse = categories(logits).gain_of_all(torch.tensor([[-1.0, 0.0, -0.5]]))
    (gradient,) = torch.autograd.grad(worse.sum(), [logits])
    assert gradient.abs().max() < 2e-4


def compared(behaviour: ActorCritic, reward_of, rows: int = 8) -> tuple[Imagination, Imagination]:
    """One-step dreams, and the same states with every action."""
    dream = bandit(behaviour, reward_of, rows)
    every = torch.eye(4).repeat(rows, 1)
    features, ends = torch.ones(len(every), 2, 1, WIDTH), torch.tensor([1.0, 0.0])
    reward = torch.stack([torch.zeros(len(every)), reward_of(every)], 1)
    return dream, Imagination(features, every[:, None], reward, ends.expand(len(every), 2))


@pytest.mark.parametrize("compare", [True, False])
def test_what_is_never_done_is_found_by_comparing(compare: bool) -> None:
    """Fails where only what a policy does is learned of (the control, without comparing)."""
    torch.manual_seed(0)
    behaviour = actor_critic(entropy=0.0, dream_unimix=1e-4)
    with torch.no_grad():
        behaviour.actor.net[-1].bias[0] = 9.0  # others: one in 8,000
    optimiser = torch.optim.Adam(behaviour.actor.parameters(), 3e-3)
    for _ in range(150):
        dream, branches = compared(behaviour, lambda a: a[:, 3])
        losses, _ = behaviour.imagination_losses(dream, branches if compare else None)
        optimiser.zero_grad()
        losses["actor"].backward()
        optimiser.step()
    likely = behaviour.actor(torch.ones(1, 1, WIDTH)).categories[0].exp()[0]
    assert (likely[3] > 0.9) == compare
    assert (likely[0] > 0.9) != compare


def squashed(mean: float, std: float, n: int = 1) -> ActionDistribution:
    return ActionDistribution(mean=torch.full((n, 1), mean), std=torch.full((n, 1), std))


def test_the_density_of_a_squashed_normal_by_hand() -> None:
    """Fails where the change of variables is forgotten, or has the wrong sign.

    a = 0.6 is tanh(ln 2). There the normal around 0 has density exp(-(ln 2)²/2) / √(2π) = 0.3137,
    and tanh has slope 1 - 0.36 = 0.64: together 0.4902.
    """
    density = squashed(0.0, 1.0).log_density(torch.tensor([[0.6]])).exp()
    assert density.item() == pytest.approx(0.4902, abs=1e-4)
    # Two parts are independent: their densities multiply.
    both = ActionDistribution(mean=torch.zeros(1, 2), std=torch.ones(1, 2))
    assert both.log_density(torch.tensor([[0.6, 0.6]])).exp().item() == pytest.approx(
        0.2403, abs=1e-4
    )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.3), (-2.9, 0.5), (3.0, 0.1)])
def test_a_squashed_normal_is_a_distribution_on_the_box(mean: float, std: float) -> None:
    """Fails where density, samples and entropy are not of one distribution, inside the bounds."""
    policy = squashed(mean, std, 200_000)
    edge = torch.linspace(-9, 9, 200_001, dtype=torch.double).tanh()
    middle, width = (edge[1:] + edge[:-1]) / 2, edge.diff()
    log_density = squashed(mean, std, 200_000).log_density(middle[:, None].float()).double()
    share = log_density.exp() * width
    assert share.sum().item() == pytest.approx(1, abs=2e-3)
    assert policy.entropy()[0].item() == pytest.approx(
        -(share * log_density).sum().item(), abs=0.01
    )
    sample = policy.sample()
    assert sample.abs().max() <= 1
    assert sample.mean().item() == pytest.approx((share * middle).sum().item(), abs=0.01)
    assert policy.mode()[0].item() == pytest.approx(sample.median().item(), abs=0.01)


def test_gradients_of_a_squashed_normal_by_hand() -> None:
    """Fails where the gradient is not that of a normal at the sample before it was squashed.

    At a = tanh(1), mean 0.5 and std 0.5: d log p / d mean = (1 - 0.5) / 0.25 = 2, and
    d log p / d std = 0.25 / 0.125 - 1 / 0.5 = 0.
    """
    mean, std = (torch.full((1, 1), 0.5, requires_grad=True) for _ in range(2))
    policy = ActionDistribution(mean=mean, std=std)
    gain = policy.gain(torch.ones(1, 1).tanh(), torch.tensor([3.0]))
    by_mean, by_std = torch.autograd.grad(gain.sum(), [mean, std])
    assert by_mean.item() == pytest.approx(6, abs=1e-4)
    assert by_std.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_the_bounds_themselves_have_a_finite_gradient(action: float) -> None:
    """Fails where a sample that was rounded to the bound makes the policy NaN."""
    mean = torch.full((1, 1), 3.0, requires_grad=True)
    policy = ActionDistribution(mean=mean, std=torch.full((1, 1), 0.1))
    (gradient,) = torch.autograd.grad(policy.log_density(torch.tensor([[action]])).sum(), [mean])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("best", [-0.9, 0.2, 1.0])
def test_each_part_of_a_box_finds_its_own_value(best: float) -> None:
    """Fails where parts are mixed up, or a policy cannot settle beside a bound."""
    behaviour = actor_critic(spaces.Box(-1, 1, (2,), np.float32), entropy=1e-4)
    wanted = torch.tensor([best, -0.4])
    train(behaviour, lambda: bandit(behaviour, lambda a: -(a - wanted).square().sum(-1)), 400)
    mode = behaviour.actor(torch.ones(1, 1, WIDTH)).mode()
    torch.testing.assert_close(mode[0], wanted, atol=0.2, rtol=0)


def test_each_part_of_a_multi_discrete_finds_its_own_category() -> None:
    """Fails where the columns of several categories are mixed up in sampling or in learning."""
    space = spaces.MultiDiscrete([3, 2, 4])
    behaviour = actor_critic(space, entropy=1e-3, slow_rate=0.2)
    wanted = ActionCodec(space).encode(torch.tensor([2, 0, 1]))
    train(behaviour, lambda: bandit(behaviour, lambda a: (a * wanted).sum(-1)), 400)
    policy = behaviour.actor(torch.ones(1, 1, WIDTH))
    assert ActionCodec(space).decode(policy.mode()).tolist() == [[2, 0, 1]]
    assert all(part.exp().max() > 0.8 for part in policy.categories)


def test_only_entropy_is_left_where_nothing_is_gained() -> None:
    """Fails where the policy drifts without a reason (the negative control of the bandit)."""
    behaviour = actor_critic(entropy=1e-2)
    train(behaviour, lambda: bandit(behaviour, lambda a: torch.zeros(len(a))))
    entropy = behaviour.actor(torch.ones(1, 1, WIDTH)).entropy().item()
    assert entropy == pytest.approx(math.log(4), abs=0.05)


def test_steps_beyond_the_end_teach_nothing() -> None:
    """Fails where a dream goes on to count after it reached a terminal record."""
    behaviour = actor_critic(tokens=1)
    features = torch.randn(8, 4, 1, WIDTH, requires_grad=True)
    continuation = torch.tensor([1.0, 1.0, 0.0, 1.0]).expand(8, 4)
    for net in (behaviour.actor.net, behaviour.critic.net):
        torch.nn.init.normal_(net[-1].weight)
    action = behaviour.dream_policy(features[:, :3].flatten(0, 1)).view(8, 3, 4).detach()
    losses, _ = behaviour.imagination_losses(
        Imagination(features, action, torch.randn(8, 4), continuation)
    )
    (gradient,) = torch.autograd.grad(losses["actor"] + losses["critic"], [features])
    assert gradient[:, 1].any()
    assert not gradient[:, 2:].any()


def test_replayed_rewards_teach_the_critic_but_not_across_episodes() -> None:
    """Fails where a record learns from the episode after its own, or a terminal from anything."""
    behaviour = actor_critic()
    torch.nn.init.normal_(behaviour.critic.net[-1].weight)
    features = torch.randn(2, 5, 1, WIDTH, requires_grad=True)
    flags = torch.zeros(2, 5, dtype=torch.bool)
    first, terminal = flags.clone(), flags.clone()
    first[:, 3] = True
    terminal[0, 2] = True
    records = Records({}, torch.zeros(2, 5), torch.randn(2, 5), first, terminal)
    counts, surprise = torch.ones_like(first), torch.zeros(2, 5)
    loss = behaviour.replay_value_loss(features, records, surprise, counts)
    (gradient,) = torch.autograd.grad(loss, [features])
    assert behaviour.replay_value_loss(features, records, surprise, ~counts) == 0
    reached = gradient.flatten(2).any(-1)
    assert reached[:, [0, 1, 3]].all()
    assert not reached[:, [2, 4]].any()


def test_surprise_is_worth_something_to_the_curious_alone() -> None:
    """Fails where what was found out has no value in replay, or another than a reward has."""
    features, nothing = torch.ones(2, 3, 1, WIDTH), torch.zeros(2, 3)
    found, flags = torch.full((2, 3), 4.0), torch.zeros(2, 3, dtype=torch.bool)
    losses = []
    for curiosity, reward in ((0.5, nothing), (0.0, 0.5 * found), (0.0, nothing)):
        torch.manual_seed(0)
        behaviour = actor_critic(curiosity=curiosity)
        torch.nn.init.normal_(behaviour.critic.net[-1].weight)
        records = Records({}, nothing, reward, flags, flags)
        losses.append(behaviour.replay_value_loss(features, records, found, ~flags))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("horizon", -1), ("starts", 0), ("discount", 1.5), ("dream_unimix", 0.0), ("entropy", -1.0)],
)
def test_nonsense_is_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"behaviour.{setting}"):
        BehaviourConfig(**{setting: value})


def logits_gradient(logits: list[float], advantage: float) -> torch.Tensor:
    """How far one step of ascent moves each logit after the second action was taken."""
    leaf = torch.tensor([logits], requires_grad=True)
    policy = ActionDistribution((unimix(leaf, 0.1),), (leaf.log_softmax(-1),))
    gain = policy.gain(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([advantage]))
    return torch.autograd.grad(gain.sum(), [leaf])[0][0]


@pytest.mark.parametrize("given_up", [2.0, 8.0])
def test_an_action_that_was_given_up_comes_back_as_fast(given_up: float) -> None:
    """Fails where a policy that settled too early is moved in proportion to what is left."""
    assert logits_gradient([given_up, 0.0, 0.0], 0.5)[1] == pytest.approx(0.5, rel=0.2)


def test_a_useless_action_is_pushed_down_to_the_floor_only() -> None:
    """Fails where logits run away, so that coming back would take for ever."""
    assert logits_gradient([1.0, 0.0, 0.0], -0.5)[1] < -0.3
    assert not logits_gradient([8.0, 0.0, 0.0], -0.5).any()


@pytest.mark.parametrize("advantage", [0.3, -0.3])
def test_what_all_actions_gain_moves_none(advantage: float) -> None:
    """Fails where random actions in a dream bias the policy: while values rise, every action looks
    better than expected, and a policy that was sure of the right one was drawn to uniform."""
    leaf = torch.tensor([[6.0, 0.0, 1.0]], requires_grad=True)
    logits = leaf.expand(200_000, 3)
    unmixed = logits.log_softmax(-1)
    policy = ActionDistribution((unimix(unmixed, 0.3),), (unmixed,))
    gain = policy.gain(policy.sample().detach(), torch.full((200_000,), advantage))
    (gradient,) = torch.autograd.grad(gain.mean(), [leaf])
    assert gradient.abs().max() < 0.002
