"""Categorical token latents: sampling with straight-through gradients, and their divergence.

A distribution is a tensor of normalised log-probabilities with the classes last, already mixed
with 1 % uniform ("unimix", DreamerV3, arXiv 2301.04104), so every class keeps a gradient and
no divergence is infinite.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

UNIMIX = 0.01
WIDEST = 8.0


def unimix(logits: Float[Tensor, "*n C"], share: float = UNIMIX) -> Float[Tensor, "*n C"]:
    """Log-probabilities of softmax(logits), mixed with a `share` of the uniform distribution."""
    log_probs = logits.float().log_softmax(-1)
    uniform = math.log(share / logits.shape[-1])
    return torch.logaddexp(log_probs + math.log1p(-share), torch.full_like(log_probs, uniform))


def capped(logits: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
    """Logits of which the largest stands out by at most `WIDEST`; others are left as they are.

    A saturated softmax has no gradient: two rare frames that fell into the same code would stay
    there. Scaled down instead of squashed, logits can always turn.
    """
    classes = logits.shape[-1]
    most = WIDEST * math.sqrt(classes - 1) / classes  # root mean square of one class standing out
    centred = logits - logits.mean(-1, keepdim=True)
    size = centred.square().mean(-1, keepdim=True).clamp(min=1e-12).sqrt()
    return centred * (most / size).clamp(max=1.0)


def unmixed(log_probs: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
    """What `unimix` mixed: log-probabilities without the uniform share, tiny where none is left.

    The share is there for gradients. Dreamed frame after frame, it would put a class at random into
    one of a few frames, and long dreams would leave what can be.
    """
    share = UNIMIX / log_probs.shape[-1]
    return ((log_probs.exp() - share) / (1 - UNIMIX)).clamp(min=1e-30).log()


def sample(log_probs: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
    """A one-hot sample whose gradient is that of the probabilities (straight-through)."""
    probs = log_probs.exp()
    # Gumbel-max: several times faster on a CPU than torch.multinomial.
    noise = -torch.empty_like(probs).exponential_().log()
    return _straight_through((log_probs + noise).argmax(-1), probs)


def mode(log_probs: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
    """The likeliest class as a one-hot, with straight-through gradient."""
    return _straight_through(log_probs.argmax(-1), log_probs.exp())


def _straight_through(index: Tensor, probs: Tensor) -> Tensor:
    hard = F.one_hot(index, probs.shape[-1]).to(probs.dtype)
    return hard + probs - probs.detach() if torch.is_grad_enabled() else hard


def kl_divergence(
    p: Float[Tensor, "*n S K C"], q: Float[Tensor, "*n S K C"]
) -> Float[Tensor, "*n"]:
    """KL(p ‖ q) in nats, summed over the tokens and the categoricals of a frame."""
    return (p.exp() * (p - q)).sum((-3, -2, -1))
