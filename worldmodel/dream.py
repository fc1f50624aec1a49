"""The world model on its own: from any carry on, frame after frame, at constant memory.

Nothing is kept of frames that were handed out, so a dream may go on for as long as one likes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.model import WorldModel
from worldmodel.types import Carry

Policy = Callable[[Tensor], Tensor]


class Dreamed(NamedTuple):
    """One dreamed record, the (encoded) action that led to it, and what is known after it."""

    action: Float[Tensor, "B A"]
    latents: Float[Tensor, "B S K C"]
    carry: Carry


def dream(
    model: WorldModel,
    carry: Carry,
    actions: Policy | Iterable[Tensor],
    deterministic: bool = False,
    forget: bool = False,
) -> Iterator[Dreamed]:
    """Dream on from a carry, as long as there are actions; with a policy there always are.

    `actions` are in the units of the action space, (B, ...) each; a policy takes features
    (B, S, D) and gives encoded actions (B, A). `model.decode` turns latents into observations, and
    `model.outcome` tells what features bring.
    With `forget` each record is all that is known after it: the same dream with memory off.
    """
    given = None if callable(actions) else iter(actions)
    while True:
        if given is None:
            action = actions(carry.features)  # pyright: ignore[reportCallIssue]
        elif (raw := next(given, None)) is not None:
            action = model.actions.encode(raw)
        else:
            return
        with torch.no_grad():
            # Boxes end at ±1 in reality, so they do in the dream; the policy's own sample is told.
            step = model.imagine_step(carry, action.clamp(-1, 1), deterministic, forget)
        latents, carry = step
        yield Dreamed(action, latents, carry)


def frame_quality(
    truth: Float[Tensor, "n H W c"], frames: Float[Tensor, "n H W c"], scale: float
) -> dict[str, Tensor]:
    """PSNR in dB and SSIM of each frame, for pictures whose values span `scale`.

    By torchmetrics, with its defaults: a Gaussian window of 11 x 11 pixels, sigma 1.5 (Wang et al.
    2004). A perfect frame has an infinite PSNR.

    Raises:
        ValueError: where pictures are smaller than SSIM's window.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    if min(truth.shape[1:3]) < 11:
        raise ValueError(
            f"SSIM compares windows of 11 x 11 pixels; the pictures are {tuple(truth.shape[1:3])}."
        )
    truth, frames = (a.float().movedim(-1, 1) for a in (truth, frames))
    psnr = peak_signal_noise_ratio(frames, truth, data_range=scale, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(frames, truth, data_range=scale, reduction="none")
    assert isinstance(ssim, Tensor)
    return {"psnr": psnr, "ssim": ssim}
