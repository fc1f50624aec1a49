"""One call for any length: whole, in windows, and frame by frame must be the same function.

The closest public network agrees to 3e-6 until an episode's reset falls inside the stream; then
its convolution and its key/value ring leak. So every comparison here has resets at random places.
"""

import pytest
import torch
from torch import Tensor

from worldmodel.backbone import Backbone
from worldmodel.layers import Sizes
from worldmodel.pattern import PATTERNS, read_pattern
from worldmodel.types import tree_leaves, tree_map, tree_unflatten

ROWS, FRAMES = 3, 23
ONE, GRID = (1, 1), (2, 4)
CASES = [
    (ONE, ("scan",)),
    (ONE, ("attend:4",)),
    (ONE, ("attend:1", "mlp")),
    (ONE, ("scan", "attend:4", "mlp") * 2),
    (GRID, ("scan:1x1",)),
    (GRID, ("scan:1x2",)),
    (GRID, ("scan:2x2",)),
    (GRID, ("scan",)),
    (GRID, ("attend:3",)),
    (GRID, ("scan", "attend:6", "mlp", "scan:1x2", "attend:2", "scan:2x2", "scan:1x1")),
    (GRID, ("clock",)),
    (GRID, ("attend:200",)),
    *((grid, (name,)) for name in PATTERNS for grid in (ONE, GRID)),
]
WINDOWS = {"one by one": [1] * 23, "short": [2, 1] * 7 + [2], "long": [9, 14], "odd": [7, 1, 12, 3]}

cases = pytest.mark.parametrize(("grid", "pattern"), CASES)


def make(grid: tuple[int, int], pattern: tuple[str, ...]) -> Backbone:
    """A backbone with every parameter away from its neutral start."""
    backbone = Backbone(Sizes(grid, width=8, head=4, state=4), pattern)
    for parameter in backbone.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return backbone


def stream(backbone: Backbone, grid: tuple[int, int], frames: int = FRAMES) -> tuple:
    """Input, a carry that has seen seven frames (one row two of them), and random resets."""
    tokens = grid[0] * grid[1]
    is_first = torch.zeros(ROWS, 7, dtype=torch.bool)
    is_first[0, 5] = True
    before = torch.randn(ROWS, 7, tokens, 8)
    _, carry, _ = backbone(before, backbone.initial(ROWS), is_first)
    x = torch.randn(ROWS, frames, tokens, 8, requires_grad=True)
    return x, leaf_carry(carry), torch.rand(ROWS, frames) < torch.tensor([[0.0], [0.15], [0.4]])


def leaf_carry(carry: tuple) -> tuple:
    """The same carry as leaves of the graph."""
    return tree_map(lambda a: a.detach().requires_grad_(a.is_floating_point()), carry)


def run(backbone: Backbone, x: Tensor, carry: tuple, is_first: Tensor, windows: list[int]) -> tuple:
    """Outputs, the carry after the last frame, and the carries after every window."""
    outputs, carries = [], []
    for part, first in zip(x.split(windows, 1), is_first.split(windows, 1), strict=True):
        y, carry, _ = backbone(part, carry, first)
        outputs.append(y)
        carries.append(carry)
    return torch.cat(outputs, 1), carry, carries


def gradients(y: Tensor, after: tuple, weights: list[Tensor], wrt: list[Tensor]) -> list[Tensor]:
    """Gradients of a random projection of all that came out."""
    out = [y, *(a for a in tree_leaves(after) if a.is_floating_point())]
    loss = torch.stack([(a * w).sum() for a, w in zip(out, weights, strict=True)]).sum()
    return [g for g in torch.autograd.grad(loss, wrt, materialize_grads=True, allow_unused=True)]


@cases
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS.keys())
def test_windows_equal_the_whole(grid, pattern, windows: list[int], agree) -> None:
    """Fails where carried state is not what the whole sequence would have known, or is cut off
    from the gradient (mamba_ssm's own step gives earlier tokens silently none)."""
    backbone = make(grid, pattern)
    x, carry, is_first = stream(backbone, grid)
    floats = [a for a in tree_leaves(carry) if a.requires_grad]
    wrt = [x, *floats, *backbone.parameters()]
    whole, whole_after, _ = run(backbone, x, carry, is_first, [FRAMES])
    parts, parts_after, _ = run(backbone, x, carry, is_first, windows)
    agree(parts, whole, 1e-4)
    for a, e in zip(tree_leaves(parts_after), tree_leaves(whole_after), strict=True):
        agree(a, e, 1e-4) if a.is_floating_point() else torch.testing.assert_close(a, e)
    out = [whole, *(a for a in tree_leaves(whole_after) if a.is_floating_point())]
    weights = [torch.randn_like(a) for a in out]
    expected = gradients(whole, whole_after, weights, wrt)
    actual = gradients(parts, parts_after, weights, wrt)
    for a, e in zip(actual, expected, strict=True):
        agree(a, e, 1e-3)


@cases
@pytest.mark.parametrize("every", [1, 5, 20, 23])
def test_snapshots_are_the_carries_of_stepping(grid, pattern, every: int, agree) -> None:
    """Fails where imagination would start from a state that no agent ever had."""
    backbone = make(grid, pattern)
    x, carry, is_first = stream(backbone, grid)
    with torch.no_grad():
        whole, after, snapshots = backbone(x, carry, is_first, every)
        y, stepped_after, stepped = run(backbone, x, carry, is_first, [1] * FRAMES)
    agree(whole, y, 1e-4)
    expected = tree_map(lambda *a: torch.stack(a, 1), *stepped[every - 1 :: every])
    pairs = [(snapshots, expected), (after, stepped_after)]
    for actual, wanted in pairs:
        for a, e in zip(tree_leaves(actual), tree_leaves(wanted), strict=True):
            assert a.shape == e.shape
            agree(a, e, 1e-4) if a.is_floating_point() else torch.testing.assert_close(a, e)


@pytest.mark.parametrize(("frames", "every"), [(150, 100), (150, 67), (130, 65)])
def test_snapshots_across_many_chunks(frames: int, every: int, agree) -> None:
    """Fails where a snapshot lies inside a chunk of the scan instead of at its end."""
    backbone = make(ONE, ("scan", "attend:3"))
    x, carry, is_first = stream(backbone, ONE, frames)
    with torch.no_grad():
        _, _, snapshots = backbone(x, carry, is_first, every)
        for i in range(frames // every):
            end = (i + 1) * every
            _, expected, _ = backbone(x[:, :end], carry, is_first[:, :end])
            for a, e in zip(tree_leaves(snapshots), tree_leaves(expected), strict=True):
                agree(a[:, i].float(), e.float(), 1e-4)


@cases
def test_fewer_frames_than_every_give_no_snapshot(grid, pattern) -> None:
    """Fails where a short last window crashes instead of leaving T // every = 0 snapshots."""
    backbone = make(grid, pattern)
    x, carry, is_first = stream(backbone, grid, 2)
    _, _, snapshots = backbone(x, carry, is_first, 9)
    assert all(leaf.shape[:2] == (ROWS, 0) for leaf in tree_leaves(snapshots))


def past_gradients(backbone: Backbone, grid, reset: bool) -> list[Tensor]:
    """What frames from 4 on owe to the frames before and to the incoming carry."""
    x, carry, is_first = stream(backbone, grid, 9)
    is_first = torch.zeros_like(is_first)
    is_first[:, 4] = reset
    floats = [a for a in tree_leaves(carry) if a.requires_grad]
    y, after, _ = backbone(x, carry, is_first)
    # The cache keeps the keys of forgotten frames, marked as not valid: only what is read counts.
    y = torch.cat(
        [y[:, 4:], backbone(torch.randn_like(x), after, torch.zeros_like(is_first))[0]], 1
    )
    loss = (y * torch.randn_like(y)).sum()
    past, *carried = torch.autograd.grad(
        loss, [x, *floats], allow_unused=True, materialize_grads=True
    )
    return [past[:, :4], *carried]


@cases
def test_reset_forgets_exactly(grid, pattern) -> None:
    """Fails where anything at all of an episode leaks into the next one."""
    for gradient in past_gradients(make(grid, pattern), grid, reset=True):
        assert not gradient.any()


@pytest.mark.parametrize(
    ("grid", "pattern"), [c for c in CASES if c[1] not in (("attend:1", "mlp"), ("clock",))]
)
def test_without_reset_the_past_is_felt(grid, pattern) -> None:
    """Fails where the test above would pass on a network without memory (negative control)."""
    past, *carried = past_gradients(make(grid, pattern), grid, reset=False)
    assert past[:, -1].abs().sum() > 0
    if any(word.startswith("scan") for word in pattern):
        assert all(g.any() for g in carried[:2])
        assert past[:, 0].abs().sum() > 0


@cases
def test_reset_hides_every_value_of_the_past(grid, pattern, agree) -> None:
    """Fails where the numbers after a reset still depend on what was carried in."""
    backbone = make(grid, pattern)
    x, carry, is_first = stream(backbone, grid, 6)
    is_first[:, 0] = True
    huge = tree_map(lambda a: a * 1e3 if a.is_floating_point() else a, carry)
    with torch.no_grad():
        a, after_a, _ = backbone(x, carry, is_first)
        b, _, _ = backbone(x, huge, is_first)
        fresh, after_fresh, _ = backbone(x, backbone.initial(ROWS), is_first)
    assert torch.equal(a, b)
    agree(a, fresh, 1e-6)  # an empty cache is left out of the sums, a forgotten one is not
    states = zip(tree_leaves(after_a), tree_leaves(after_fresh), strict=True)
    assert all(torch.equal(p, q) for p, q in states if p.dtype == torch.bool)


@cases
def test_first_frame_of_a_stream_needs_no_mark(grid, pattern, agree) -> None:
    """Fails where a reset falls between the tokens of a frame instead of before the first one."""
    backbone = make(grid, pattern)
    x, _, is_first = stream(backbone, grid, 6)
    marked, unmarked = is_first.clone(), is_first.clone()
    marked[:, 0], unmarked[:, 0] = True, False
    with torch.no_grad():
        a, after_a, _ = backbone(x, backbone.initial(ROWS), marked)
        b, after_b, _ = backbone(x, backbone.initial(ROWS), unmarked)
    agree(a, b, 1e-5)
    for one, other in zip(tree_leaves(after_a), tree_leaves(after_b), strict=True):
        if one.is_floating_point():
            agree(one, other, 1e-5)


@cases
def test_carry_keeps_its_size(grid, pattern) -> None:
    """Fails where memory per environment grows with what it has seen."""
    backbone = make(grid, pattern)
    tokens = grid[0] * grid[1]
    expected = [(a.shape, a.dtype) for a in tree_leaves(backbone.initial(ROWS))]
    for frames in (1, 2, 70):
        is_first = torch.rand(ROWS, frames) < 0.1
        x = torch.randn(ROWS, frames, tokens, 8)
        _, after, _ = backbone(x, backbone.initial(ROWS), is_first)
        assert [(a.shape, a.dtype) for a in tree_leaves(after)] == expected


def test_rows_of_a_carry_can_be_picked(agree) -> None:
    """Fails where indexing a carry along the batch is not the same as having run those rows."""
    backbone = make(GRID, CASES[-1][1])
    x, carry, is_first = stream(backbone, GRID, 5)
    rows = torch.tensor([2, 0])
    with torch.no_grad():
        y, _, _ = backbone(x, carry, is_first)
        picked, _, _ = backbone(x[rows], tree_map(lambda a: a[rows], carry), is_first[rows])
        again = tree_unflatten(carry, tree_leaves(carry))
        unflattened, _, _ = backbone(x, again, is_first)
    agree(picked, y[rows], 1e-5)
    assert torch.equal(unflattened, y)


@pytest.mark.parametrize("word", ["", "conv", "Scan", "attention", "mlp:2", "scan 2x2"])
def test_unknown_words_are_refused(word: str) -> None:
    """Fails where a typo in a pattern passes, or the error does not say what is valid."""
    with pytest.raises(ValueError, match=r"model\.layers") as error:
        read_pattern((word,), GRID)
    for hint in (repr(word), "scan:HxW", "attend:K", "mlp"):
        assert hint in str(error.value)


@pytest.mark.parametrize("word", ["attend", "attend:0", "attend:-1", "window:x", "full:0"])
def test_frames_are_asked_for(word: str) -> None:
    """Fails where attention to no frame passes, or the error names another word than was given."""
    with pytest.raises(ValueError, match=rf"model\.layers: '{word}' .* '{word.split(':')[0]}:10'"):
        read_pattern((word,), GRID)


@pytest.mark.parametrize("layers", [("lssvwm", "mlp"), ("mlp", "window:4"), ("mamba:3",)], ids=str)
def test_the_name_of_a_pattern_stands_alone(layers: tuple[str, ...]) -> None:
    """Fails where a pattern among words passes, or is called unknown."""
    with pytest.raises(ValueError, match=r"stands alone, and only window:K and full:K"):
        read_pattern(layers, GRID)


@pytest.mark.parametrize("frames", [1, 4, 6, 8])
def test_a_window_is_as_long_as_it_says(frames: int) -> None:
    """Fails where layers that pass on what they saw reach further back than the window."""
    backbone = make(ONE, (f"window:{frames}",))
    x = torch.randn(1, 2 * frames, 1, 8, requires_grad=True)
    y, _, _ = backbone(x, backbone.initial(1), torch.zeros(1, 2 * frames, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(y[:, -1].sum(), x)
    seen = gradient[0].abs().sum((-2, -1)).flip(0) > 0
    assert not seen[frames:].any()
    assert seen[: 3 * ((frames - 1) // 3) + 1].all()


@pytest.mark.parametrize("block", ["2x3", "3x1", "0x1", "4x2", "2", "2x2x2", "-1x2", "axb"])
def test_blocks_that_do_not_tile_are_refused(block: str) -> None:
    """Fails where a block that does not fit the grid passes, or the error offers no valid one."""
    with pytest.raises(ValueError, match=r"model\.layers") as error:
        read_pattern((f"scan:{block}",), GRID)
    for hint in (f"'scan:{block}'", "2 x 4", "[1, 2]", "[1, 2, 4]"):
        assert hint in str(error.value)


@pytest.mark.parametrize(("width", "head"), [(8, 3), (8, 16), (12, 8), (9, 3), (8, 1)])
def test_heads_that_do_not_divide_are_refused(width: int, head: int) -> None:
    """Fails where a head size that cannot work passes, or the error lists no valid ones."""
    with pytest.raises(ValueError, match=rf"model\.head = {head}") as error:
        Backbone(Sizes(ONE, width, head, 4), ("mlp",))
    valid = [n for n in range(2, width + 1, 2) if width % n == 0]
    assert f"model.width = {width}" in str(error.value)
    assert str(valid) in str(error.value)


def test_empty_pattern_is_refused() -> None:
    """Fails where a model without any operation passes."""
    with pytest.raises(ValueError, match=r"model\.layers is empty"):
        Backbone(Sizes(ONE, 8, 4, 4), ())
