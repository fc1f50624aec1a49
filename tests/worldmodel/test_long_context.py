"""Windows, stretches and curriculum: what they must not change, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces

from worldmodel import latents as latent
from worldmodel.long_context import LongContextConfig, clean_prefix
from worldmodel.model import LossWeights, ModelConfig, Observed, WorldModel
from worldmodel.pattern import PATTERNS, read_pattern
from worldmodel.recall import Past, Recalls, pick_recalls
from worldmodel.types import Records, tree_leaves

ROWS, FRAMES = 3, 24
SMALL = ModelConfig(width=8, head=4, state=4, latents=2, classes=4, recalls=6, kept=5)


def world(**changes: object) -> WorldModel:
    return WorldModel(
        spaces.Box(0, 1, (3,)),
        spaces.Discrete(2),
        replace(SMALL, **changes),  # pyright: ignore[reportArgumentType]
    )


def records(frames: int = FRAMES) -> Records:
    return Records(
        {"observation": torch.rand(ROWS, frames, 3)},
        torch.randint(0, 2, (ROWS, frames)),
        torch.rand(ROWS, frames),
        torch.rand(ROWS, frames) < torch.tensor([[0.0], [0.1], [0.3]]),
        torch.rand(ROWS, frames) < 0.05,
    )


@pytest.mark.parametrize("layers", [("lssvwm",), ("window:5",), ("gru",)])
@pytest.mark.parametrize("window", [1, 4, 12])
def test_windows_change_neither_loss_nor_gradient(layers, window: int, monkeypatch, agree) -> None:
    """Fails where recomputing a window forgets what it was given, cuts the gradient, or weighs
    frames by their window: how much is held in memory must not change what is learned."""
    monkeypatch.setattr("worldmodel.model.latent.sample", latent.mode)
    model = world(layers=layers, loss=replace(LossWeights(), recall=0.0))
    data, carry = records(), model.initial(ROWS)

    def gradients(window: int | None) -> tuple:
        learned = model.loss(data, carry, every=4 if window != 1 else 1, window=window)
        model.zero_grad()
        learned.total.backward()
        return learned, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole, expected = gradients(None)
    parts, actual = gradients(window)
    agree(parts.total, whole.total, 1e-4)
    agree(parts.observed.features, whole.observed.features, 1e-4)
    for a, e in zip(tree_leaves(parts.carry), tree_leaves(whole.carry), strict=True):
        agree(a.float(), e.float(), 1e-4)
    for a, e in zip(actual, expected, strict=True):
        agree(a, e, 1e-3)
    if window != 1:
        for a, e in zip(tree_leaves(parts.snapshots), tree_leaves(whole.snapshots), strict=True):
            agree(a.float(), e.float(), 1e-4)


def test_recomputed_windows_draw_the_same_latents() -> None:
    """Fails where the backward pass sees other samples than the forward pass did: the gradient
    would be that of another loss. With all windows held, it must be the same."""
    model, data = world(), records()

    def gradient(window: int) -> list[torch.Tensor]:
        torch.manual_seed(5)
        learned = model.loss(data, model.initial(ROWS), window=window)
        model.zero_grad()
        learned.total.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    recomputed = gradient(6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.model.checkpoint", lambda see, *args, use_reentrant: see(*args))
        held = gradient(6)
    for a, b in zip(recomputed, held, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_recall_reaches_back_beyond_the_window() -> None:
    """Fails where frames before the window are not recalled, or recalled though over."""
    model, data = world(kept=4, recalls=200), records()
    data.is_first[:] = False
    learned = model.loss(data, model.initial(ROWS))
    assert (learned.past.key > -torch.inf).all()
    again = records()
    again.is_first[:] = False
    with_past = model.loss(again, learned.carry, learned.past)
    assert with_past.past.age.max() > FRAMES
    again.is_first[:, 0] = True
    over = model.loss(again, learned.carry, learned.past)
    assert over.past.age.max() <= FRAMES


def test_what_lay_before_the_window_is_what_is_recalled(agree) -> None:
    """Fails where the kept frames' latents are not the target: by hand for a single kept frame."""
    model, data = world(kept=1, recalls=50, imagined=0.0), records()
    data.is_first[:] = False
    features = torch.randn(ROWS, FRAMES, 1, 8)
    kept = latent.unimix(torch.randn(ROWS, 1, 1, 2, 4) * 9)
    past = Past(kept, torch.full((ROWS, 1), 30), torch.full((ROWS, 1), torch.inf))
    own = latent.unimix(torch.randn(ROWS, FRAMES, 1, 2, 4) * 9)
    observed = Observed(features, own.exp(), own)
    torch.manual_seed(2)
    surprise = torch.rand(ROWS, FRAMES)
    loss = model._recall_loss(observed, surprise, data.is_first, past, ~data.is_first)
    torch.manual_seed(2)
    surprise = torch.rand(ROWS, FRAMES)
    picks = pick_recalls(surprise, data.is_first, past, 50)
    nats = []
    for row, index, later, gap, exists in _each(picks):
        target = kept[row, 0] if index == 0 else own[row, index - 1]
        guess = model.recall(features[row, later], gap.float())
        nats += [-(target.exp() * guess).sum()] if exists else []
    assert (picks.past == 0).float().mean() > 0.3
    assert picks.exists[picks.past == 0].all()
    agree(loss, torch.stack(nats).mean(), 1e-4)


def _each(picks: Recalls):
    """Each pick of each row."""
    for row in range(ROWS):
        yield from ((row, *one) for one in zip(*(part[row] for part in picks), strict=True))


def test_imagined_frames_replace_what_was_seen_only_where_asked() -> None:
    """Fails where training on own dreams is on when it is off, or replaces first frames."""
    model, data = world(imagined=1.0, loss=replace(LossWeights(), recall=0.0)), records()
    data.is_first[:] = True
    torch.manual_seed(0)
    dreamed = model.loss(data, model.initial(ROWS)).observed
    assert torch.isfinite(dreamed.features).all()
    led = (model.actions.encode(data.prev_action), data.is_first, model.initial(ROWS))
    entered = model._dream_some(dreamed.latents, *led)
    assert torch.equal(entered, dreamed.latents)
    data.is_first[:] = False
    entered = model._dream_some(dreamed.latents, *led)
    assert torch.equal(entered[:, 0], dreamed.latents[:, 0])  # nothing was there to expect it from
    assert not torch.equal(entered[:, 1], dreamed.latents[:, 1])


def test_a_clean_prefix_is_looked_at_without_loss() -> None:
    """Fails where frames of the prefix count, or the share of such rows is another."""
    first = torch.zeros(2000, 40, dtype=torch.bool)
    assert clean_prefix(first, 0.0).all()
    counts = clean_prefix(first, 0.5)
    prefix = (~counts).sum(1)
    assert 0.45 < (prefix > 0).float().mean().item() < 0.55
    assert prefix[prefix > 0].min() >= 20
    assert prefix.max() <= 36
    assert (counts.int().diff(dim=1) >= 0).all()
    model, data = world(), records()
    nothing = model.loss(data, model.initial(ROWS), counts=torch.zeros_like(data.is_first))
    assert nothing.total == 0
    assert model.loss(data, model.initial(ROWS)).losses["recall"] > 0


def test_a_curriculum_grows_by_updates() -> None:
    """Fails where a length comes too early, too late or never."""
    config = LongContextConfig(curriculum=(8, 16), curriculum_updates=10, window=8, gradient=16)
    lengths = [config.length(n, 32) for n in range(25)]
    assert lengths == [8] * 10 + [16] * 10 + [32] * 5
    assert [config.stretch(n) for n in (8, 16, 32)] == [8, 16, 16]
    assert [config.held(n) for n in (8, 16, 32)] == [8, 8, 8]
    assert LongContextConfig().stretch(77) == LongContextConfig().held(77) == 77


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"window": -1}, "context.window = -1"),
        ({"window": 8, "gradient": 12}, "multiple of context.window = 8"),
        ({"curriculum": (16, 8)}, "context.curriculum"),
        ({"curriculum": (0,)}, "context.curriculum"),
        ({"curriculum_updates": 0}, "curriculum_updates"),
        ({"clean_prefix": 1.5}, "clean_prefix"),
    ],
)
def test_nonsense_is_refused(settings: dict, named: str) -> None:
    """Fails where a setting that cannot work is found an hour later."""
    with pytest.raises(ValueError, match=named):
        LongContextConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"window": 24, "gradient": 24}, "context.gradient = 24 must divide"),
        ({"window": 24}, "context.window = 24 must divide"),
        ({"window": 8}, "behaviour.starts = 16 must divide every window"),
        ({"curriculum": (24,)}, "behaviour.starts = 16 must divide"),
        ({"curriculum": (128,)}, "must not go beyond replay.context = 64"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(settings: dict, named: str) -> None:
    """Fails where windows that leave a rest pass."""
    with pytest.raises(ValueError, match=named):
        LongContextConfig(**settings).check(64, 16)


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (4, 4), (8, 8)])
def test_named_patterns_have_as_many_parameters(grid: tuple[int, int]) -> None:
    """Fails where the paper's comparison would compare sizes instead of architectures."""
    from worldmodel.backbone import Backbone
    from worldmodel.layers import Sizes

    def parameters(name: str) -> int:
        backbone = Backbone(Sizes(grid, 64, 16, 16), (name,))
        return sum(p.numel() for p in backbone.parameters())

    counts = {name: parameters(name) for name in PATTERNS}
    for name, count in counts.items():
        assert count == pytest.approx(counts["lssvwm"], rel=0.1), name


def test_the_default_pattern_mixes_blocks_where_a_grid_has_room() -> None:
    """Fails where an image's memory is bound to places, or to whole frames only."""
    blocks = {
        grid: [word.numbers for word in read_pattern(("lssvwm",), grid) if word.kind == "scan"]
        for grid in ((1, 1), (2, 2), (4, 8))
    }
    assert blocks[1, 1] == [(1, 1), (1, 1)]
    assert blocks[2, 2] == [(1, 1), (2, 2)]
    assert blocks[4, 8] == [(1, 1), (4, 8)]


def test_patterns_are_checked_with_the_config() -> None:
    """Fails where a pattern that cannot be built is found only when an environment is there."""
    for layers, hint in (
        (("lssvm",), "nearest: lssvwm"),
        (("lssvwm", "mlp"), "stands alone"),
        (("mamba:3",), "stands alone"),
        (("scan:3x3",), "does not tile the grid of 4 x 4"),
    ):
        with pytest.raises(ValueError, match=hint):
            ModelConfig(layers=layers)
    with pytest.raises(ValueError, match=r"model\.head = 12"):
        ModelConfig(head=12)
