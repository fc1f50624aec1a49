"""Actions to vectors and back, in the units of the action space."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldmodel.actions import ActionCodec

SPACES = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiDiscrete([2, 3], start=[5, -2]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.Box(-2.0, 3.0, (2,)),
    spaces.Box(np.float32([-1, 0]), np.float32([1, 10])),
    spaces.Box(0.0, 1.0, (2, 3)),
    spaces.Box(-1.0, 1.0, ()),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_round_trip(space, batch: tuple[int, ...]) -> None:
    """Fails where an action taken is another one than the action imagined (start ≠ 0, shapes)."""
    space.seed(0)
    codec = ActionCodec(space)
    samples = np.stack([space.sample() for _ in range(int(np.prod(batch)))])
    action = torch.as_tensor(samples.reshape((*batch, *space.shape)))
    vector = codec.encode(action)
    assert vector.shape == (*batch, codec.size)
    assert vector.dtype == torch.float32
    assert vector.abs().max() <= 1 + 1e-6
    decoded = codec.decode(vector)
    assert decoded.shape == action.shape
    torch.testing.assert_close(decoded.to(action.dtype), action)


def test_categories_are_one_hot() -> None:
    """Fails where the columns of several categories overlap."""
    codec = ActionCodec(spaces.MultiDiscrete([2, 3], start=[5, -2]))
    assert codec.encode(torch.tensor([6, -2])).tolist() == [0, 1, 1, 0, 0]
    assert codec.decode(torch.tensor([0.1, 0.9, 0.2, 0.1, 0.7])).tolist() == [6, 0]


def test_small_dtypes_do_not_overflow() -> None:
    """Fails where 250 + 8 is counted in bytes, or in a type that torch cannot add."""
    codec = ActionCodec(spaces.MultiDiscrete([9, 3], start=[250, 0], dtype=np.uint16))
    action = torch.tensor([[258, 2], [250, 0]])
    assert codec.decode(codec.encode(action.to(torch.uint16))).tolist() == action.tolist()


def test_boxes_are_scaled_and_clipped_to_their_bounds() -> None:
    """Fails where an action outside of the space reaches the environment."""
    codec = ActionCodec(spaces.Box(np.float32([-2, 0]), np.float32([2, 10])))
    torch.testing.assert_close(codec.encode(torch.tensor([-2.0, 5.0])), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(codec.decode(torch.tensor([9.0, -9.0])), torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bounds_themselves_can_be_acted_out(dtype) -> None:
    """Fails where rounding takes an action a hair beyond its bounds, which environments refuse."""
    random = np.random.default_rng(0)
    bounds = np.sort(random.uniform(-3, 3, (2, 500)), 0).astype(dtype)
    space = spaces.Box(*bounds, dtype=dtype)
    codec = ActionCodec(space)
    for end in (-1.0, 1.0):
        acted = codec.decode(torch.full((500,), end)).numpy()
        assert space.contains(acted.astype(dtype))
        np.testing.assert_allclose(acted, bounds[int(end > 0)], atol=1e-6)


def test_integer_boxes_are_refused() -> None:
    """Fails where whole numbers pass as a continuous action, and come back as floats."""
    with pytest.raises(ValueError, match="must hold floats"):
        ActionCodec(spaces.Box(0, 9, (1,), np.int16))


def test_a_box_of_one_point_gives_no_nan() -> None:
    """Fails where an action dimension that cannot move (low = high) divides by zero."""
    codec = ActionCodec(spaces.Box(np.float32([0, 1]), np.float32([1, 1])))
    vector = codec.encode(torch.tensor([0.5, 1.0]))
    assert vector.isfinite().all()
    torch.testing.assert_close(codec.decode(vector), torch.tensor([0.5, 1.0]))


def test_all_actions_are_there_once() -> None:
    """Fails where an action is missing or comes twice."""
    codec = ActionCodec(spaces.Discrete(3, start=2))
    assert codec.decode(codec.all()).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    "space", [spaces.Box(-1, 1, (1,)), spaces.MultiDiscrete([2, 2]), spaces.Discrete(65)]
)
def test_too_many_actions_to_try_are_refused(space) -> None:
    """Fails where memory runs out instead, or nothing says what to do."""
    with pytest.raises(ValueError, match=r"behaviour\.compare"):
        ActionCodec(space).all()


@pytest.mark.parametrize(
    ("space", "hint"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "bounded"),
        (spaces.Box(0, np.inf, (2,)), "bounded"),
        (spaces.MultiBinary(3), "Declare MultiDiscrete, with 2 for each"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "MultiDiscrete"),
    ],
    ids=str,
)
def test_unsupported_spaces_are_refused(space, hint: str) -> None:
    """Fails where an action space that cannot work passes, or the error offers no way out."""
    with pytest.raises(ValueError, match="action space") as error:
        ActionCodec(space)
    assert hint in str(error.value)
