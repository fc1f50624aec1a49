"""The scan by mamba-ssm's Triton kernel, and the choice between it and `ssd`.

Unusual: mamba-ssm is optional, needs CUDA, and its import fails in many ways. It is imported when
it is first asked for, never with this module, and what that import raised is kept. Triton
multiplies float32 matrices in TF32 where the hardware can (about three digits), unless the
environment says TRITON_F32_DEFAULT=ieee; where it says nothing, we make it say so.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.ssd import across_chunks, chunk_states, ssd

BODIES = ("auto", "torch", "mamba-ssm")
MODULE = "mamba_ssm.ops.triton.ssd_combined"
MOST_CHUNK = 256  # the kernel's own chunk, as in mamba_ssm.Mamba2
LEAST_CHUNK = 16  # what a matrix product of Triton takes at least


def scan(
    body: str,
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B L N"],
    C: Float[Tensor, "B L N"],
    state: Float[Tensor, "B H P N"],
    reset: Bool[Tensor, "B L"],
    chunk: int,
) -> tuple[Float[Tensor, "B L H P"], Float[Tensor, "B chunks H P N"]]:
    """`ssd` by the body of that name; a single token is the recurrence in torch in any case."""
    single = x.shape[1] == 1
    compute = ssd if single or choose(body, x.device) == "torch" else mamba_ssd
    return compute(x, dt, A, B, C, state, reset, chunk)


def choose(body: str, device: torch.device) -> str:
    """The body that a name stands for on a device: "auto" is mamba-ssm where it can run."""
    if body != "auto":
        return body
    return "torch" if kernel_error(device) else "mamba-ssm"


def kernel_error(device: torch.device) -> str | None:
    """Why mamba-ssm cannot run on a device, in the words of its import; None where it can."""
    if device.type != "cuda":
        return f"it needs a CUDA device, and the device is {device}"
    return _import_error()


@cache
def _import_error() -> str | None:
    try:
        _kernel()
    except Exception as error:  # a half-built extension raises what it likes
        return f"{type(error).__name__}: {error}"
    return None


def _kernel() -> Callable[..., Any]:
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    return import_module(MODULE).mamba_chunk_scan_combined


def mamba_ssd(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B L N"],
    C: Float[Tensor, "B L N"],
    state: Float[Tensor, "B H P N"],
    reset: Bool[Tensor, "B L"],
    chunk: int,
) -> tuple[Float[Tensor, "B L H P"], Float[Tensor, "B chunks H P N"]]:
    """What `ssd` returns: outputs and the final state by the kernel, states before it in torch.

    `chunk` is only how far the states that are returned lie apart; the kernel has chunks of its
    own. It knows resets as ids that never decrease, and gives the incoming state to id 0.
    """
    x, dt, A, B, C, state = (a.float() for a in (x, dt, A, B, C, state))
    with torch.autocast(x.device.type, enabled=False):
        y, final = _kernel()(
            x,
            dt,
            A,
            B[:, :, None],
            C[:, :, None],
            chunk_size=_kernel_chunk(x.shape[1]),
            initial_states=state,
            seq_idx=reset.cumsum(1, dtype=torch.int32),
            return_final_states=True,
        )
        before_last = (x.shape[1] - 1) // chunk * chunk
        if not before_last:
            return y, final[:, None]
        x, dt, B, reset = (a[:, :before_last] for a in (x, dt, B, reset))
        earlier = _states_at_ends(x, dt, A, B, state, reset, chunk)
    return y, torch.cat([earlier, final[:, None]], 1)


def _kernel_chunk(length: int) -> int:
    """The smallest power of two that holds all tokens, within what the kernel takes."""
    return min(MOST_CHUNK, max(LEAST_CHUNK, 1 << (length - 1).bit_length()))


def _states_at_ends(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B: Float[Tensor, "B L N"],
    state: Float[Tensor, "B H P N"],
    reset: Bool[Tensor, "B L"],
    chunk: int,
) -> Float[Tensor, "B chunks H P N"]:
    """The state after each `chunk` tokens: steps 2 and 3 of `ssd`, at a cost linear in L."""
    written, exponent, B, segment = (
        a.unflatten(1, (-1, chunk)) for a in (x * dt[..., None], dt * A, B, reset.cumsum(1))
    )
    # From the end, so that rounding carries nothing from older segments into the last one.
    from_token = exponent.flip(2).cumsum(2).flip(2)
    after_token = F.pad(from_token[:, :, 1:], (0, 0, 0, 1))
    last_segment = (segment == segment[:, :, -1:])[..., None]
    to_end = after_token.masked_fill(~last_segment, -torch.inf).exp()
    states = chunk_states(written, to_end, B)
    return across_chunks(states, from_token[:, :, 0], segment, state)[1]
