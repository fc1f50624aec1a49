"""Which frames are recalled, and when."""

import math

import pytest
import torch
from torch import Tensor

from worldmodel.recall import Past, Recalls, empty_past, keep, pick_recalls

FRAMES = 64


def episodes(*starts: int) -> Tensor:
    is_first = torch.zeros(1, FRAMES, dtype=torch.bool)
    is_first[0, list(starts)] = True
    return is_first


def no_past(rows: int = 1, places: int = 0) -> Past:
    return empty_past(torch.zeros(rows, places, 1, 1, 2))


def picks(surprise: Tensor, is_first: Tensor, number: int = 4000) -> Recalls:
    return pick_recalls(surprise, is_first, no_past(len(surprise)), number)


@pytest.mark.parametrize("starts", [(), (0,), (0, 20, 21, 63), (5, 40), tuple(range(FRAMES))])
def test_pairs_lie_inside_one_episode(starts: tuple[int, ...]) -> None:
    """Fails where a frame of another episode, or of the future, is asked for."""
    is_first = episodes(*starts)
    past, later, gap, exists = (a[0] for a in picks(torch.rand(1, FRAMES), is_first))
    episode = is_first.cumsum(1)[0]
    assert ((past >= 0) & (later < FRAMES)).all()
    assert torch.equal(episode[past[exists]], episode[later[exists]])
    assert torch.equal(past[exists] + gap[exists], later[exists])
    is_last = torch.cat([is_first[0, 1:], torch.tensor([True])])
    assert torch.equal(exists, ~is_last[past])


def test_gaps_are_log_uniform() -> None:
    """Fails where long gaps are rare: each doubling of the gap must come equally often."""
    surprise = torch.zeros(1, FRAMES)
    surprise[0, 0] = 1e6  # all picks are frame 0, so that gaps reach from 1 to 63
    past, _, gap, _ = picks(surprise, episodes(), 20_000)
    gap = gap[past == 0]
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
    shares = torch.bincount(past, minlength=FRAMES) / len(past)
    torch.testing.assert_close(shares[[0, 30]], torch.full((2,), 1 / 3), rtol=0, atol=0.03)
    assert shares[17] > shares[[i for i in range(FRAMES) if i not in (0, 17, 30)]].max()


def test_frames_are_picked_by_surprise() -> None:
    """Fails where picks do not follow the model's surprise."""
    surprise = torch.ones(1, FRAMES)
    surprise[0, 8:16] = 3.0
    past = picks(surprise, episodes(), 20_000).past[0]
    share = ((past >= 8) & (past < 16)).float().mean().item()
    assert share == pytest.approx(24 / (24 + 56), abs=0.02)


def test_nothing_surprising_is_no_error() -> None:
    """Fails where a perfect model (no divergence, no first frame) makes the sampler divide by 0."""
    past, later, _, _ = picks(torch.zeros(2, FRAMES), torch.zeros(2, FRAMES, dtype=torch.bool))
    assert past.shape == later.shape == (2, 4000)


def test_one_frame_has_nothing_to_recall() -> None:
    """Fails where a window of one frame crashes or invents a pair."""
    found = pick_recalls(torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool), no_past(3), 5)
    assert not found.exists.any()
    assert not found.later.any()


def stream(frames: int, *starts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents that tell the time, surprise, and where episodes begin."""
    latents = torch.arange(frames, dtype=torch.float).view(1, -1, 1, 1, 1).expand(1, -1, 1, 1, 2)
    is_first = torch.zeros(1, frames, dtype=torch.bool)
    is_first[0, list(starts)] = True
    return latents, torch.rand(1, frames), is_first


def test_kept_frames_are_those_of_the_running_episode() -> None:
    """Fails where a frame of an episode that is over is kept, its start is dropped, or an age is
    wrong: latents tell when each frame was."""
    past = no_past(places=8)
    latents, surprise, is_first = stream(3 * FRAMES, 5, 100)
    for i in range(3):
        part = slice(i * FRAMES, (i + 1) * FRAMES)
        past = keep(past, latents[:, part], surprise[:, part], is_first[:, part])
        now, start = (i + 1) * FRAMES, 5 if i == 0 else 100
        when = past.latents[0, :, 0, 0, 0].long()
        assert torch.equal(now - past.age[0], when)
        assert start in when
        assert (when >= start).all()
        assert len(set(when.tolist())) == 8
    assert (past.key > -torch.inf).all()


def test_frames_are_kept_by_surprise() -> None:
    """Fails where a stream's surprising frames are not kept likelier than the others."""
    surprise = torch.ones(1, FRAMES).index_fill(1, torch.tensor([20]), 30.0)
    latents, _, is_first = stream(FRAMES)
    times = [
        keep(no_past(places=6), latents, surprise, is_first).latents[0, :, 0, 0, 0].tolist()
        for _ in range(300)
    ]
    assert sum(20 in found for found in times) > 250
    assert 5 < sum(40 in found for found in times) < 80


def test_kept_frames_are_recalled_at_their_own_gap() -> None:
    """Fails where what lies before the window is recalled at a wrong gap, or after a reset."""
    latents, surprise, is_first = stream(FRAMES, 0)
    past = keep(no_past(places=4), latents, surprise, is_first)
    after = episodes(10)
    index, later, gap, exists = (a[0] for a in pick_recalls(surprise, after, past, 2000))
    kept = (index < 4) & exists
    assert 0.4 < (index < 4).float().mean().item() < 0.6
    assert torch.equal(gap[kept], past.age[0][index[kept]] + later[kept])
    assert later[kept].max() < 10
    assert (later[kept] >= 0).all()
    none = pick_recalls(surprise, episodes(0), past, 500)
    assert not none.exists[none.past < 4].any()
