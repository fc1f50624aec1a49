"""Frame-local attention: both ways inside a frame, and back over the last k frames.

Unusual: frames, not tokens, are the unit of time. Queries are worked off in groups of frames, each
group beside the k - 1 frames before it, so that cost and memory grow linearly with T. There is no
position embedding in time: the scan before each attention tells frames apart, as in Jamba
(arXiv 2403.19887), or a clock does, and what is cached never has to be touched again.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Queries of a group. Where the past is short, small groups mask little; where it is long, a group's
# mask and its scores must stay small.
SHORT, LONG = 64, 1024


def local_attention(
    q: Float[Tensor, "B T S heads c"],
    keys: Float[Tensor, "B pT S heads c"],
    values: Float[Tensor, "B pT S heads c"],
    segment: Int[Tensor, "B pT"],
) -> Float[Tensor, "B T S heads c"]:
    """Attention of every frame to itself and to the p frames before it, of its own segment.

    Keys and values begin with p carried frames. `segment` numbers what belongs together, episode
    by episode, and is negative for a carried frame that does not exist.
    """
    frames, tokens = q.shape[1:3]
    if frames == tokens == 1 and keys.shape[1] <= SHORT:
        return _one_query(q, keys, values, segment)
    past = keys.shape[1] - frames
    group = max(1, min(frames, LONG // tokens))
    if past <= group:
        group = min(group, max(past // 2, SHORT // tokens))
        return _all_groups(q, keys, values, segment, max(1, group))
    oldest = int((segment[:, :past] >= 0).any(0).sum())  # what no row has yet costs nothing
    parts = []
    for start in range(0, frames, group):
        stop = min(start + group, frames)
        seen = slice(max(start, past - oldest), past + stop)
        columns = (keys[:, seen], values[:, seen], segment[:, seen])
        parts.append(_one_group(q[:, start:stop], *columns, past))
    return torch.cat(parts, 1)


def _one_query(q, keys, values, segment) -> Float[Tensor, "B 1 1 heads c"]:
    """A single token beside its past: there, products of small matrices take longer than sums."""
    scores = (keys * q).sum(-1) / math.sqrt(q.shape[-1])
    visible = (segment == segment[:, -1:])[..., None, None]
    weights = scores.masked_fill(~visible, -torch.inf).softmax(1)
    return (values * weights[..., None]).sum(1, keepdim=True)


def _all_groups(q, keys, values, segment, group: int) -> Float[Tensor, "B T S heads c"]:
    """Short pasts: groups of frames, each beside the frames before it, as rows of one batch."""
    rows, frames, past = len(q), q.shape[1], keys.shape[1] - q.shape[1]
    if padding := -frames % group:
        q, keys, values = (F.pad(a, (0, 0, 0, 0, 0, 0, 0, padding)) for a in (q, keys, values))
        segment = F.pad(segment, (0, padding), value=-2)
    q = rearrange(q, "b (n g) s h c -> (b n) g s h c", g=group)
    keys, values, segment = (
        a.unfold(1, group + past, group).movedim(-1, 2).flatten(0, 1)
        for a in (keys, values, segment)
    )
    out = _one_group(q, keys, values, segment, past)
    return rearrange(out, "(b n) g s h c -> b (n g) s h c", b=rows)[:, :frames]


def _one_group(q, keys, values, segment, past: int) -> Float[Tensor, "B g S heads c"]:
    """Attention of the last g of the given frames to those of their segment, `past` back."""
    group, tokens = q.shape[1:3]
    columns = torch.arange(segment.shape[1], device=q.device)
    age = columns[-group:, None] - columns
    near = (age >= 0) & (age <= past)
    visible = (segment[:, -group:, None] == segment[:, None]) & near
    if tokens > 1:
        visible = visible.repeat_interleave(tokens, 1).repeat_interleave(tokens, 2)
    q, keys, values = (rearrange(a, "b t s h c -> b h (t s) c") for a in (q, keys, values))
    out = attend(q, keys, values, visible[:, None])
    return rearrange(out, "b h (t s) c -> b t s h c", s=tokens)


def attend(
    q: Float[Tensor, "*n L c"],
    keys: Float[Tensor, "*n M c"],
    values: Float[Tensor, "*n M c"],
    mask: Bool[Tensor, "... L M"] | None = None,
) -> Float[Tensor, "*n L c"]:
    """Attention, in float32 on a CPU: in bfloat16 its backward pass takes five times as long."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        q, keys, values = q.float(), keys.float(), values.float()
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
