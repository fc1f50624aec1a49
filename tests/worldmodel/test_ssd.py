"""The chunked scan beside the naive one: outputs, every state handed out, every gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel import reference
from worldmodel.ssd import ssd

NAMES = ("x", "dt", "A", "B", "C", "state")
ROWS, HEADS, CHANNELS, STATE = 2, 2, 3, 4


def scan_inputs(length: int) -> list[Tensor]:
    """x, dt, A, B, C, state in float64; decays of exp(-0.1) a token or so."""
    shapes = [
        (ROWS, length, HEADS, CHANNELS),
        (ROWS, length, HEADS),
        (HEADS,),
        (ROWS, length, STATE),
        (ROWS, length, STATE),
        (ROWS, HEADS, CHANNELS, STATE),
    ]
    x, dt, A, B, C, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    return [x, F.softplus(dt - 2), -A.exp(), B, C, state]


def resets(kind: str, length: int, chunk: int) -> Tensor:
    reset = torch.zeros(ROWS, length, dtype=torch.bool)
    if kind == "random":
        reset = torch.rand(ROWS, length) < 0.3
    elif kind == "all":
        reset[:] = True
    elif kind == "first and last":
        reset[0, 0] = reset[1, -1] = True
    elif kind == "borders":  # a row with each chunk's first token, a row with each one's last
        reset[0, chunk::chunk] = reset[1, chunk - 1 :: chunk] = True
    return reset


def leaves(inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [a.to(dtype).clone().requires_grad_() for a in inputs]


def naive(inputs: list[Tensor], reset: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """What ssd returns, from the reference: each state by a run from the start to there."""
    x, dt, A, B, C, state = inputs
    length = x.shape[1]
    ends = [min(end, length) for end in range(chunk, length + chunk, chunk)]
    runs = [
        reference.scan(x[:, :e], dt[:, :e], A, B[:, :e], C[:, :e], state, reset[:, :e])
        for e in ends
    ]
    return runs[-1][0], torch.stack([final for _, final in runs], 1)


def compare(inputs: list[Tensor], reset: Tensor, chunk: int, agree) -> None:
    """Outputs, states and gradients of ssd (fp32) and of the reference (float64)."""
    ours, theirs = leaves(inputs, torch.float32), leaves(inputs, torch.float64)
    actual = ssd(*ours, reset, chunk)
    expected = naive(theirs, reset, min(chunk, reset.shape[1]))
    for name, a, e in zip(("outputs", "states"), actual, expected, strict=True):
        assert a.shape == e.shape, name
        agree(a, e, 1e-5)
    weights = [torch.randn_like(a) for a in actual]
    for results in (actual, expected):
        torch.stack([(a * w).sum() for a, w in zip(results, weights, strict=True)]).sum().backward()
    for a, e in zip(ours, theirs, strict=True):
        agree(a.grad, e.grad, 1e-5)


@pytest.mark.parametrize("kind", ["none", "random", "all", "first and last", "borders"])
@pytest.mark.parametrize("chunk", [1, 4, 16, 64])
@pytest.mark.parametrize("length", [1, 7, 16, 33])
def test_equals_the_reference(length: int, chunk: int, kind: str, agree) -> None:
    """Fails where the fast scan computes anything else than the recurrence of the paper."""
    compare(scan_inputs(length), resets(kind, length, chunk), chunk, agree)


def test_reset_changes_the_result() -> None:
    """Fails where the comparison above could not see a reset at all (negative control)."""
    inputs = [a.float() for a in scan_inputs(16)]
    reset = torch.zeros(ROWS, 16, dtype=torch.bool)
    free = ssd(*inputs, reset, 8)[0]
    reset[:, 8] = True
    cut = ssd(*inputs, reset, 8)[0]
    torch.testing.assert_close(cut[:, :8], free[:, :8])
    assert (cut[:, 8] - free[:, 8]).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["none", "random"])
def test_total_forgetting_keeps_gradients_finite(kind: str, agree) -> None:
    """Fails where exp overflows before it is masked: exponents of 1e4 gave NaN gradients."""
    inputs = scan_inputs(24)
    inputs[1], inputs[2] = torch.full_like(inputs[1], 1e2), torch.full_like(inputs[2], -1e2)
    reset = resets(kind, 24, 8)
    compare(inputs, reset, 8, agree)
    ours = leaves(inputs, torch.float32)
    torch.cat([a.flatten() for a in ssd(*ours, reset, 8)]).sum().backward()
    for name, a in zip(NAMES, ours, strict=True):
        assert a.grad.isfinite().all(), name


@pytest.mark.parametrize("step", [3.0])
def test_a_forgetful_token_does_not_blur_later_ones(step: float, agree) -> None:
    """Fails where decays between late tokens are differences of huge, rounded sums."""
    inputs = scan_inputs(32)
    inputs[1] = torch.full_like(inputs[1], 1e-2)
    inputs[1][:, 3] = step
    inputs[0][:, 3] /= step  # so that it writes no more than the others
    inputs[2] = -torch.ones_like(inputs[2])
    compare(inputs, resets("none", 32, 32), 32, agree)


@pytest.mark.parametrize("length", [1, 5])
def test_states_are_kept_in_full_precision(length: int) -> None:
    """Fails where memory is rounded to the 8 bits of bfloat16 at every step."""
    inputs = [a.to(torch.bfloat16) for a in scan_inputs(length)]
    _, states = ssd(*inputs, torch.zeros(ROWS, length, dtype=torch.bool), 4)
    assert states.dtype == torch.float32


@pytest.mark.parametrize("chunk", [4, 16])
def test_no_gradient_crosses_a_reset(chunk: int) -> None:
    """Fails where tokens before a reset are felt after it, were it by rounding alone."""
    inputs = leaves(scan_inputs(16), torch.float32)
    reset = torch.zeros(ROWS, 16, dtype=torch.bool)
    reset[:, 6] = True
    y, after = ssd(*inputs, reset, chunk)
    (y[:, 6:].sum() + after[:, -1].sum()).backward()
    for name in ("x", "dt", "B", "C"):
        gradient = inputs[NAMES.index(name)].grad
        assert not gradient[:, :6].any(), name
        assert gradient[:, 6:].any(), name
    assert not inputs[-1].grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str, agree) -> None:
    """Fails where reference and scan share a wrong gradient."""
    inputs = scan_inputs(9)
    reset = resets("borders", 9, 4)
    i, direction = NAMES.index(name), torch.randn_like(inputs[NAMES.index(name)])

    def value(step: float) -> Tensor:
        moved = [a + step * direction if j == i else a for j, a in enumerate(inputs)]
        return reference.scan(*moved, reset)[0].square().sum()

    ours = leaves(inputs, torch.float32)
    ssd(*ours, reset, 4)[0].square().sum().backward()
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    agree((ours[i].grad * direction).sum(), slope, 1e-4)
