"""The operations of a backbone: block-wise scan, frame-local attention, MLP; clock and GRU.

Every operation is one call for any number of frames: `op(x, carry, is_first, every)` gives the
output, the carry after the last frame, and, where `every` is set, the carries after each `every`
frames (stacked along dim 1), from which imagination starts without computing anything again.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.attention import local_attention
from worldmodel.kernel import choose, scan
from worldmodel.types import AttendCarry, ClockCarry, GruCarry, ScanCarry


@dataclass(frozen=True)
class Sizes:
    """Sizes that all operations of a backbone share."""

    grid: tuple[int, int]  # rows and columns of tokens of one frame
    width: int  # D
    head: int  # channels of a head, in the scan and in attention
    state: int  # N, state size of a scan's channel
    expand: int = 2  # inner width of scan and MLP, in widths
    sharp: bool = False  # whether scans begin as memories of single tokens

    @property
    def tokens(self) -> int:
        """S, tokens of one frame."""
        return self.grid[0] * self.grid[1]


class Operation(nn.Module):
    """What a backbone is made of."""

    def initial(self, batch: int) -> Any:
        """The carry before anything was seen."""
        return ()

    def forward(
        self,
        x: Float[Tensor, "B T S D"],
        carry: Any,
        is_first: Bool[Tensor, "B T"],
        every: int | None = None,
    ) -> tuple[Float[Tensor, "B T S D"], Any, Any]:
        """Output, carry after the last frame, carries after each `every` frames (or None)."""
        raise NotImplementedError


class Mlp(Operation):
    """Two linear maps with a SiLU between them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.up = nn.Linear(sizes.width, sizes.expand * sizes.width)
        self.down = nn.Linear(sizes.expand * sizes.width, sizes.width)

    def forward(self, x, carry, is_first, every=None):
        return self.down(F.silu(self.up(x))), carry, ()


class Attend(Operation):
    """Frame-local attention over the last `frames` frames with a rolling key/value cache."""

    def __init__(self, sizes: Sizes, frames: int) -> None:
        super().__init__()
        self.past = frames - 1
        self.shape = (sizes.tokens, sizes.width // sizes.head, sizes.head)
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)

    def initial(self, batch: int) -> AttendCarry:
        """An empty cache."""
        device = self.out.weight.device
        empty = torch.zeros(batch, self.past, *self.shape, device=device)
        return AttendCarry(
            empty, empty, torch.zeros(batch, self.past, dtype=torch.bool, device=device)
        )

    def forward(self, x, carry, is_first, every=None):
        q, k, v = rearrange(self.qkv(x), "b t s (n h c) -> n b t s h c", n=3, c=self.shape[-1])
        seen = self._extend(carry, k, v, is_first)
        y = local_attention(q, *seen)
        final = self._carries(seen, x.shape[1], x.shape[1])
        snapshots = self._carries(seen, every, every) if every else None
        final = AttendCarry(*(a[:, 0] for a in final))
        return self.out(rearrange(y, "b t s h c -> b t s (h c)")), final, snapshots

    def _extend(self, carry, k, v, is_first):
        """Carried and new keys and values, with the segment of each frame (-1: not there)."""
        segment = torch.cat([torch.where(carry.valid, 0, -1), is_first.cumsum(1)], 1)
        return torch.cat([carry.keys, k], 1), torch.cat([carry.values, v], 1), segment

    def _carries(self, seen, start: int, every: int) -> AttendCarry:
        """The caches after `start`, `start + every`, … frames."""
        keys, values, segment = seen
        now = segment[:, self.past + start - 1 :: every]
        keys, values, segment = (
            a[:, start:].unfold(1, self.past, every).movedim(-1, 2) for a in (keys, values, segment)
        )
        return AttendCarry(keys, values, segment == now[..., None])


class Scan(Operation):
    """Block-wise Mamba-2: one independent scan, and one state, for each block of a frame's tokens.

    Parameters have the names and the layout of `mamba_ssm.Mamba2` (one group). Decays start slow:
    A = -1 and dt log-uniform in [1e-4, 1e-1], so that some heads remember for thousands of tokens
    from the first update on.
    """

    body = "auto"  # which code computes it, one of kernel.BODIES; `use_scan` sets it

    def __init__(self, sizes: Sizes, block: tuple[int, int], conv: int = 4) -> None:
        super().__init__()
        self.grid, self.block = sizes.grid, block
        inner = sizes.expand * sizes.width
        self.heads, self.channels, self.state = inner // sizes.head, sizes.head, sizes.state
        self.chunk = max(32, 2 * sizes.head)  # tokens; the fastest, as measured on CPUs
        mixed = inner + 2 * sizes.state
        self.split = [inner, mixed, self.heads]
        self.in_proj = nn.Linear(sizes.width, sum(self.split), bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, conv, groups=mixed)
        dt = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-4), math.log(1e-1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, sizes.width, bias=False)
        if sizes.sharp:
            self._sharpen()

    @torch.no_grad()
    def _sharpen(self) -> None:
        """Begin with keys that are not blurred, written strongly, and kept long by most heads.

        The usual convolution mixes four tokens at random, and with A = -1 what is kept for long is
        written faintly. Both hide, at first, that a key seen before can be found again.
        """
        self.conv1d.weight.mul_(0.1)[..., -1] = 1.0
        assert self.conv1d.bias is not None
        self.conv1d.bias.zero_()
        self.A_log.copy_(torch.linspace(math.log(1e-3), 0.0, self.heads))
        dt = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-2), math.log(1e-1)))
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    @property
    def blocks(self) -> int:
        """Blocks of a frame."""
        return math.prod(self.grid) // math.prod(self.block)

    def initial(self, batch: int) -> ScanCarry:
        """Empty states and convolution tails."""
        tail = (batch, self.blocks, self.conv1d.kernel_size[0] - 1, self.split[1])
        state = (batch, self.blocks, self.heads, self.channels, self.state)
        device = self.A_log.device
        return ScanCarry(torch.zeros(tail, device=device), torch.zeros(state, device=device))

    def forward(self, x, carry, is_first, every=None):
        batch, frames, tokens = len(x), x.shape[1], math.prod(self.block)
        carry = ScanCarry(*(a.flatten(0, 1) for a in carry))
        reset = self._reset(is_first)
        z, mixed, dt = self.in_proj(self._fold(x)).split(self.split, -1)
        mixed, tails = self._convolve(mixed, carry.tail, reset)
        heads, B, C = mixed.split([self.split[0], self.state, self.state], -1)
        heads = rearrange(heads, "b l (h p) -> b l h p", p=self.channels)
        body = choose(self.body, x.device)
        # The kernel cuts its chunks itself: ours are only where its states are wanted.
        most = max(1, self.chunk // tokens) if body == "torch" else frames
        stride = _chunk_frames(frames, every, most)
        y, states = scan(
            body,
            heads,
            F.softplus(dt + self.dt_bias),
            -torch.exp(self.A_log),
            B,
            C,
            carry.state,
            reset,
            chunk=stride * tokens,
        )
        y = (y + heads * self.D[:, None]).flatten(2).to(x.dtype)
        y = self._unfold(self.out_proj(self.norm(y * F.silu(z))), batch)

        def carries(start: int, step: int) -> ScanCarry:
            """Carries after `start`, `start + step`, … frames."""
            ends = slice((start - 1) // stride, None, max(1, step // stride))
            parts = tails(start * tokens, step * tokens), states[:, ends][:, : frames // step]
            return ScanCarry(*(_split_blocks(a, batch) for a in parts))

        final = ScanCarry(*(a[:, 0] for a in carries(frames, frames)))
        return y, final, carries(every, every) if every else None

    def _fold(self, x: Float[Tensor, "B T S D"]) -> Float[Tensor, "Bn L D"]:
        """Each block's tokens as one sequence: raster order inside a frame, then time."""
        return rearrange(
            x,
            "b t (nh bh nw bw) d -> (b nh nw) (t bh bw) d",
            nh=self.grid[0] // self.block[0],
            bh=self.block[0],
            bw=self.block[1],
        )

    def _unfold(self, y: Float[Tensor, "Bn L D"], batch: int) -> Float[Tensor, "B T S D"]:
        return rearrange(
            y,
            "(b nh nw) (t bh bw) d -> b t (nh bh nw bw) d",
            b=batch,
            nh=self.grid[0] // self.block[0],
            bh=self.block[0],
            bw=self.block[1],
        )

    def _reset(self, is_first: Bool[Tensor, "B T"]) -> Bool[Tensor, "Bn L"]:
        """A reset clears each block's state before the frame's first token."""
        later = torch.zeros_like(is_first)[..., None].expand(-1, -1, math.prod(self.block) - 1)
        reset = torch.cat([is_first[..., None], later], -1).flatten(1)
        return repeat(reset, "b l -> (b n) l", n=self.blocks)

    def _convolve(self, x, tail, reset):
        """Causal depthwise convolution that crosses no reset, and the tails after n tokens."""
        width, length = self.conv1d.kernel_size[0], x.shape[1]
        if length == 1:
            return self._convolve_one(x, tail, reset)
        x = torch.cat([tail.to(x.dtype), x], 1)
        segment = F.pad(reset.cumsum(1), (width - 1, 0))
        y = self.conv1d(x.mT).mT
        row, at = (segment[:, :length] != segment[:, width - 1 :]).nonzero(as_tuple=True)
        if len(row):  # a reset lies inside the kernel: once more, without what was before it
            row, taps = row[:, None], at[:, None] + torch.arange(width, device=x.device)
            own = segment[row, taps] == segment[row, taps[:, -1:]]
            again = self.conv1d((x[row, taps] * own[..., None]).mT)
            y = y.index_put((row[:, 0], at), again[..., 0])

        def tails(start: int, step: int) -> Tensor:
            """The last inputs after `start`, `start + step`, … tokens, without other segments'."""
            now = segment[:, width - 2 + start :: step]
            last, same = (
                a[:, start:].unfold(1, width - 1, step).movedim(-1, 2) for a in (x, segment)
            )
            return last * (same == now[..., None])[..., None]

        return F.silu(y), tails

    def _convolve_one(self, x, tail, reset):
        """The same of a single token: a sum over the taps, several times as fast as `conv1d`."""
        x = torch.cat([(tail * ~reset[..., None]).to(x.dtype), x], 1)
        assert self.conv1d.bias is not None
        y = (x * self.conv1d.weight[:, 0].T).sum(1, keepdim=True) + self.conv1d.bias
        return F.silu(y), lambda start, step: x[:, None, 1:]


def use_scan(model: nn.Module, body: str) -> None:
    """Compute every scan of a model by this body, one of kernel.BODIES."""
    for part in model.modules():
        if isinstance(part, Scan):
            part.body = body


class Clock(Operation):
    """Frames since the episode began, as sinusoids (Vaswani et al. 2017, section 3.5).

    Attention alone does not know what came when; where no scan tells it, this does.
    """

    rates: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        half = sizes.width // 2
        rates = 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("rates", rates, persistent=False)

    def initial(self, batch: int) -> ClockCarry:
        """Nothing counted yet."""
        return ClockCarry(torch.zeros(batch, dtype=torch.long, device=self.rates.device))

    def forward(self, x, carry, is_first, every=None):
        time = torch.arange(x.shape[1], device=x.device)
        began = torch.where(is_first, time, -carry.frames[:, None]).cummax(1).values
        phase = (time - began)[..., None, None] * self.rates
        y = torch.cat([phase.sin(), phase.cos()], -1).to(x.dtype).expand_as(x)
        counts = time - began + 1
        snapshots = ClockCarry(counts[:, every - 1 :: every]) if every else None
        return y, ClockCarry(counts[:, -1]), snapshots


class Gru(Operation):
    """A gated recurrent unit at every token's place, one frame after the other."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tokens = sizes.tokens
        self.cell = nn.GRUCell(sizes.width, sizes.width)

    def initial(self, batch: int) -> GruCarry:
        """States of zero."""
        weight = self.cell.weight_hh
        return GruCarry(weight.new_zeros(batch, self.tokens, weight.shape[1]))

    def forward(self, x, carry, is_first, every=None):
        state, states = carry.state, []
        keep = (~is_first)[..., None, None].to(x.dtype)
        for frame, kept in zip(x.unbind(1), keep.unbind(1), strict=True):
            state = self.cell(frame.flatten(0, 1), (state * kept).flatten(0, 1)).view_as(frame)
            states.append(state)
        y = torch.stack(states, 1)
        return y, GruCarry(state), GruCarry(y[:, every - 1 :: every]) if every else None


def _split_blocks(a: Float[Tensor, "Bn c ..."], batch: int) -> Float[Tensor, "B c n ..."]:
    return a.unflatten(0, (batch, -1)).transpose(1, 2)


def _chunk_frames(frames: int, every: int | None, most: int) -> int:
    """Frames of a scan's chunk: as many as fit, and such that chunks end at each `every` frames."""
    if every is None:
        return min(frames, most)
    return next(n for n in range(min(every, most), 0, -1) if every % n == 0)
