"""Which body computes the scan, and what is ours around mamba-ssm's kernel.

The kernel itself is played by the naive scan here; the real one has tests/kernels.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel import kernel, reference
from worldmodel.kernel import BODIES, choose, kernel_error, mamba_ssd, scan
from worldmodel.layers import Mlp, Scan, Sizes, use_scan
from worldmodel.ssd import ssd

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS, HEADS, CHANNELS, STATE = 2, 2, 3, 4

Imports = Callable[[Any], list[str]]


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[Imports]:
    """`imports(result)`: mamba-ssm's import gives or raises this; the list of imports made."""

    def install(result: Any) -> list[str]:
        asked = []

        def import_module(name: str) -> Any:
            asked.append(name)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(kernel, "import_module", import_module)
        return asked

    kernel._import_error.cache_clear()
    yield install
    kernel._import_error.cache_clear()


@pytest.fixture
def played(imports: Imports) -> list[int]:
    """The kernel, played by the naive scan; the lengths it was called with."""
    lengths = []

    def play(x, dt, A, B, C, *, chunk_size, initial_states, seq_idx, return_final_states):
        assert {a.dtype for a in (x, dt, A, B, C, initial_states)} == {torch.float32}
        assert seq_idx.dtype == torch.int32
        assert chunk_size in (16, 32, 64, 128, 256)
        assert return_final_states
        lengths.append(x.shape[1])
        reset = F.pad(seq_idx, (1, 0)).diff() > 0
        return reference.scan(x, dt, A, B.squeeze(2), C.squeeze(2), initial_states, reset)

    imports(SimpleNamespace(mamba_chunk_scan_combined=play))
    return lengths


def scan_inputs(length: int, chance: float = 0.2) -> list[Tensor]:
    """x, dt, A, B, C, state and resets."""
    shapes = [
        (ROWS, length, HEADS, CHANNELS),
        (ROWS, length, HEADS),
        (HEADS,),
        (ROWS, length, STATE),
        (ROWS, length, STATE),
        (ROWS, HEADS, CHANNELS, STATE),
    ]
    x, dt, A, B, C, state = (torch.randn(shape) for shape in shapes)
    reset = torch.rand(ROWS, length) < chance
    return [x, F.softplus(dt - 2), -A.exp(), B, C, state, reset]


def test_the_cpu_has_torch_and_asks_for_nothing(imports: Imports) -> None:
    asked = imports(ImportError("not to be met"))
    assert choose("auto", CPU) == "torch"
    assert kernel_error(CPU) == "it needs a CUDA device, and the device is cpu"
    assert not asked


def test_a_broken_import_is_kept_and_made_once(imports: Imports) -> None:
    asked = imports(OSError("libcudart.so.99: cannot open"))
    assert choose("auto", CUDA) == choose("auto", CUDA) == "torch"
    assert kernel_error(CUDA) == "OSError: libcudart.so.99: cannot open"
    assert asked == ["mamba_ssm.ops.triton.ssd_combined"]


def test_cuda_has_the_kernel_unless_told_otherwise(imports: Imports) -> None:
    imports(SimpleNamespace(mamba_chunk_scan_combined=print))
    assert kernel_error(CUDA) is None
    assert [choose(body, CUDA) for body in BODIES] == ["mamba-ssm", "torch", "mamba-ssm"]


@pytest.mark.parametrize("chunk", [1, 4, 7, 16, 64])
@pytest.mark.parametrize("length", [2, 7, 16, 33])
@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_states_and_gradients_are_those_of_ssd(
    length: int, chunk: int, chance: float, played: list[int], agree
) -> None:
    """Fails where a state at a chunk's end, or a gradient through it, is another than ssd's."""
    *inputs, reset = scan_inputs(length, chance)
    leaves = [a.requires_grad_() for a in inputs]
    results = [body(*leaves, reset, chunk) for body in (mamba_ssd, ssd)]
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        agree(actual, expected, 1e-5)
    weights = [torch.randn(a.shape) for a in results[0]]
    totals = ([(a * w).sum() for a, w in zip(r, weights, strict=True)] for r in results)
    ours, theirs = (torch.autograd.grad(y + states, leaves) for y, states in totals)
    for actual, expected in zip(ours, theirs, strict=True):
        agree(actual, expected, 1e-5)
    assert played == [length]


def test_states_see_a_reset(played: list[int]) -> None:
    """Fails where the comparison above could not see a reset (negative control)."""
    *inputs, reset = scan_inputs(16, chance=0.0)
    free = mamba_ssd(*inputs, reset, 4)[1]
    reset[:, 6] = True
    cut = mamba_ssd(*inputs, reset, 4)[1]
    torch.testing.assert_close(cut[:, 0], free[:, 0])
    assert (cut[:, 1] - free[:, 1]).abs().max() > 0.1


def test_no_gradient_crosses_a_reset(played: list[int]) -> None:
    """Fails where tokens before a reset are felt in states after it, were it by rounding."""
    *inputs, reset = scan_inputs(16, chance=0.0)
    leaves = [a.requires_grad_() for a in inputs]
    reset[:, 6] = True
    mamba_ssd(*leaves, reset, 4)[1][:, 1:].sum().backward()
    for a in (leaves[0], leaves[1], leaves[3]):
        assert not a.grad[:, :6].any()
        assert a.grad[:, 6:].any()
    assert not leaves[5].grad.any()


def test_total_forgetting_keeps_gradients_finite(played: list[int]) -> None:
    """Fails where exp overflows before it is masked."""
    *inputs, reset = scan_inputs(24)
    inputs[1], inputs[2] = torch.full_like(inputs[1], 1e2), torch.full_like(inputs[2], -1e2)
    leaves = [a.requires_grad_() for a in inputs]
    torch.cat([a.flatten() for a in mamba_ssd(*leaves, reset, 7)]).sum().backward()
    assert all(a.grad.isfinite().all() for a in leaves)


def test_a_body_computes_what_it_is_asked_for(played: list[int]) -> None:
    """Fails where the kernel is launched for a single token, or for whom chose torch."""
    for length, body in ((5, "torch"), (5, "auto"), (1, "mamba-ssm")):
        scan(body, *scan_inputs(length), chunk=4)
    assert not played
    scan("mamba-ssm", *scan_inputs(5), chunk=4)
    assert played == [5]


@pytest.mark.parametrize("every", [None, 2, 3])
def test_a_layer_is_the_same_by_either_body(every: int | None, played: list[int], agree) -> None:
    """Fails where snapshots are taken from the wrong chunks of the kernel."""
    sizes = Sizes(grid=(2, 2), width=8, head=4, state=4)
    layer = Scan(sizes, (2, 1))
    x, is_first = torch.randn(2, 7, 4, 8), torch.rand(2, 7) < 0.3
    results = []
    for body in ("torch", "mamba-ssm"):
        use_scan(layer, body)
        y, final, snapshots = layer(x, layer.initial(2), is_first, every)
        results.append([y, *final, *(snapshots or ())])
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        agree(actual, expected, 1e-5)
    assert played == [14]


def test_use_scan_reaches_every_scan_and_no_other() -> None:
    sizes = Sizes(grid=(1, 1), width=8, head=4, state=4)
    model = nn.Sequential(Scan(sizes, (1, 1)), Mlp(sizes), nn.Sequential(Scan(sizes, (1, 1))))
    assert [part.body for part in model.modules() if isinstance(part, Scan)] == ["auto"] * 2
    use_scan(model, "torch")
    assert [part.body for part in model.modules() if isinstance(part, Scan)] == ["torch"] * 2
    assert Scan.body == "auto"
    assert not hasattr(model[1], "body")
