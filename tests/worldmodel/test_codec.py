"""Observations to tokens and back, for every kind of observation space."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from worldmodel.codec import DiscreteCodec, ImageCodec, ObservationCodec, VectorCodec
from worldmodel.spaces import flatten_observation, flatten_space, space_from_json, space_to_json

WIDTH, GRID, FRAMES = 8, 4, 6


def pixels(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


BIT = spaces.Discrete(2)
IMAGES = {
    "symbols": pixels(7, 7, 3),
    "tile": pixels(56, 56, 3),
    "tall": pixels(64, 48, 1),
    "wide": pixels(5, 33, 2),
    "small": pixels(3, 2, 1),
    "large": pixels(84, 84, 3),
    "float": spaces.Box(-1.0, 1.0, (10, 10, 3)),
    "depth": spaces.Box(0, 60_000, (5, 6, 1), np.uint16),
    "heights": spaces.Box(-np.inf, np.inf, (5, 1, 6)),
}
PARTS = {
    "scalar": spaces.Box(-1.0, 1.0, ()),
    "vector": spaces.Box(-np.inf, np.inf, (5,)),
    "matrix": spaces.Box(-100.0, 100.0, (3, 4)),
    "video": spaces.Box(0.0, 1.0, (2, 2, 2, 2)),
    "halves": spaces.Box(-1.0, 1.0, (3,), np.float16),
    "doubles": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "counts": spaces.Box(0, 2**40, (2,), np.int64),
    "flags": spaces.Box(0, 1, (3,), np.bool_),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "discrete": spaces.Discrete(4),
    "started": spaces.Discrete(3, start=-5),
    "multi": spaces.MultiDiscrete([2, 5, 3]),
    "multi started": spaces.MultiDiscrete([[2, 5], [3, 2]], start=[[1, 2], [3, -4]]),
    "symbols of a grid": spaces.MultiDiscrete(np.full((7, 7, 3), [11, 6, 4]), dtype=np.uint8),
    "binary": spaces.MultiBinary(3),
    "binary matrix": spaces.MultiBinary([2, 2]),
}
LEAVES = IMAGES | PARTS


def frames(space, number: int) -> dict[str, Tensor]:
    """Sampled observations of a space, by the names of its leaves."""
    space.seed(0)
    leaves = flatten_space(space)
    samples = [flatten_observation(leaves, space.sample()) for _ in range(number)]
    return {name: torch.as_tensor(np.stack([s[name] for s in samples])) for name in leaves}


def perfect(part, value: Tensor) -> Tensor:
    """The raw decoding that is exactly right."""
    if isinstance(part, ImageCodec):
        return part.prepare(value)
    if isinstance(part, VectorCodec):
        flat = (value.double().reshape(len(value), -1) - part.middle) / part.scale
        return torch.where(part.bounded, flat, flat.sign() * (1 + flat.abs()).log()).float()
    assert isinstance(part, DiscreteCodec)
    index = part.prepare(value)
    one_hot = [torch.eye(n)[i] for n, i in zip(part.counts, index.unbind(-1), strict=True)]
    return 100 * torch.cat(one_hot, -1)


@pytest.mark.parametrize("space", LEAVES.values(), ids=LEAVES.keys())
def test_shapes(space) -> None:
    """Fails where a kind of observation cannot be encoded, decoded, scored or restored."""
    codec = ObservationCodec(space, WIDTH, GRID)
    grid = (GRID, GRID) if space in IMAGES.values() else (1, 1)
    seen = frames(space, FRAMES)
    prepared = codec.prepare(seen)
    tokens = codec.encode(prepared)
    assert codec.grid == grid
    assert tokens.shape == (FRAMES, grid[0] * grid[1], WIDTH)
    decoded = codec.decode(tokens)
    assert codec.loss(decoded, prepared).shape == (FRAMES,)
    restored = codec.restore(decoded)
    assert {k: a.shape for k, a in restored.items()} == {k: a.shape for k, a in seen.items()}
    codec.loss(decoded, prepared).sum().backward()
    assert all(p.grad is not None for p in codec.parameters())


@pytest.mark.parametrize("space", LEAVES.values(), ids=LEAVES.keys())
def test_perfect_decoding_costs_nothing_and_restores(space) -> None:
    """Fails where the loss has another target than the observation, or restoring changes it."""
    codec = ObservationCodec(space, WIDTH, GRID)
    ((name, value),) = frames(space, 6).items()
    best = {name: perfect(codec.parts[0], value)}
    prepared = codec.prepare({name: value})
    torch.testing.assert_close(codec.loss(best, prepared), torch.zeros(6), atol=1e-4, rtol=0)
    worse = {name: 0.3 - best[name]}
    assert (codec.loss(worse, prepared) > 1e-3).all()
    restored = codec.restore(best)[name].to(
        value.dtype if value.is_floating_point() else torch.float
    )
    torch.testing.assert_close(restored, value.to(restored.dtype), rtol=1e-4, atol=1e-3)


def test_the_loss_of_categories_by_hand() -> None:
    """Fails where categories of different sizes are normalised together, or padding counts.

    Against logits of 0 a category of n classes costs log n: log 2 + log 5 + log 3 = log 30.
    """
    codec = DiscreteCodec(PARTS["multi"], WIDTH)
    index = codec.prepare(torch.tensor([[1, 4, 0], [0, 2, 2]]))
    nats = codec.loss(torch.zeros(2, 10), index)
    torch.testing.assert_close(nats.exp(), torch.tensor([30.0, 30.0]))


@pytest.mark.parametrize("space", LEAVES.values(), ids=LEAVES.keys())
def test_frames_are_encoded_alone(space) -> None:
    """Fails where a frame's tokens depend on the rest of the batch, or not on the frame."""
    codec = ObservationCodec(space, WIDTH, GRID)
    ((name, value),) = frames(space, 12).items()
    with torch.no_grad():
        together = codec.encode(codec.prepare({name: value}))
        alone = torch.cat([codec.encode(codec.prepare({name: one})) for one in value.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.std(0).max() > 1e-3


@pytest.mark.parametrize("space", [IMAGES["tall"], IMAGES["wide"], IMAGES["large"]], ids=str)
def test_tokens_lie_where_the_pixels_are(space) -> None:
    """Fails where rows and columns are swapped: the grid must see the picture as it is."""
    codec = ImageCodec(space, WIDTH, GRID)
    height, width, channels = space.shape
    with torch.no_grad():
        blank = torch.zeros(1, height, width, channels)
        dot = blank.clone()
        dot[0, :4, width - 4 :] = 255
        difference = codec.encode(codec.prepare(dot)) - codec.encode(codec.prepare(blank))
    row, column = divmod(int(difference.norm(dim=-1).argmax()), GRID)
    assert row == 0
    assert column == (width - 3) * GRID // codec.side


def test_unbounded_images_are_restored_as_they_are() -> None:
    """Fails where a picture without bounds (heights, depths) is clipped to [0, 1]."""
    codec = ImageCodec(spaces.Box(-np.inf, np.inf, (4, 4, 1)), WIDTH, GRID)
    image = 5 * torch.randn(2, 4, 4, 1)
    torch.testing.assert_close(codec.restore(codec.prepare(image)), image)


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max, 1e6], ids=str)
def test_wide_pictures_are_read_by_symlog(bound) -> None:
    """Fails where bounds that nothing comes near make all frames alike, or one frame is a shock."""
    codec = ImageCodec(spaces.Box(np.float32(-bound), np.float32(bound), (4, 4, 1)), WIDTH, GRID)
    one, other = codec.prepare(torch.ones(1, 4, 4, 1)), codec.prepare(torch.full((1, 4, 4, 1), 9e5))
    assert (one - np.log(2)).abs().max() < 1e-6
    assert 13 < other.max() < 14
    assert codec.about == "picture of 4 x 4 x 1, by symlog, in 4 x 4 tokens"


def test_bounded_images_are_restored_inside_their_bounds() -> None:
    """Fails where a decoded picture leaves the observation space."""
    codec = ImageCodec(IMAGES["float"], WIDTH, GRID)
    low, high = IMAGES["float"].low.min(), IMAGES["float"].high.max()
    patches = 3 * torch.randn_like(codec.prepare(torch.zeros(2, *IMAGES["float"].shape)))
    restored = codec.restore(patches)
    assert restored.min() == low
    assert restored.max() == high


@pytest.mark.parametrize("dtype", [torch.float, torch.bfloat16], ids=str)
def test_gradient_of_the_squared_error(dtype: torch.dtype) -> None:
    """Fails where the gradient by hand is not that of the error, or has another type."""
    codec = ImageCodec(IMAGES["float"], WIDTH, GRID)
    target = codec.prepare(frames(IMAGES["float"], 3)["observation"])
    decoded = torch.randn_like(target).to(dtype).requires_grad_()
    weight = torch.randn(3)
    (codec.loss(decoded, target) * weight).sum().backward()
    found, decoded.grad = decoded.grad, None
    ((decoded - target).square().sum((1, 2, 3)) * weight).sum().backward()
    torch.testing.assert_close(
        found, decoded.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
    )


def test_constant_images_give_no_nan() -> None:
    """Fails where an image space of one value divides by its empty range."""
    space = spaces.Box(0, 0, (4, 4, 1), np.uint8)
    codec = ObservationCodec(space, WIDTH, GRID)
    assert codec.encode(codec.prepare(frames(space, 2))).isfinite().all()


NESTED = spaces.Dict(
    {
        "camera": pixels(8, 8, 3),
        "inner": spaces.Dict({"speed": spaces.Box(-1.0, 1.0, (2,)), "text": spaces.Text(5)}),
        "pair": spaces.Tuple([spaces.Discrete(3), spaces.Tuple([spaces.MultiBinary(2)])]),
        "mission": spaces.Text(10),
    }
)


def test_nested_spaces_are_named_and_text_is_dropped() -> None:
    """Fails where a leaf is lost, misnamed, or text reaches a network."""
    names = ["camera", "inner/speed", "pair/0", "pair/1/0"]
    assert sorted(flatten_space(NESTED)) == names
    NESTED.seed(0)
    seen = NESTED.sample()
    flat = flatten_observation(flatten_space(NESTED), seen)
    np.testing.assert_array_equal(flat["pair/1/0"], seen["pair"][1][0])
    np.testing.assert_array_equal(flat["inner/speed"], seen["inner"]["speed"])


def test_a_lone_space_has_a_name() -> None:
    """Fails where an observation that is no Dict has no key."""
    assert list(flatten_space(spaces.Discrete(2))) == ["observation"]


def test_all_parts_of_nested_observations_count() -> None:
    """Fails where a part of an observation is not seen, or missing from the loss."""
    codec = ObservationCodec(NESTED, WIDTH, GRID)
    seen = codec.prepare(frames(NESTED, 2))
    tokens = codec.encode(seen)
    assert tokens.shape == (2, 16, WIDTH)
    decoded = codec.decode(tokens)
    total = codec.loss(decoded, seen)
    parts = [p.loss(decoded[n], seen[n]) for n, p in zip(codec.names, codec.parts, strict=True)]
    torch.testing.assert_close(total, torch.stack(parts).sum(0))
    tokens.square().sum().backward()
    for name, part in zip(codec.names, codec.parts, strict=True):
        assert all(p.grad.any() for p in part.encoder.parameters() if p.grad is not None), name


def test_what_was_observed_stays_as_it_was() -> None:
    """Fails where preparing an observation writes into it."""
    space = spaces.Dict({name: space for name, space in LEAVES.items()})
    codec = ObservationCodec(space, WIDTH, GRID)
    seen = frames(space, 2)
    before = {name: value.clone() for name, value in seen.items()}
    prepared = codec.prepare(seen)
    codec.loss(codec.decode(codec.encode(prepared)), prepared)
    assert all(torch.equal(value, before[name]) for name, value in seen.items())


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Dict({"a/b": BIT, "a": spaces.Dict({"b": BIT})}), "2 parts .* are called 'a/b'"),
        (spaces.Dict({"a/0": BIT, "a": spaces.Tuple([BIT])}), "2 parts .* are called 'a/0'"),
        (spaces.Dict({0: BIT}), "A key of the observation is 0: give each a name"),  # pyright: ignore
        (spaces.Tuple([spaces.Dict({"": BIT})]), "A key of the observation is '': give each a n"),
    ],
)
def test_keys_that_name_nothing_are_refused(space, said: str) -> None:
    """Fails where a part of an observation silently takes the place of another."""
    with pytest.raises(ValueError, match=said):
        flatten_space(space)


@pytest.mark.parametrize(
    "leaf", [spaces.Sequence(spaces.Discrete(2)), spaces.Graph(spaces.Discrete(2), None)], ids=str
)
def test_unsupported_leaves_are_refused_by_name(leaf) -> None:
    """Fails where a space that cannot be encoded passes, or the error does not say which."""
    space = spaces.Dict({"outer": spaces.Dict({"odd": leaf}), "fine": spaces.Discrete(2)})
    with pytest.raises(ValueError, match="'outer/odd'") as error:
        ObservationCodec(space, WIDTH, GRID)
    for hint in ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple"):
        assert hint in str(error.value)


@pytest.mark.parametrize(
    "space", [spaces.Dict({}), spaces.Text(3), spaces.Dict({"t": spaces.Text(3)})], ids=str
)
def test_observations_of_nothing_are_refused(space) -> None:
    """Fails where a model of no observation passes."""
    with pytest.raises(ValueError, match="Nothing can be observed") as error:
        ObservationCodec(space, WIDTH, GRID)
    assert "Box" in str(error.value)


SAVED = LEAVES | {
    "half bounded": spaces.Box(np.float32([-np.inf, 0]), np.float32([1, np.inf])),
    "nested": spaces.Dict(
        {"a": spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2, start=4)]), "b": pixels(4, 4, 3)}
    ),
}


@pytest.mark.parametrize("space", SAVED.values(), ids=SAVED.keys())
def test_spaces_survive_json(space) -> None:
    """Fails where a saved model meets another space than it was trained on."""
    assert space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))) == space


def test_saved_keys_keep_their_order() -> None:
    """Fails where a Dict whose keys are not sorted comes back sorted, and no weights fit it."""
    space = spaces.Dict(b=spaces.Discrete(2), a=spaces.Dict(z=pixels(4, 4, 3), y=pixels(8, 8, 1)))
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert list(flatten_space(again)) == list(flatten_space(space)) == ["b", "a/z", "a/y"]


def test_unknown_saved_spaces_are_refused() -> None:
    """Fails where a damaged checkpoint is read as some space."""
    with pytest.raises(ValueError, match="'Sphere' is no space"):
        space_from_json({"type": "Sphere"})
