"""Categorical latents: the floor, the samples, the straight-through gradient, the divergence."""

import pytest
import torch

from worldmodel import latents


@pytest.mark.parametrize("classes", [2, 16])
def test_unimix_leaves_every_class_its_share(classes: int) -> None:
    """Fails where a class can die (no gradient) or a divergence can become infinite."""
    logits = torch.full((3, classes), -1e9)
    logits[:, 0] = 1e9
    probs = latents.unimix(logits).exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(3))
    torch.testing.assert_close(probs[:, 1:], torch.full((3, classes - 1), 0.01 / classes))


def test_unimix_of_mild_logits_is_nearly_softmax() -> None:
    """Fails where the mixture is not 99 % softmax + 1 % uniform."""
    logits = torch.randn(5, 8)
    expected = 0.99 * logits.softmax(-1) + 0.01 / 8
    torch.testing.assert_close(latents.unimix(logits).exp(), expected)


@pytest.mark.parametrize("draw", [latents.sample, latents.mode])
def test_straight_through_gradient_is_that_of_the_probabilities(draw) -> None:
    """Fails where sampling cuts the gradient or scales it."""
    logits = torch.randn(4, 3, 6, requires_grad=True)
    weight = torch.randn(4, 3, 6)
    one_hot = draw(latents.unimix(logits))
    actual = torch.autograd.grad((one_hot * weight).sum(), logits)[0]
    expected = torch.autograd.grad((latents.unimix(logits).exp() * weight).sum(), logits)[0]
    torch.testing.assert_close(actual, expected)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(one_hot.sum(-1), torch.ones(4, 3))
    torch.testing.assert_close(one_hot.amax(-1), torch.ones(4, 3))


def test_samples_come_as_often_as_they_should() -> None:
    """Fails where the Gumbel noise is wrong: frequencies beside probabilities, 5 sigma."""
    probs = torch.tensor([0.6, 0.25, 0.1, 0.04, 0.01])
    number = 40_000
    counts = latents.sample(probs.log().expand(number, -1)).mean(0)
    sigma = (probs * (1 - probs) / number).sqrt()
    assert ((counts - probs).abs() < 5 * sigma).all()


def test_mode_is_the_likeliest_class() -> None:
    """Fails where a deterministic model picks another class than the argmax."""
    log_probs = latents.unimix(torch.randn(50, 7))
    assert torch.equal(latents.mode(log_probs).argmax(-1), log_probs.argmax(-1))


def test_divergence_is_positive_and_zero_for_equals() -> None:
    """Fails where KL has a sign or a sum wrong."""
    p, q = latents.unimix(3 * torch.randn(2, 20, 3, 4, 5)).unbind(0)
    assert (latents.kl_divergence(p, q) > 0).all()
    torch.testing.assert_close(latents.kl_divergence(p, p), torch.zeros(20))
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(logits=p), categorical(logits=q))
    torch.testing.assert_close(latents.kl_divergence(p, q), expected.sum((1, 2)))


def test_capped_logits_keep_their_order_and_a_gradient() -> None:
    """Fails where a saturated code cannot be left any more, or soft ones are changed."""
    soft = torch.randn(5, 4, 8)
    torch.testing.assert_close(latents.capped(soft), soft - soft.mean(-1, keepdim=True))
    sharp = torch.zeros(8).index_fill(0, torch.tensor([2]), 500.0).requires_grad_()
    capped = latents.capped(sharp)
    assert (capped.max() - capped.min()).item() == pytest.approx(latents.WIDEST, rel=1e-4)
    raw = torch.autograd.grad(sharp.softmax(-1)[3], sharp)[0].abs().sum()
    kept = torch.autograd.grad(capped.softmax(-1)[3], sharp)[0].abs().sum()
    assert raw == 0
    assert kept > 0


def test_unmixed_undoes_the_mixing() -> None:
    """Fails where dreams keep the share of uniform noise that is there for gradients."""
    logits = torch.tensor([[3.0, 1.0, -200.0], [0.0, 0.0, 0.0]])
    back = latents.unmixed(latents.unimix(logits)).exp()
    torch.testing.assert_close(back, logits.softmax(-1), rtol=1e-3, atol=1e-6)
    drawn = latents.sample(latents.unmixed(latents.unimix(logits[:1]).expand(20_000, 3)))
    assert drawn[:, 2].sum() < 1
