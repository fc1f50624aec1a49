"""λ-returns against hand-worked numbers and analytic truths, each with a negative control."""

import pytest
import torch
from torch import Tensor

from agent.returns import PercentileScale, lambda_returns

REWARD = torch.tensor([[9.0, 1.0, 2.0, 3.0]])  # the 9 belongs to record 0 and must never be used
DISCOUNT = torch.tensor([[9.0, 0.5, 0.5, 0.5]])
VALUE = torch.tensor([[9.0, 10.0, 20.0, 30.0]])


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        # R_t = r_{t+1} + 0.5 * v_{t+1}:  3+15, 2+10, 1+5
        (0.0, [6.0, 12.0, 18.0]),
        # R_2 = 3 + 0.5*30 = 18;  R_1 = 2 + 0.5*18 = 11;  R_0 = 1 + 0.5*11 = 6.5
        (1.0, [6.5, 11.0, 18.0]),
        # R_2 = 3 + 0.5*(15+15) = 18;  R_1 = 2 + 0.5*(10+9) = 11.5;  R_0 = 1 + 0.5*(5+5.75) = 6.375
        (0.5, [6.375, 11.5, 18.0]),
    ],
)
def test_hand_worked(lam: float, expected: list[float]) -> None:
    torch.testing.assert_close(
        lambda_returns(REWARD, DISCOUNT, VALUE, lam), torch.tensor([expected])
    )


def test_terminal_cuts_what_lies_behind() -> None:
    discount = torch.tensor([[9.0, 0.5, 0.0, 0.5]])  # record 2 is terminal
    # R_1 = 2 (the reward of arriving at the terminal record);  R_0 = 1 + 0.5*(5+1) = 4
    expected = torch.tensor([[4.0, 2.0]])
    actual = lambda_returns(REWARD, discount, VALUE, 0.5)
    torch.testing.assert_close(actual[:, :2], expected)


def test_truncation_bootstraps_from_the_last_record_of_the_episode() -> None:
    is_first = torch.tensor([[False, False, True, False]])  # the episode was cut after record 1
    # R_2 = 18 as ever;  R_1 = v_1 = 10;  R_0 = 1 + 0.5*(5+5) = 6
    expected = torch.tensor([[6.0, 10.0, 18.0]])
    actual = lambda_returns(REWARD, DISCOUNT, VALUE, 0.5, is_first)
    torch.testing.assert_close(actual, expected)
    assert not torch.allclose(lambda_returns(REWARD, DISCOUNT, VALUE, 0.5), expected)


def test_rows_are_independent() -> None:
    torch.manual_seed(0)
    reward, discount, value = torch.rand(3, 5, 9)
    is_first = torch.rand(5, 9) < 0.2
    whole = lambda_returns(reward, discount, value, 0.9, is_first)
    rows = [
        lambda_returns(reward[[i]], discount[[i]], value[[i]], 0.9, is_first[[i]]) for i in range(5)
    ]
    torch.testing.assert_close(whole, torch.cat(rows))


def converge(reward: Tensor, discount: Tensor, states: Tensor, lam: float = 0.8) -> Tensor:
    """Iterate V(s) <- mean of the λ-returns of the records in state s."""
    table = torch.zeros(int(states.max()) + 1, dtype=reward.dtype)
    for _ in range(400):
        returns = lambda_returns(reward, discount, table[states], lam)
        table = torch.stack([returns[states[:, :-1] == s].mean() for s in range(len(table))])
    return table


def test_reward_one_forever_is_worth_one_over_one_minus_gamma() -> None:
    gamma = 0.9
    reward, states = torch.ones(1, 9, dtype=torch.float64), torch.zeros(1, 9, dtype=torch.long)
    discount = torch.full_like(reward, gamma)
    truth = torch.tensor([1 / (1 - gamma)], dtype=reward.dtype)
    torch.testing.assert_close(converge(reward, discount, states), truth)
    wrong = discount.clone()
    wrong[:, -1] = 0.0  # a terminal where there is none
    assert abs(converge(reward, wrong, states) - truth) > 1.0


def test_reward_belongs_to_the_record_it_leads_to() -> None:
    """Around a ring of three states, arriving in state s pays s+1; the off-by-one form misses."""
    gamma, ring = 0.9, 3
    states = (torch.arange(13) % ring)[None]
    reward = (states + 1).double()
    discount = torch.full_like(reward, gamma)
    cycle = 1 - gamma**ring
    arrivals = [[(s + k) % ring + 1 for k in (1, 2, 3)] for s in range(ring)]
    truth = torch.tensor(
        [(a + gamma * b + gamma**2 * c) / cycle for a, b, c in arrivals], dtype=reward.dtype
    )
    torch.testing.assert_close(converge(reward, discount, states), truth)
    earned_on_leaving = reward.roll(1, dims=1)
    assert (converge(earned_on_leaving, discount, states) - truth).abs().max() > 0.5


def test_gradient_flows_to_values_not_across_a_terminal() -> None:
    value = VALUE.clone().requires_grad_()
    discount = torch.tensor([[9.0, 0.5, 0.0, 0.5]])
    lambda_returns(REWARD, discount, value, 0.5)[0, 0].backward()
    # dR_0/dv_1 = 0.5 * (1 - 0.5); nothing from record 2 on
    torch.testing.assert_close(value.grad, torch.tensor([[0.0, 0.25, 0.0, 0.0]]))


def test_scale_is_the_spread_and_at_least_one() -> None:
    scale = PercentileScale()
    assert scale.scale() == 1
    scale.update(torch.linspace(0.0, 0.1, 101))
    assert scale.scale() == 1
    wide = PercentileScale()
    wide.update(torch.linspace(-50.0, 50.0, 101))  # p5 = -45, p95 = 45: no start-up bias
    torch.testing.assert_close(wide.scale(), torch.tensor(90.0))


def test_scale_moves_by_its_rate_ignores_outliers_and_shifts() -> None:
    returns = torch.linspace(0.0, 100.0, 101)
    scale = PercentileScale(rate=0.5)
    scale.update(returns + 1000.0)
    torch.testing.assert_close(scale.scale(), torch.tensor(90.0))
    scale.update(returns * 4)
    # weights 0.25 and 0.5 of 0.75:  (90 + 2*360) / 3 = 270
    torch.testing.assert_close(scale.scale(), torch.tensor(270.0))
    outlier = PercentileScale()
    outlier.update(torch.cat([returns, torch.tensor([1e9])]))
    assert outlier.scale() < 100


def test_scale_survives_saving() -> None:
    scale, copy = PercentileScale(), PercentileScale()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        scale.update(100 * torch.randn(4, 32, generator=generator))
    copy.load_state_dict(scale.state_dict())
    assert copy.scale() == scale.scale() > 1
