"""Frame-local attention beside the naive one."""

import pytest
import torch
from torch import Tensor

from worldmodel import reference
from worldmodel.attention import local_attention
from worldmodel.layers import Attend, Sizes
from worldmodel.types import AttendCarry

ROWS, HEADS, CHANNELS = 2, 2, 4


def qkv(frames: int, tokens: int) -> list[Tensor]:
    shape = (ROWS, frames, tokens, HEADS, CHANNELS)
    return [torch.randn(shape, requires_grad=True) for _ in range(3)]


def empty_carry(span: int, tokens: int) -> AttendCarry:
    """A cache for `span` frames that holds garbage but says that nothing is valid."""
    garbage = torch.full((ROWS, span - 1, tokens, HEADS, CHANNELS), 7.0)
    return AttendCarry(garbage, garbage, torch.zeros(ROWS, span - 1, dtype=torch.bool))


def attend(q: Tensor, k: Tensor, v: Tensor, carry: AttendCarry, is_first: Tensor) -> Tensor:
    """Attention behind a cache, as the layer puts them together."""
    sizes = Sizes((1, q.shape[2]), HEADS * CHANNELS, CHANNELS, 4)
    layer = Attend(sizes, carry.valid.shape[1] + 1)
    return local_attention(q, *layer._extend(carry, k, v, is_first))


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("span", [1, 2, 5, 20])
@pytest.mark.parametrize("frames", [1, 2, 11])
def test_equals_the_reference(frames: int, span: int, tokens: int, chance: float, agree) -> None:
    """Fails where a frame sees too much, too little, or another episode; also by its gradients."""
    inputs = qkv(frames, tokens)
    is_first = torch.rand(ROWS, frames) < chance
    actual = attend(*inputs, empty_carry(span, tokens), is_first)
    expected = reference.attention(*inputs, span, is_first)
    agree(actual, expected, 1e-5)
    weight = torch.randn_like(actual)
    ours = torch.autograd.grad((actual * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for a, e in zip(ours, theirs, strict=True):
        agree(a, e, 1e-5)


@pytest.mark.parametrize("span", [2, 5, 9])
@pytest.mark.parametrize("split", [4, 8])
def test_carried_keys_are_seen_as_if_in_one_window(span: int, split: int, agree) -> None:
    """Fails where the cache is off by a frame, or seen by frames after a reset."""
    q, k, v = (a.detach() for a in qkv(11, 2))
    is_first = torch.zeros(ROWS, 11, dtype=torch.bool)
    is_first[0, 2] = is_first[1, 9] = True
    past = torch.arange(split - span + 1, split)
    valid = (past >= 0) & (past >= torch.tensor([[2], [0]]))
    carry = AttendCarry(k[:, past], v[:, past], valid)
    later = (a[:, split:] for a in (q, k, v))
    actual = attend(*later, carry, is_first[:, split:])
    agree(actual, reference.attention(q, k, v, span, is_first)[:, split:], 1e-5)
