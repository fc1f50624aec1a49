"""A stack of operations in residual branches: norm, operation, gate, add.

Its pattern is data, a tuple of words (worldmodel/pattern.py). A layer of the paper (arXiv
2505.20171, section 4) is three such words.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn, ones

from worldmodel.layers import Attend, Clock, Gru, Mlp, Operation, Scan, Sizes
from worldmodel.pattern import divisors, read_pattern
from worldmodel.types import tree_map

OPERATIONS: dict[str, Callable[..., Operation]] = {
    "scan": lambda sizes, *block: Scan(sizes, block),
    "attend": Attend,
    "mlp": Mlp,
    "clock": Clock,
    "gru": Gru,
}


class Backbone(nn.Module):
    """Operations in residual branches, with one carry each.

    Whole sequence, windows with carried state, and one frame at a time give the same numbers.

    Raises:
        ValueError: where a word, a block or the heads do not fit; says what would.
    """

    def __init__(self, sizes: Sizes, layers: Sequence[str]) -> None:
        super().__init__()
        check_head(sizes.head, sizes.width)
        words = read_pattern(layers, sizes.grid)
        self.operations = nn.ModuleList(OPERATIONS[kind](sizes, *args) for kind, args in words)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.width) for _ in words)
        self.gates = nn.ParameterList(nn.Parameter(ones(sizes.width)) for _ in words)
        self.final_norm = nn.LayerNorm(sizes.width)

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


def check_head(head: int, width: int) -> None:
    """Heads must divide the width, in pairs of channels; ValueError names those that do."""
    if width % head or head % 2:
        raise ValueError(
            f"model.head = {head} must be even and divide model.width = {width}; "
            f"valid: {[n for n in divisors(width) if n % 2 == 0]}."
        )
