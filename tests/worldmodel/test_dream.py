"""Dreams of any length, from any carry, and how good their pictures are."""

from itertools import islice

import pytest
import torch
from gymnasium import spaces

from worldmodel.dream import dream, frame_quality
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.types import Carry, tree_leaves

SMALL = ModelConfig(layers=("scan", "attend:3", "mlp"), width=16, head=8, grid=2, latents=2)
ROWS = 3


@pytest.fixture
def model() -> WorldModel:
    return WorldModel(spaces.Box(0, 255, (16, 16, 3), "uint8"), spaces.Discrete(4), SMALL)


def bytes_of(carry: Carry) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(carry))


def test_given_actions_are_taken_one_by_one(model: WorldModel) -> None:
    """Fails where an action is skipped or repeated, or the dream goes on after the last one."""
    carry, actions = model.initial(ROWS), torch.randint(0, 4, (7, ROWS))
    torch.manual_seed(3)
    dreamed = list(dream(model, carry, actions.unbind()))
    torch.manual_seed(3)
    assert len(dreamed) == 7
    for action, step in zip(actions, dreamed, strict=True):
        with torch.no_grad():
            latents, carry = model.imagine_step(carry, model.actions.encode(action))
        assert torch.equal(step.action.argmax(-1), action)
        assert torch.equal(step.latents, latents)
        assert torch.equal(step.carry.features, carry.features)


def test_a_policy_dreams_without_end_at_constant_size(model: WorldModel) -> None:
    """Fails where the carry grows with the dream, or drags a graph along."""
    policy = lambda features: torch.eye(4)[features.sum((1, 2)).long() % 4]  # noqa: E731
    steps = list(islice(dream(model, model.initial(ROWS), policy), 60))
    assert bytes_of(steps[0].carry) == bytes_of(steps[-1].carry)
    assert not any(leaf.requires_grad for leaf in tree_leaves(steps[-1].carry))
    picture = model.decode(steps[-1].latents)[model.codec.names[0]]
    assert picture.shape == (ROWS, 16, 16, 3)


def test_forgetting_leaves_nothing_but_the_last_record(model: WorldModel) -> None:
    """Fails where the control with memory off still remembers (and, without it, nothing would)."""
    frames = torch.randint(0, 256, (ROWS, 5, 16, 16, 3), dtype=torch.uint8)
    first = torch.zeros(ROWS, 5, dtype=torch.bool)
    observation = {model.codec.names[0]: frames}
    _, seen, _ = model.observe(observation, torch.zeros(ROWS, 5).long(), first, model.initial(ROWS))
    for forget in (True, False):
        ends = []
        for start in (seen, model.initial(ROWS)._replace(features=seen.features)):
            torch.manual_seed(0)
            steps = list(dream(model, start, [torch.zeros(ROWS).long()], forget=forget))
            ends.append(steps[-1].carry.features)
        assert torch.allclose(*ends, rtol=1e-4, atol=1e-5) == forget  # sums may round otherwise


def test_quality_of_frames() -> None:
    """Fails where PSNR or SSIM are not those of the textbook: by hand for a constant error."""
    truth = torch.randint(0, 200, (4, 32, 32, 3)).float()
    same, off = frame_quality(truth, truth, 255.0), frame_quality(truth, truth + 10, 255.0)
    assert torch.isinf(same["psnr"]).all()
    torch.testing.assert_close(same["ssim"], torch.ones(4))
    expected = 10 * torch.log10(torch.tensor(255.0**2 / 100)).expand(4)
    torch.testing.assert_close(off["psnr"], expected, rtol=1e-4, atol=0)
    noise = frame_quality(truth, torch.rand_like(truth) * 200, 255.0)
    assert (noise["ssim"] < 0.2).all()
    assert (off["ssim"] > noise["ssim"]).all()
    with pytest.raises(ValueError, match="11 x 11"):
        frame_quality(truth[:, :8], truth[:, :8], 255.0)
