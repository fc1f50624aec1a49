"""Frame-local attention: both ways inside a frame, and back over the last k frames.

Unusual: frames, not tokens, are the unit of time. Queries are worked off in groups of frames, each
group beside the k - 1 frames before it, so that cost and memory grow linearly with T. There is no
position embedding in time: the scan before each attention tells frames apart, as in Jamba
(arXiv 2403.19887), and what is cached never has to be touched again.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.types import AttendCarry


def local_attention(
    q: Float[Tensor, "B T S heads c"],
    k: Float[Tensor, "B T S heads c"],
    v: Float[Tensor, "B T S heads c"],
    carry: AttendCarry,
    is_first: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T S heads c"]:
    """Attention of every frame to itself and to the frames that `carry` has room for.

    Frames before the last record marked `is_first` are not seen.
    """
    past, frames = carry.valid.shape[1], q.shape[1]
    group = min(frames, max(past, 1))
    padding = -frames % group
    keys, values = torch.cat([carry.keys, k], 1), torch.cat([carry.values, v], 1)
    if padding:
        q, keys, values = (F.pad(a, (0, 0, 0, 0, 0, 0, 0, padding)) for a in (q, keys, values))
    q = rearrange(q, "b (n g) s h c -> (b n) h (g s) c", g=group)
    keys, values = (
        rearrange(a.unfold(1, group + past, group), "b n s h c g -> (b n) h (g s) c")
        for a in (keys, values)
    )
    visible = _visible(carry.valid, is_first, group, padding)
    if (tokens := v.shape[2]) > 1:
        visible = visible.repeat_interleave(tokens, 1).repeat_interleave(tokens, 2)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible[:, None])
    out = rearrange(out, "(b n) h (g s) c -> b (n g) s h c", b=v.shape[0], g=group)
    return out[:, :frames]


def _visible(
    valid: Bool[Tensor, "B past"], is_first: Bool[Tensor, "B T"], group: int, padding: int
) -> Bool[Tensor, "Bn g gp"]:
    """Which frames of a group (rows) see which of its own and the earlier frames (columns)."""
    past = valid.shape[1]
    segment = F.pad(is_first, (0, padding)).cumsum(1)
    # A carried frame belongs to segment 0; one that does not exist belongs to none.
    earlier = torch.where(valid, 0, -1)
    columns = torch.cat([earlier, segment], 1).unfold(1, group + past, group)
    rows = rearrange(segment, "b (n g) -> b n g 1", g=group)
    age = torch.arange(group, device=valid.device)[:, None] + past
    age = age - torch.arange(group + past, device=valid.device)
    near = (age >= 0) & (age <= past)
    return ((rows == columns[:, :, None]) & near).flatten(0, 1)
