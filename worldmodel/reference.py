"""The naive forms: slow and obvious, one step of the maths at a time. Only tests use them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def scan(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B L N"],
    C: Float[Tensor, "B L N"],
    state: Float[Tensor, "B H P N"],
    reset: Bool[Tensor, "B L"],
) -> tuple[Float[Tensor, "B L H P"], Float[Tensor, "B H P N"]]:
    """State-space recurrence token by token (Mamba-2, arXiv 2405.21060, eq. 1 and section 6).

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,  y_t = h_t C_t;  h_{t-1} is zero where `reset`.
    """
    outputs = []
    for t in range(x.shape[1]):
        state = state * (~reset[:, t])[:, None, None, None]
        decay = torch.exp(dt[:, t] * A)
        write = torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], B[:, t])
        state = decay[..., None, None] * state + write
        outputs.append(torch.einsum("bhpn,bn->bhp", state, C[:, t]))
    return torch.stack(outputs, 1), state


def attention(
    q: Float[Tensor, "B T S heads c"],
    k: Float[Tensor, "B T S heads c"],
    v: Float[Tensor, "B T S heads c"],
    frames: int,
    is_first: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T S heads c"]:
    """Frame-local attention frame by frame: own frame both ways, back over `frames` frames.

    A frame sees nothing older than the last record marked `is_first`.
    """
    output = torch.zeros_like(v)
    for b in range(q.shape[0]):
        start = 0
        for t in range(q.shape[1]):
            start = t if is_first[b, t] else start
            past = slice(max(start, t - frames + 1), t + 1)
            keys, values = k[b, past].flatten(0, 1), v[b, past].flatten(0, 1)
            scores = torch.einsum("qhc,khc->hqk", q[b, t], keys) / q.shape[-1] ** 0.5
            output[b, t] = torch.einsum("hqk,khc->qhc", scores.softmax(-1), values)
    return output


def causal_convolution(
    x: Float[Tensor, "B L c"],
    weight: Float[Tensor, "c 1 W"],
    bias: Float[Tensor, " c"],
    reset: Bool[Tensor, "B L"],
) -> Float[Tensor, "B L c"]:
    """Depthwise causal convolution token by token; nothing crosses a `reset`."""
    output = []
    for b in range(x.shape[0]):
        start, row = 0, []
        for t in range(x.shape[1]):
            start = t if reset[b, t] else start
            taps = [
                (t - i, weight[:, 0, -1 - i]) for i in range(weight.shape[-1]) if t - i >= start
            ]
            row.append(bias + sum(x[b, s] * w for s, w in taps))
        output.append(torch.stack(row))
    return torch.stack(output)
