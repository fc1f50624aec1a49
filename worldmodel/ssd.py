"""The state-space scan in chunks (Mamba-2, arXiv 2405.21060, section 6 and listing 1).

Unusual: the states at every chunk's end are returned, not only the last one, because imagination
starts from them; and resets are exact. A reset splits a sequence into segments, and what belongs
to different segments is masked *before* any exponential is taken, so that no gradient is ever NaN.
All is computed in float32, autocast or not.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ssd(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B L N"],
    C: Float[Tensor, "B L N"],
    state: Float[Tensor, "B H P N"],
    reset: Bool[Tensor, "B L"],
    chunk: int,
) -> tuple[Float[Tensor, "B L H P"], Float[Tensor, "B chunks H P N"]]:
    """Outputs, and the state at the end of every chunk; the last one is the final state.

    Shapes are those of `reference.scan`, whose numbers it gives: dt > 0 is the step after softplus,
    A < 0 the decay rate of each head, `state` what flows in, `reset` the tokens before which the
    state is cleared. L need not be a multiple of `chunk`: the last chunk may be shorter.
    """
    x, dt, A, B, C, state = (a.float() for a in (x, dt, A, B, C, state))
    with torch.autocast(x.device.type, enabled=False):
        if x.shape[1] == 1:
            return _step(x, dt, A, B, C, state, reset)
        return _chunked(x, dt, A, B, C, state, reset, min(chunk, x.shape[1]))


def _chunked(x, dt, A, B, C, state, reset, chunk: int):
    """The four steps of the listing, for all chunks at once."""
    length = x.shape[1]
    segment = reset.cumsum(1)
    if padding := -length % chunk:
        # A padded token has dt = 0: it neither decays the state nor writes to it.
        x, dt, B, C = (_pad_tokens(a, padding) for a in (x, dt, B, C))
        segment = torch.cat([segment, segment[:, -1:].expand(-1, padding)], 1)
    x, dt, B, C = (a.unflatten(1, (-1, chunk)) for a in (x, dt, B, C))
    segment = segment.unflatten(1, (-1, chunk))
    visible = _visible(segment)
    # Sums begin anew at a reset: rounding cannot carry what was before it across.
    log_decay = visible.float() @ (dt * A)
    x = x * dt[..., None]
    within = _within_chunks(x, log_decay, visible, B, C)
    states = chunk_states(x, _decay_to_end(log_decay, visible), B)
    before, after = across_chunks(states, log_decay[:, :, -1], segment, state)
    y = within + _from_carried(before, log_decay, C, segment)
    return rearrange(y, "b c l h p -> b (c l) h p")[:, :length], after


def _step(x, dt, A, B, C, state, reset):
    """The recurrence itself, for a single token: what imagining a vector observation needs."""
    decay = (dt[:, 0] * A).exp() * ~reset
    written = (x * dt[..., None]).flatten(1)[..., None]
    after = (state * decay[..., None, None]).flatten(1, 2).baddbmm_(written, B)
    return (after @ C.mT).view_as(x), after.view_as(state)[:, None]


def _pad_tokens(a: Tensor, padding: int) -> Tensor:
    return F.pad(a, (0, 0) * (a.dim() - 2) + (0, padding))


def _visible(segment: Int[Tensor, "B c l"]) -> Bool[Tensor, "B c l l"]:
    """Which tokens (rows) see which (columns): earlier ones of their own segment."""
    size = segment.shape[-1]
    causal = torch.ones(size, size, dtype=torch.bool, device=segment.device).tril()
    return causal & (segment[..., :, None] == segment[..., None, :])


class _Decayed(torch.autograd.Function):
    """Scores of token pairs, times the decay from the earlier to the later one; 0 if not visible.

    By hand, because these are by far the largest arrays of a scan: autograd goes over them twice
    as often.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Float[Tensor, "B c 1 l l"],
        log_decay: Float[Tensor, "B c H l"],
        visible: Bool[Tensor, "B c 1 l l"],
    ) -> Float[Tensor, "B c H l l"]:
        between = log_decay[..., :, None] - log_decay[..., None, :]
        between.masked_fill_(~visible, -torch.inf).exp_()
        ctx.save_for_backward(scores, between)
        return scores * between

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        scores, between = ctx.saved_tensors
        gradient = gradients[0] * between
        of_scores = gradient.sum(2, keepdim=True)
        gradient *= scores
        return of_scores, gradient.sum(-1) - gradient.sum(-2), None


def _within_chunks(
    x: Float[Tensor, "B c l H P"],
    log_decay: Float[Tensor, "B c l H"],
    visible: Bool[Tensor, "B c l l"],
    B: Float[Tensor, "B c l N"],
    C: Float[Tensor, "B c l N"],
) -> Float[Tensor, "B c l H P"]:
    """Step 1: what tokens of a chunk say to later tokens of the same chunk and segment."""
    scores = (C @ B.mT)[:, :, None]
    decayed: Tensor = _Decayed.apply(scores, log_decay.mT, visible[:, :, None])  # pyright: ignore
    return (decayed @ x.transpose(2, 3).contiguous()).transpose(2, 3)


def _decay_to_end(
    log_decay: Float[Tensor, "B c l H"], visible: Bool[Tensor, "B c l l"]
) -> Float[Tensor, "B c l H"]:
    """Decay from each token to the last one of its chunk; 0 from another segment."""
    exponent = log_decay[:, :, -1:] - log_decay
    return exponent.masked_fill(~visible[:, :, -1, :, None], -torch.inf).exp()


def chunk_states(
    x: Float[Tensor, "B c l H P"],
    to_end: Float[Tensor, "B c l H"],
    B: Float[Tensor, "B c l N"],
) -> Float[Tensor, "B c H P N"]:
    """Step 2: what a chunk leaves behind at its end, were it to start from nothing."""
    states = (x * to_end[..., None]).flatten(3).mT @ B
    return states.unflatten(2, x.shape[3:])


def across_chunks(
    states: Float[Tensor, "B c H P N"],
    log_decay: Float[Tensor, "B c H"],
    segment: Int[Tensor, "B c l"],
    state: Float[Tensor, "B H P N"],
) -> tuple[Float[Tensor, "B c H P N"], Float[Tensor, "B c H P N"]]:
    """Step 3: the state before and after each chunk; `log_decay` is that of whole chunks."""
    unbroken = segment[:, :, -1] == F.pad(segment[:, :-1, -1], (1, 0))
    decay = (log_decay.exp() * unbroken[..., None])[..., None, None]
    carried = [state]
    # Unbound, not indexed: the gradient of each index would be an array of all chunks.
    for decayed, added in zip(decay.unbind(1), states.unbind(1), strict=True):
        carried.append(carried[-1] * decayed + added)
    return torch.stack(carried[:-1], 1), torch.stack(carried[1:], 1)


def _from_carried(
    before: Float[Tensor, "B c H P N"],
    log_decay: Float[Tensor, "B c l H"],
    C: Float[Tensor, "B c l N"],
    segment: Int[Tensor, "B c l"],
) -> Float[Tensor, "B c l H P"]:
    """Step 4: what the state before a chunk says to the tokens of its first segment."""
    previous = F.pad(segment[:, :-1, -1], (1, 0))
    decay = log_decay.exp() * (segment == previous[..., None])[..., None]
    y = C @ before.flatten(2, 3).mT
    return y.unflatten(3, before.shape[2:4]) * decay[..., None]
