"""Which frames are recalled, and when."""

import math

import pytest
import torch
from torch import Tensor

from worldmodel.recall import Recalls, pick_recalls

FRAMES = 64


def episodes(*starts: int) -> Tensor:
    is_first = torch.zeros(1, FRAMES, dtype=torch.bool)
    is_first[0, list(starts)] = True
    return is_first


def picks(surprise: Tensor, is_first: Tensor, number: int = 4000) -> Recalls:
    return pick_recalls(surprise, is_first, number)


@pytest.mark.parametrize("starts", [(), (0,), (0, 20, 21, 63), (5, 40), tuple(range(FRAMES))])
def test_pairs_lie_inside_one_episode(starts: tuple[int, ...]) -> None:
    """Fails where a frame of another episode, or of the future, is asked for."""
    is_first = episodes(*starts)
    past, later, exists = (a[0] for a in picks(torch.rand(1, FRAMES), is_first))
    episode = is_first.cumsum(1)[0]
    assert ((past >= 0) & (later < FRAMES)).all()
    assert torch.equal(episode[past], episode[later])
    assert torch.equal(later > past, exists)
    is_last = torch.cat([is_first[0, 1:], torch.tensor([True])])
    assert torch.equal(exists, ~is_last[past])


def test_gaps_are_log_uniform() -> None:
    """Fails where long gaps are rare: each doubling of the gap must come equally often."""
    surprise = torch.zeros(1, FRAMES)
    surprise[0, 0] = 1e6  # all picks are frame 0, so that gaps reach from 1 to 63
    past, later, _ = picks(surprise, episodes(), 20_000)
    gap = (later - past)[past == 0]
    octaves = torch.bincount(gap.float().log2().floor().long(), minlength=6) / len(gap)
    assert len(gap) > 19_000
    assert int(gap.min()) == 1
    assert int(gap.max()) == 63
    torch.testing.assert_close(octaves, torch.full((6,), 1 / 6), rtol=0, atol=0.02)
    once = math.log(2) / math.log(64)
    assert (gap == 1).float().mean().item() == pytest.approx(once, abs=0.02)


def test_first_frames_are_picked_most() -> None:
    """Fails where the cue at an episode's start is not the likeliest to be recalled."""
    surprise = torch.rand(1, FRAMES)
    surprise[0, 17] = 5.0
    past = picks(surprise, episodes(0, 30)).past[0]
    counts = torch.bincount(past, minlength=FRAMES)
    fully = counts[[0, 17, 30]].float()
    assert fully.min() > counts[torch.arange(FRAMES) % 17 != 0].sort().values[-2]
    assert (fully / fully.mean()).sub(1).abs().max() < 0.2


def test_frames_are_picked_by_surprise() -> None:
    """Fails where picks do not follow the model's surprise."""
    surprise = torch.ones(1, FRAMES)
    surprise[0, 8:16] = 3.0
    past = picks(surprise, episodes(), 20_000).past[0]
    share = ((past >= 8) & (past < 16)).float().mean().item()
    assert share == pytest.approx(24 / (24 + 56), abs=0.02)


def test_nothing_surprising_is_no_error() -> None:
    """Fails where a perfect model (no divergence, no first frame) makes the sampler divide by 0."""
    past, later, _ = picks(torch.zeros(2, FRAMES), torch.zeros(2, FRAMES, dtype=torch.bool))
    assert past.shape == later.shape == (2, 4000)


def test_one_frame_has_nothing_to_recall() -> None:
    """Fails where a window of one frame crashes or invents a pair."""
    found = pick_recalls(torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool), 5)
    assert not found.exists.any()
    assert not found.later.any()
