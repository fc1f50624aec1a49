"""Random actions while acting: as often, for as long and in such streams as they should be."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agent.exploration import LONGEST, explore, idle
from worldmodel.actions import ActionCodec

STREAMS = 4_000


def play(codec: ActionCodec, rate: float, steps: int, ends: int = 0) -> np.ndarray:
    """What a policy that only ever takes the first action is made to do, (steps, STREAMS)."""
    torch.manual_seed(0)
    always = codec.decode(torch.zeros(STREAMS, codec.size))
    doing, taken = idle(always), []
    for step in range(steps):
        is_first = torch.full((STREAMS,), bool(ends) and step % ends == 0)
        action, doing = explore(always, doing, is_first, rate, codec)
        taken.append(action)
    return torch.stack(taken).numpy()


def test_random_actions_are_as_frequent_and_as_long_as_they_should_be() -> None:
    """Fails where one is drawn anew at each step, or lasts a step too long."""
    codec = ActionCodec(spaces.Discrete(1_000))  # so many that two in a row are never alike
    taken = play(codec, 0.1, 60)
    begins = (taken[0] > 0).mean()
    assert begins == pytest.approx(0.1, abs=0.015)
    exploring = taken[:, taken[0] > 0]
    lasts = (exploring == exploring[0]).cumprod(0).sum(0)
    weight = np.arange(1.0, LONGEST + 1) ** -2
    for steps in (1, 2, 3):
        assert (lasts == steps).mean() == pytest.approx(weight[steps - 1] / weight.sum(), abs=0.07)


def test_none_goes_on_into_the_next_episode() -> None:
    """Fails where an action is still held after a new beginning."""
    codec = ActionCodec(spaces.Discrete(1_000))
    taken = play(codec, 0.3, 9, ends=3)
    for start in (3, 6):
        again = (taken[start] == taken[start - 1]) & (taken[start] > 0)
        assert again.mean() < 0.002  # by chance, one in a thousand of those that begin
        assert ((taken[start - 1] == taken[start - 2]) & (taken[start - 1] > 0)).mean() > 0.1


def test_never_is_never() -> None:
    """Fails where a policy is disturbed that was to act alone."""
    assert (play(ActionCodec(spaces.Discrete(3)), 0.0, 20) == 0).all()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=5),
        spaces.MultiDiscrete([[2, 3], [4, 2]]),
        spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)),
    ],
)
def test_random_actions_fill_their_space(space: gym.Space) -> None:
    """Fails where an action is none of the space, or a part of it is never drawn."""
    torch.manual_seed(0)
    drawn = ActionCodec(space).random(500).numpy().astype(space.dtype)
    assert all(space.contains(one if space.shape else one[()]) for one in drawn)
    if isinstance(space, spaces.Box):
        assert (np.abs(drawn.mean(0) - (space.low + space.high) / 2) < 0.1).all()
        assert (drawn.max(0) > 0.9 * space.high).all()
    else:
        counts = np.full((), space.n) if isinstance(space, spaces.Discrete) else space.nvec
        assert (drawn.max(0) - drawn.min(0) + 1 == counts).all()
