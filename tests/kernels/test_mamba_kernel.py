"""The scan by mamba-ssm beside the scan in torch and the naive one; our layer beside Mamba2."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel import kernel, reference
from worldmodel.kernel import mamba_ssd, scan
from worldmodel.layers import Scan, Sizes, use_scan
from worldmodel.ssd import ssd

NAMES = ("outputs", "states", "x", "dt", "A", "B", "C", "state")
ROWS, HEADS, CHANNELS, STATE = 2, 2, 3, 4
SIZES = Sizes(grid=(1, 1), width=16, head=8, state=4, expand=2)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel in chunks of 16, so that short sequences have several."""
    monkeypatch.setattr(kernel, "MOST_CHUNK", 16)


def scan_inputs(length: int) -> list[Tensor]:
    """x, dt, A, B, C, state."""
    shapes = [
        (ROWS, length, HEADS, CHANNELS),
        (ROWS, length, HEADS),
        (HEADS,),
        (ROWS, length, STATE),
        (ROWS, length, STATE),
        (ROWS, HEADS, CHANNELS, STATE),
    ]
    x, dt, A, B, C, state = (torch.randn(shape) for shape in shapes)
    return [x, F.softplus(dt - 2), -A.exp(), B, C, state]


def resets(kind: str, length: int) -> Tensor:
    reset = torch.zeros(ROWS, length, dtype=torch.bool)
    if kind == "random":
        reset = torch.rand(ROWS, length) < 0.2
    elif kind == "borders":  # first and last tokens of the kernel's chunks, and the very first
        reset[0, ::16] = reset[1, 15::16] = True
    return reset


def naive(x, dt, A, B, C, state, reset, chunk: int) -> tuple[Tensor, Tensor]:
    """What `ssd` returns, token by token: each state by a run from the start to there."""
    length = x.shape[1]
    ends = [min(end, length) for end in range(chunk, length + chunk, chunk)]
    runs = [
        reference.scan(x[:, :e], dt[:, :e], A, B[:, :e], C[:, :e], state, reset[:, :e])
        for e in ends
    ]
    return runs[-1][0], torch.stack([final for _, final in runs], 1)


def results(body, inputs: list[Tensor], reset: Tensor, chunk: int) -> dict[str, Tensor]:
    """Outputs, states and the gradients of a random function of both."""
    inputs = [a.detach().requires_grad_() for a in inputs]
    values = body(*inputs, reset, chunk)
    random = torch.Generator().manual_seed(1)
    weighted = [(a * torch.randn(a.shape, generator=random)).sum() for a in values]
    gradients = torch.autograd.grad(weighted[0] + weighted[1], inputs)
    return dict(zip(NAMES, (*values, *gradients), strict=True))


def agree(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Equal up to `tolerance` of each largest entry (of 1 where all are smaller)."""
    assert actual.keys() == expected.keys()
    for name, e in expected.items():
        assert actual[name].shape == e.shape, name
        error = (actual[name] - e).abs().max().item()
        assert error <= tolerance * max(1.0, e.abs().max().item()), (name, error)


@pytest.mark.parametrize("kind", ["none", "random", "borders"])
@pytest.mark.parametrize(
    ("length", "chunk"), [(1, 4), (7, 64), (16, 16), (33, 1), (33, 7), (33, 16), (50, 20), (50, 50)]
)
@pytest.mark.usefixtures("small_chunks")
def test_three_scans_are_one(length: int, chunk: int, kind: str) -> None:
    """Fails where the kernel, the chunked scan and the recurrence of the paper differ."""
    inputs, reset = scan_inputs(length), resets(kind, length)
    torch_scan = results(ssd, inputs, reset, chunk)
    exact = results(naive, [a.double() for a in inputs], reset, chunk)
    agree(torch_scan, exact, 1e-5)
    agree(results(mamba_ssd, inputs, reset, chunk), torch_scan, 1e-4)


@pytest.mark.parametrize("length", [20, 70])
def test_chunks_of_the_kernel_itself(length: int) -> None:
    """Fails where a chunk of the size that is used on a GPU is not one that the kernel takes."""
    inputs, reset = scan_inputs(length), resets("random", length)
    agree(results(mamba_ssd, inputs, reset, 30), results(ssd, inputs, reset, 30), 1e-4)


@pytest.mark.usefixtures("small_chunks")
def test_the_comparison_sees_a_reset() -> None:
    """Fails where the comparison above is blind (negative control)."""
    inputs, reset = scan_inputs(20), resets("none", 20)
    free = results(mamba_ssd, inputs, reset, 8)
    reset[:, 17] = True
    cut = results(ssd, inputs, reset, 8)
    for name in NAMES:
        with pytest.raises(AssertionError, match=name):
            agree({name: free[name]}, {name: cut[name]}, 1e-4)


@pytest.mark.usefixtures("small_chunks")
def test_no_gradient_crosses_a_reset() -> None:
    """Fails where tokens before a reset are felt after it."""
    inputs = [a.requires_grad_() for a in scan_inputs(20)]
    reset = torch.zeros(ROWS, 20, dtype=torch.bool)
    reset[:, 6] = True
    y, states = mamba_ssd(*inputs, reset, 9)
    (y[:, 6:].sum() + states.sum()).backward()
    for name, a in zip(NAMES[2:], inputs, strict=True):
        if name in ("x", "dt", "B", "C"):
            assert not a.grad[:, :6].any(), name
            assert a.grad[:, 6:].any(), name
    assert not inputs[-1].grad.any()


@pytest.mark.usefixtures("small_chunks")
def test_total_forgetting_keeps_gradients_finite() -> None:
    """Fails where exponents of 1e4 make infinities or NaN."""
    inputs, reset = scan_inputs(20), resets("random", 20)
    inputs[1], inputs[2] = torch.full_like(inputs[1], 1e2), torch.full_like(inputs[2], -1e2)
    agree(results(mamba_ssd, inputs, reset, 8), results(ssd, inputs, reset, 8), 1e-4)


def test_memory_is_kept_in_full_precision() -> None:
    """Fails where the kernel keeps states in the type of its inputs."""
    inputs = [a.to(torch.bfloat16) for a in scan_inputs(5)]
    y, states = mamba_ssd(*inputs, resets("none", 5), 2)
    assert (y.dtype, states.dtype) == (torch.float32, torch.float32)


def test_a_single_token_is_the_recurrence() -> None:
    """Fails where imagining one token at a time launches kernels."""
    inputs, reset = scan_inputs(1), resets("none", 1)
    y, states = scan("mamba-ssm", *inputs, reset, 4)
    expected = ssd(*inputs, reset, 4)
    assert torch.equal(y, expected[0])
    assert torch.equal(states, expected[1])


def layer_results(layer: Scan, body: str, every: int | None) -> dict[str, Tensor]:
    """All that a layer gives for frames with resets and a carry, and gradients of all of it."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 6, 4, 16, generator=random, requires_grad=True)
    is_first = torch.rand(2, 6, generator=random) < 0.3
    carry = type(layer.initial(2))(
        *(torch.randn(a.shape, generator=random).requires_grad_() for a in layer.initial(2))
    )
    use_scan(layer, body)
    y, final, snapshots = layer(x, carry, is_first, every)
    values = [y, *final, *(snapshots or ())]
    loss = torch.stack([(a * torch.randn(a.shape, generator=random)).sum() for a in values]).sum()
    gradients = torch.autograd.grad(loss, [x, *carry, *layer.parameters()])
    return {str(i): a for i, a in enumerate([*values, *gradients])}


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.usefixtures("small_chunks")
def test_a_layer_is_the_same_by_either_body(every: int | None) -> None:
    """Fails where blocks, snapshots or the strides of a real layer are not what kernels expect."""
    sizes = Sizes(grid=(2, 2), width=16, head=8, state=4, expand=2)
    layer = Scan(sizes, (2, 1))
    expected = layer_results(layer, "torch", every)
    agree(layer_results(layer, "mamba-ssm", every), expected, 1e-4)


def mamba2() -> torch.nn.Module:
    """The block of mamba-ssm with the sizes of ours, by its own Triton kernels."""
    from mamba_ssm import Mamba2

    width, head, state = SIZES.width, SIZES.head, SIZES.state
    return Mamba2(width, state, headdim=head, ngroups=1, chunk_size=16, use_mem_eff_path=False)


def test_weights_load_both_ways() -> None:
    """Fails where a parameter has another name or shape than in mamba_ssm.Mamba2."""
    ours, theirs = Scan(SIZES, (1, 1)), mamba2()
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(Scan(SIZES, (1, 1)).state_dict())
    expected = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == expected


@pytest.mark.parametrize("body", ["torch", "mamba-ssm"])
def test_a_layer_is_mamba2(body: str) -> None:
    """Fails where our layer means anything else by its weights than mamba_ssm.Mamba2 does."""
    ours, theirs = Scan(SIZES, (1, 1)), mamba2()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ours.load_state_dict(theirs.state_dict())
    use_scan(ours, body)
    x = torch.randn(2, 21, 16)
    y, _, _ = ours(x[:, :, None], ours.initial(2), torch.zeros(2, 21, dtype=torch.bool))
    agree({"outputs": y[:, :, 0]}, {"outputs": theirs(x)}, 1e-4)
