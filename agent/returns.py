"""Targets of the critic and the scale of the advantages, as plain maths on tensors.

Unusual: arrays hold T+1 records, and reward and discount belong to the record they lead to.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def lambda_returns(
    reward: Float[Tensor, "N T1"],
    discount: Float[Tensor, "N T1"],
    value: Float[Tensor, "N T1"],
    lam: float,
    is_first: Bool[Tensor, "N T1"] | None = None,
) -> Float[Tensor, "N T1-1"]:
    """λ-returns of records 0..T-1, from T1 = T+1 records.

        R_t = reward_{t+1} + discount_{t+1} * ((1 - lam) * value_{t+1} + lam * R_{t+1})
        R_T = value_T
        R_t = value_t    where is_first_{t+1}

    reward_t and discount_t = γ * continue_t (0 at a terminal record) belong to record t: they
    are earned by arriving there, so those of record 0 are not used. Where the next record starts
    another episode nothing can be learned from it, and the return is the record's own value: such
    a record teaches a critic nothing.

    Source: Sutton & Barto, Reinforcement Learning, 2nd ed., chapter 12 (eq. 12.18 with
    termination); Hafner et al., DreamerV3 (arXiv:2301.04104), critic learning.
    """
    assert reward.shape[1] >= 2, "λ-returns need at least two records"
    one_step = reward + discount * (1 - lam) * value
    returns = [value[:, -1]]
    for t in reversed(range(reward.shape[1] - 1)):
        now = one_step[:, t + 1] + lam * discount[:, t + 1] * returns[-1]
        if is_first is not None:
            now = torch.where(is_first[:, t + 1], value[:, t], now)
        returns.append(now)
    return torch.stack(returns[:0:-1], dim=1)


class PercentileScale(nn.Module):
    """Spread of the returns, 5th to 95th percentile, as a moving average without start-up bias.

    Source: DreamerV3 (arXiv:2301.04104), actor learning: advantages are divided by max(1, spread),
    so that small returns are not blown up to noise.
    """

    low: Tensor
    high: Tensor
    weight: Tensor

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        for name in ("low", "high", "weight"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Float[Tensor, "..."]) -> None:
        """Move both percentiles towards those of `returns`."""
        flat = returns.detach().flatten().float()
        low, high = torch.quantile(flat, torch.tensor([0.05, 0.95], device=flat.device))
        self.low.lerp_(low, self.rate)
        self.high.lerp_(high, self.rate)
        self.weight.lerp_(torch.ones_like(self.weight), self.rate)

    def scale(self) -> Float[Tensor, ""]:
        """max(1, p95 - p5); 1 before the first update."""
        seen = self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)
        return ((self.high - self.low) / seen).clamp_min(1.0)
