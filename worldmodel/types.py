"""Named arrays, the carry, and one legend of letters for the whole package.

Legend, as used in shapes everywhere:

    B  rows of a batch            S  tokens of one frame        H  heads of a scan
    T  frames (records) in time   D  width of a token           P  channels of a head
    L  tokens of one sequence     I  inner width, H x P         N  state size of a channel
    K  categoricals of a token    C  classes of a categorical   W  width of a convolution

A carry is a tree of named tuples whose leaves are tensors with the batch in front. It is a value:
nothing mutates it, and `tree_map` is all that is needed to index, detach, stack or move it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Records(NamedTuple):
    """Records of B rows and T frames, as they come from replay."""

    observation: dict[str, Tensor]
    prev_action: Tensor
    reward: Float[Tensor, "B T"]
    is_first: Bool[Tensor, "B T"]
    is_terminal: Bool[Tensor, "B T"]


class ScanCarry(NamedTuple):
    """What a block-wise scan keeps: the convolution's tail and the state, one of each a block."""

    tail: Float[Tensor, "*batch blocks W channels"]
    state: Float[Tensor, "*batch blocks H P N"]


class AttendCarry(NamedTuple):
    """What frame-local attention keeps: keys and values of the last frames, and which exist."""

    keys: Float[Tensor, "*batch past S heads channels"]
    values: Float[Tensor, "*batch past S heads channels"]
    valid: Bool[Tensor, "*batch past"]


class ClockCarry(NamedTuple):
    """Frames seen since the episode began."""

    frames: Int[Tensor, "*batch"]


class GruCarry(NamedTuple):
    """What a gated recurrent unit keeps."""

    state: Float[Tensor, "*batch S D"]


class Carry(NamedTuple):
    """All that the model knows after a record: a carry for each operation, and its features."""

    backbone: tuple[Any, ...]
    features: Float[Tensor, "*batch S D"]


def tree_map(fn: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply `fn` leaf by leaf to trees of tuples that have the same shape."""
    first = trees[0]
    if isinstance(first, Tensor):
        return fn(*trees)
    children = [tree_map(fn, *parts) for parts in zip(*trees, strict=True)]
    return type(first)(*children) if hasattr(first, "_fields") else tuple(children)


def tree_where(rows: Bool[Tensor, " B"], tree: Any, other: Any) -> Any:
    """The rows of one tree, and the remaining ones of another."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (a.dim() - 1)), a, b)

    return tree_map(choose, tree, other)


def tree_leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for child in tree for leaf in tree_leaves(child)]


def tree_unflatten(like: Any, leaves: list[Tensor]) -> Any:
    """The tree shaped as `like` whose leaves, in the order of `tree_leaves`, are `leaves`."""
    remaining = iter(leaves)
    return tree_map(lambda _: next(remaining), like)
