"""symlog, two-hot, pooling, and what the heads give at the start."""

import math

import pytest
import torch

from worldmodel.heads import Pool, Recall, Transition, TwoHot, mlp, scale_last, symexp, symlog

TARGETS = [-1e3, -999.9, -7.3, -1.0, -1e-3, 0.0, 1e-3, 0.02, 0.5, 1.0, 12.34, 1e3]


def best_logits(head: TwoHot, target: float) -> torch.Tensor:
    """The logits with the smallest loss: the two-hot target itself, found by bisection of bins."""
    bins = head.bins.double()
    above = int((bins < target).sum().clamp(1, len(bins) - 1))
    share = (target - bins[above - 1]) / (bins[above] - bins[above - 1])
    probs = torch.zeros(len(bins), dtype=torch.float64)
    probs[above - 1], probs[above] = 1 - share, share
    return probs.log().clamp(min=-1e4).float()


def test_symexp_inverts_symlog() -> None:
    """Fails where a decoded vector is not in the units it came in."""
    x = torch.cat([-torch.logspace(-4, 5, 40), torch.zeros(1), torch.logspace(-4, 5, 40)])
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        symlog(torch.tensor([-1.0, 0.0, math.e - 1])), torch.tensor([-math.log(2), 0.0, 1.0])
    )


@pytest.mark.parametrize("target", TARGETS)
def test_two_hot_mean_of_the_best_logits_is_the_target(target: float) -> None:
    """Fails where a value is biased: what minimises the loss must mean the target."""
    head = TwoHot()
    mean = head.mean(best_logits(head, target))
    torch.testing.assert_close(mean, torch.tensor(target), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_two_hot_loss_is_smallest_at_the_target(target: float) -> None:
    """Fails where the loss falls below the entropy of its target, or other logits beat it."""
    head = TwoHot()
    best = best_logits(head, target)
    entropy = -(best.exp() * best).sum()
    value = head.loss(best, torch.tensor(target))
    torch.testing.assert_close(value, entropy, rtol=1e-4, atol=1e-3)
    others = best.clamp(min=-20) + torch.randn(50, len(head.bins))
    assert (head.loss(others, torch.full((50,), target)) >= entropy - 1e-3).all()


def test_two_hot_descends_to_the_target() -> None:
    """Fails where the gradient of the loss does not lead to the target."""
    head, target = TwoHot(), torch.tensor([-20.0, 0.3, 700.0])
    logits = torch.zeros(3, len(head.bins), requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(300):
        optimizer.zero_grad()
        head.loss(logits, target).sum().backward()
        optimizer.step()
    torch.testing.assert_close(head.mean(logits), target, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_two_hot_of_uniform_logits_is_zero_exactly(constant: float) -> None:
    """Fails where an untrained reward head promises something (bins reach 4e8)."""
    head = TwoHot()
    assert head.mean(torch.full((2, 255), constant)).tolist() == [0.0, 0.0]
    assert torch.equal(head.bins, -head.bins.flip(0))


def test_two_hot_clips_what_is_beyond_its_bins() -> None:
    """Fails where a huge reward gives a loss of NaN or infinity."""
    logits = torch.randn(255)
    loss = TwoHot().loss(logits.expand(2, -1), torch.tensor([-1e30, 1e30]))
    torch.testing.assert_close(loss, -logits.log_softmax(-1)[[0, -1]])


def test_zeroed_heads_start_neutral() -> None:
    """Fails where a fresh head already prefers something."""
    net = scale_last(mlp(4, 8, 5), 0.0)
    assert not net(torch.randn(3, 4)).any()


@pytest.mark.parametrize(("tokens", "outputs"), [(1, 8), (6, 32)])
def test_pool_passes_one_token_and_asks_many(tokens: int, outputs: int) -> None:
    """Fails where pooled features have another size than announced, or skip a token."""
    pool = Pool(tokens, 8)
    features = torch.randn(2, 3, tokens, 8, requires_grad=True)
    pooled = pool(features)
    assert pooled.shape == (2, 3, outputs)
    assert pool.outputs == outputs
    pooled.square().sum().backward()
    assert (features.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("tokens", [1, 4])
def test_transition_gives_distributions_that_know_the_action(tokens: int) -> None:
    """Fails where an action changes nothing, or log-probabilities are not normalised."""
    transition = Transition(tokens, 8, 3, (2, 5))
    features = torch.randn(1, 1, tokens, 8).expand(2, 3, -1, -1)
    action = torch.eye(3).expand(2, -1, -1)
    prior = transition(features, action)
    assert prior.shape == (2, 3, tokens, 2, 5)
    torch.testing.assert_close(prior.exp().sum(-1), torch.ones(2, 3, tokens, 2))
    torch.testing.assert_close(prior[0], prior[1])
    assert (prior[0, 0] - prior[0, 1]).abs().max() > 1e-3


def test_transition_lets_tokens_exchange() -> None:
    """Fails where a token of the next frame cannot know what moved into it."""
    transition = Transition(4, 8, 2, (2, 5))
    features = torch.randn(1, 4, 8, requires_grad=True)
    transition(features, torch.zeros(1, 2))[0, 0].square().sum().backward()
    assert (features.grad.abs().sum(-1) > 0).all()


def test_recall_knows_the_gap() -> None:
    """Fails where recall cannot tell gaps apart, up to thousands of frames."""
    recall = Recall(8, (2, 5))
    gaps = torch.tensor([1.0, 2.0, 30.0, 1000.0, 1500.0])
    with torch.no_grad():
        recalled = recall(torch.randn(1, 1, 8).expand(5, -1, -1), gaps)
    assert recalled.shape == (5, 1, 2, 5)
    torch.testing.assert_close(recalled.exp().sum(-1), torch.ones(5, 1, 2))
    distances = torch.cdist(recalled.flatten(1), recalled.flatten(1)) + torch.eye(5)
    assert distances.min() > 1e-2


def test_doubt_weighs_by_the_prediction_alone() -> None:
    """Fails where a wide distribution does not weigh most, or a gradient flows through weights."""
    head = TwoHot()
    logits = torch.zeros(10, 255, requires_grad=True)
    sharp = torch.zeros(90, 255).index_fill(1, torch.tensor([127]), 50.0)
    wide, sure = head.doubt(logits), head.doubt(sharp)
    assert wide.min() > 100 * sure.max()
    assert sure.min() > 0
    assert not wide.requires_grad


def test_doubt_does_not_move_what_is_learned() -> None:
    """Fails where weighing biases a prediction: a coin that is seldom asked for stays a coin."""
    torch.manual_seed(0)
    head, known = TwoHot(21, unit=0.1, largest=2.0), torch.zeros(64, 2)
    known[:, 0], known[:4] = 1.0, torch.tensor([0.0, 1.0])
    net = torch.nn.Linear(2, 21, bias=False)
    optimiser = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(600):
        target = torch.zeros(64)
        target[:4] = (torch.rand(4) < 0.3).float()
        logits = net(known)
        weight = head.doubt(logits)
        loss = (head.loss(logits, target) * weight / weight.mean()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] *= 0.994
    asked, plain = head.mean(net(torch.tensor([[0.0, 1.0], [1.0, 0.0]])))
    assert abs(asked.item() - 0.3) < 0.1
    assert abs(plain.item()) < 0.01
