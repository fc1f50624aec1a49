"""One layer's operations: the convolution and the layout of Mamba-2, and the folding of blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel import reference
from worldmodel.layers import Attend, Mlp, Operation, Scan, Sizes

SIZES = Sizes(grid=(1, 1), width=8, head=4, state=6, expand=2)
INNER, STATE, HEADS = 16, 6, 4


def shuffled(operation: Scan) -> Scan:
    """The scan with every parameter away from its neutral start."""
    for parameter in operation.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return operation


@pytest.mark.parametrize("chance", [0.0, 0.3])
@pytest.mark.parametrize("length", [1, 2, 13])
def test_convolution_equals_the_reference(length: int, chance: float, agree) -> None:
    """Fails where a tap is in the wrong place or reaches across a reset; also by gradients."""
    scan = shuffled(Scan(SIZES, (1, 1)))
    x = torch.randn(3, length, INNER + 2 * STATE, requires_grad=True)
    reset = torch.rand(3, length) < chance
    tail = torch.zeros(3, 3, INNER + 2 * STATE)
    actual, _ = scan._convolve(x, tail, reset)
    convolved = reference.causal_convolution(x, scan.conv1d.weight, scan.conv1d.bias, reset)
    agree(actual, F.silu(convolved), 1e-5)
    wrt = [x, scan.conv1d.weight, scan.conv1d.bias]
    weight = torch.randn_like(actual)
    ours = torch.autograd.grad((actual * weight).sum(), wrt)
    theirs = torch.autograd.grad((F.silu(convolved) * weight).sum(), wrt)
    for a, e in zip(ours, theirs, strict=True):
        agree(a, e, 1e-5)


@pytest.mark.parametrize("split", [1, 2, 5])
def test_convolution_goes_on_from_its_tail(split: int, agree) -> None:
    """Fails where the carried tail is off by a token or survives a reset."""
    scan = shuffled(Scan(SIZES, (1, 1)))
    u = torch.randn(4, 9, 1, 8)
    x = scan.in_proj(u[:, :, 0])[..., INNER : 2 * INNER + 2 * STATE]
    reset = torch.zeros(4, 9, dtype=torch.bool)
    reset[1, split - 1] = reset[2, split] = reset[3, split + 1] = True
    whole, _ = scan._convolve(x, torch.zeros(4, 3, x.shape[-1]), reset)
    _, carry, _ = scan(u[:, :split], scan.initial(4), reset[:, :split])
    later, _ = scan._convolve(x[:, split:], carry.tail[:, 0], reset[:, split:])
    agree(later, whole[:, split:], 1e-6)


def test_scan_has_the_parameters_of_mamba2() -> None:
    """Fails where weights of mamba_ssm.Mamba2 (one group) no longer load, by name or shape."""
    expected = {
        "in_proj.weight": (2 * INNER + 2 * STATE + HEADS, 8),
        "conv1d.weight": (INNER + 2 * STATE, 1, 4),
        "conv1d.bias": (INNER + 2 * STATE,),
        "dt_bias": (HEADS,),
        "A_log": (HEADS,),
        "D": (HEADS,),
        "norm.weight": (INNER,),
        "out_proj.weight": (8, INNER),
    }
    assert {k: tuple(v.shape) for k, v in Scan(SIZES, (1, 1)).state_dict().items()} == expected


def mamba2(scan: Scan, u: Tensor, reset: Tensor) -> Tensor:
    """The block of mamba_ssm.Mamba2 from naive parts; rows of in_proj are [z | x | B | C | dt]."""
    z, x, B, C, dt = (u @ scan.in_proj.weight.T).split([INNER, INNER, STATE, STATE, HEADS], -1)
    xBC = torch.cat([x, B, C], -1)
    convolved = reference.causal_convolution(xBC, scan.conv1d.weight, scan.conv1d.bias, reset)
    x, B, C = F.silu(convolved).split([INNER, STATE, STATE], -1)
    x, dt = x.unflatten(-1, (HEADS, -1)), F.softplus(dt + scan.dt_bias)
    state = torch.zeros(len(u), HEADS, INNER // HEADS, STATE)
    y, _ = reference.scan(x, dt, -scan.A_log.exp(), B, C, state, reset)
    y = (y + scan.D[:, None] * x).flatten(2) * F.silu(z)
    y = y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * scan.norm.weight
    return y @ scan.out_proj.weight.T


@pytest.mark.parametrize("chance", [0.0, 0.2])
def test_scan_computes_mamba2(chance: float, agree) -> None:
    """Fails where the rows of a weight mean something else than in mamba_ssm.Mamba2."""
    scan = shuffled(Scan(SIZES, (1, 1)))
    u, is_first = torch.randn(2, 19, 1, 8), torch.rand(2, 19) < chance
    y, _, _ = scan(u, scan.initial(2), is_first)
    agree(y[:, :, 0], mamba2(scan, u[:, :, 0], is_first), 1e-5)


def test_decays_start_slow() -> None:
    """Fails where no head remembers for thousands of tokens at the start of training."""
    scan = Scan(Sizes((1, 1), 256, 4, 4), (1, 1))
    dt = F.softplus(scan.dt_bias)
    assert (scan.A_log == 0).all()
    assert dt.min() > 0.9e-4
    assert dt.max() < 1.1e-1
    assert (dt < 1e-3).float().mean() > 0.2


@pytest.mark.parametrize(
    ("block", "second"),
    [((1, 1), [1, 9, 17]), ((1, 2), [2, 3, 10]), ((2, 2), [2, 3, 6]), ((2, 4), [0, 1, 2])],
)
def test_blocks_are_folded_in_raster_order_then_time(
    block: tuple[int, int], second: list[int]
) -> None:
    """Fails where a block mixes tokens of two places, or time runs before the raster."""
    scan = Scan(Sizes((2, 4), 8, 4, 4), block)
    tokens = torch.arange(3 * 8.0).reshape(1, 3, 8, 1)  # 8 t + raster index
    folded = scan._fold(tokens)
    assert folded.shape == (scan.blocks, 24 // scan.blocks, 1)
    assert folded[1 % scan.blocks, :3, 0].tolist() == second
    assert torch.equal(scan._unfold(folded, 1), tokens)


@pytest.mark.parametrize("block", [(1, 1), (1, 2), (2, 2)])
def test_blocks_do_not_talk_to_each_other(block: tuple[int, int]) -> None:
    """Fails where one block's state leaks into another block (one state per block)."""
    scan = Scan(Sizes((2, 4), 8, 4, 4), block)
    x = torch.randn(1, 5, 8, 8, requires_grad=True)
    y, _, _ = scan(x, scan.initial(1), torch.zeros(1, 5, dtype=torch.bool))
    y[:, -1, 0].sum().backward()
    own = [r * 4 + c for r in range(block[0]) for c in range(block[1])]
    touched = x.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert touched == own


@pytest.mark.parametrize("operation", [Mlp(SIZES), Attend(SIZES, 3), Scan(SIZES, (1, 1))])
def test_initial_carry_has_the_shape_of_later_ones(operation: Operation) -> None:
    """Fails where a carry grows, or changes its type, with what was seen."""
    carry = operation.initial(2)
    is_first = torch.zeros(2, 9, dtype=torch.bool)
    _, after, snapshots = operation(torch.randn(2, 9, 1, 8), carry, is_first, 4)
    assert type(after) is type(carry)
    for before, later, snapshot in zip(carry, after, snapshots, strict=True):
        assert later.shape == before.shape
        assert later.dtype == before.dtype
        assert snapshot.shape == (2, 2, *before.shape[1:])


def test_sharp_scans_begin_with_single_tokens_that_are_kept() -> None:
    """Fails where keys are blurred over neighbours, or all that is written strongly fades soon.

    Told places and shown pictures, scans with the usual start took several times as many updates
    to find a picture again: the convolution mixed each key with the three before it.
    """
    scan = Scan(Sizes(grid=(1, 1), width=16, head=4, state=6, sharp=True), (1, 1))
    x = torch.zeros(1, 9, scan.split[1])
    x[0, 4] = 1.0
    assert scan.conv1d.bias is not None
    mixed = scan.conv1d(x.mT).mT[0] - scan.conv1d.bias
    newest, later = mixed[1].abs(), mixed[2:5].abs()
    assert (newest == 1).all()
    assert later.max() < 0.1
    dt = F.softplus(scan.dt_bias)
    kept = torch.exp(-1000 * dt * scan.A_log.exp())
    assert dt.min() > 0.009
    assert kept.max() > 0.8
    assert kept.min() < 0.01


def test_scans_begin_as_they_always_did() -> None:
    """Fails where the option changes those that did not ask for it."""
    torch.manual_seed(3)
    plain, asked = Scan(SIZES, (1, 1)), Scan(Sizes((1, 1), 8, 4, 6, 2, sharp=False), (1, 1))
    assert not plain.A_log.any()
    assert not asked.A_log.any()
    assert F.softplus(plain.dt_bias).min() >= 0.99e-4
