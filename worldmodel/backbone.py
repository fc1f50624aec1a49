"""A stack of operations. Its pattern is data: a tuple of words such as ("scan:4x4", "attend:10").

    scan        a block-wise scan whose block is the whole frame
    scan:HxW    a block-wise scan with blocks of H x W tokens
    attend:K    frame-local attention over the last K frames, the own one included
    mlp         two linear maps

A layer of the paper (arXiv 2505.20171, section 4) is three such words. Each operation sits in a
residual branch: norm, operation, gate, add.
"""

import re
from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn, ones

from worldmodel.layers import Attend, Mlp, Operation, Scan, Sizes
from worldmodel.types import tree_map

DEFAULT_PATTERN = ("scan", "attend:10", "mlp") * 2


class Backbone(nn.Module):
    """Operations in residual branches, with one carry each.

    Whole sequence, windows with carried state, and one frame at a time give the same numbers.
    """

    def __init__(self, sizes: Sizes, pattern: Sequence[str] = DEFAULT_PATTERN) -> None:
        super().__init__()
        if not pattern:
            raise ValueError("model.layers is empty: name at least one operation, such as 'scan'.")
        _check_heads(sizes)
        self.operations = nn.ModuleList(parse_operation(word, sizes) for word in pattern)
        self.norms = nn.ModuleList(nn.RMSNorm(sizes.width, eps=1e-5) for _ in pattern)
        self.gates = nn.ParameterList(nn.Parameter(ones(sizes.width)) for _ in pattern)
        self.final_norm = nn.RMSNorm(sizes.width, eps=1e-5)

    def initial(self, batch: int) -> tuple[Any, ...]:
        """The carries of a backbone that has seen nothing."""
        return tuple(op.initial(batch) for op in self._operations())

    def forward(
        self,
        x: Float[Tensor, "B T S D"],
        carry: tuple[Any, ...],
        is_first: Bool[Tensor, "B T"],
        every: int | None = None,
    ) -> tuple[Float[Tensor, "B T S D"], tuple[Any, ...], tuple[Any, ...] | None]:
        """Features, the carry after the last frame, and the carries after each `every` frames.

        A record with `is_first` forgets all that was before it. Snapshots are stacked along dim 1
        (T // every of them) and None where `every` is None.
        """
        carries, snapshots = [], []
        none_yet = every is not None and every > x.shape[1]
        parts = zip(self._operations(), self.norms, self.gates, carry, strict=True)
        for op, norm, gate, before in parts:
            y, after, snapshot = op(norm(x), before, is_first, None if none_yet else every)
            snapshot = tree_map(lambda a: a[:, None][:, :0], after) if none_yet else snapshot
            x = x + gate * y
            carries.append(after)
            snapshots.append(snapshot)
        return self.final_norm(x), tuple(carries), tuple(snapshots) if every else None

    def _operations(self) -> list[Operation]:
        return list(self.operations)  # pyright: ignore[reportReturnType]


def parse_operation(word: str, sizes: Sizes) -> Operation:
    """The operation that a word of the pattern names; ValueError where it names none."""
    kind, _, argument = word.partition(":")
    if kind == "scan":
        return Scan(sizes, _parse_block(argument, sizes) if argument else sizes.grid)
    if kind == "attend" and argument.isdecimal() and int(argument) > 0:
        return Attend(sizes, int(argument))
    if word == "mlp":
        return Mlp(sizes)
    raise ValueError(
        f"model.layers: {word!r} names no operation. "
        "Valid: 'scan', 'scan:HxW' (block of H x W tokens), 'attend:K' (K frames), 'mlp'."
    )


def _parse_block(argument: str, sizes: Sizes) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", argument)
    block = (int(match[1]), int(match[2])) if match else (0, 0)
    if 0 in block or sizes.grid[0] % block[0] or sizes.grid[1] % block[1]:
        rows, columns = (_divisors(n) for n in sizes.grid)
        raise ValueError(
            f"model.layers: 'scan:{argument}' does not tile the grid of {sizes.grid[0]} x "
            f"{sizes.grid[1]} tokens. A block is HxW with H in {rows} and W in {columns}."
        )
    return block


def _check_heads(sizes: Sizes) -> None:
    if sizes.width % sizes.head or sizes.head % 2:
        raise ValueError(
            f"model.head = {sizes.head} must be even and divide model.width = {sizes.width}; "
            f"valid: {[n for n in _divisors(sizes.width) if n % 2 == 0]}."
        )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
