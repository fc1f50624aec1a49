"""Led mazes and tours: walks that are walks, and that come back to what was seen."""

from itertools import pairwise

import numpy as np
import pytest

from envs.memory_maze import guide
from envs.registry import make
from envs.testing import EnvContract

SIZES = ("7x7", "9x9", "15x15")


class TestLedMaze(EnvContract):
    env_id = "clew/LedMaze-7x7-v0"
    steps = 100


def led(env, steps):
    """Pictures and places of a walk."""
    rng = np.random.default_rng(0)
    pictures, places = [], []
    for _ in range(steps):
        action = env.unwrapped.explore(rng)
        picture, *_, info = env.step(action)
        pictures.append(picture)
        places.append((*map(int, info["agent_pos"]), *np.round(info["agent_dir"]).astype(int)))
        code = env.unwrapped._codes[places[-1][0], places[-1][1]]
        assert (code == action[: guide.CODE]).all(1).any(), "one is not where one was led"
    return pictures, places


@pytest.mark.parametrize("size", SIZES)
def test_a_walk_is_made_of_steps_and_turns(size):
    """Fails where a walk jumps, stands still, or goes through walls or objects."""
    env = make(f"clew/LedMaze-{size}-v0")
    for seed in range(3):
        _, info = env.reset(seed=seed)
        objects = {tuple(map(int, place)) for place in info["targets_pos"]}
        start = tuple(map(int, info["agent_pos"]))
        _, places = led(env, 200)
        for (x, y, *facing), (to_x, to_y, *to_facing) in pairwise(places):
            moved, turned = abs(to_x - x) + abs(to_y - y), facing != to_facing
            assert moved + turned == 1
            assert info["maze_layout"][to_y, to_x]
            assert (to_x, to_y) not in objects - {start}


def test_the_way_back_shows_the_same_pictures():
    """Fails where a place looks another way when it is seen again."""
    env = make("clew/LedMaze-9x9-v0")
    first, _ = env.reset(seed=1)
    env.unwrapped.retrace(40, np.random.default_rng(0))
    pictures = [first, *led(env, 120)[0]]
    assert np.array_equal(pictures[40:79], pictures[38::-1])
    assert np.array_equal(pictures[79:119], pictures[1:41])
    assert len(np.unique(np.array(pictures[:40]), axis=0)) > 10


def test_walks_come_back_by_themselves():
    """Fails where data hold nothing that could be remembered: at times one goes back."""
    rng = np.random.default_rng(0)
    places = guide.walk(np.ones((15, 15), np.uint8), (0, 0, 0), 400, rng)
    again = [place in places[:t] for t, place in enumerate(places)]
    assert len(places) == 401
    assert 0.2 < np.mean(again) < 0.95


def test_nobody_is_led_into_a_wall():
    """Fails where a place inside a wall is taken."""
    env = make("clew/LedMaze-9x9-v0")
    _, info = env.reset(seed=0)
    y, x = np.argwhere(info["maze_layout"] == 0)[0]
    code = guide.place_codes(9)[x, y, 0]
    *_, after = env.step(np.concatenate([code, code]))
    assert np.array_equal(after["agent_pos"], info["agent_pos"])
    with pytest.raises(ValueError, match="action"):
        env.unwrapped.step(np.full(2 * guide.CODE, 2.0))


def test_codes_tell_near_places_from_far_ones():
    """Fails where two places have one code, or the product of codes does not fall with distance."""
    codes = guide.place_codes(9)
    products = np.einsum("xyhd,d->xyh", codes, codes[4, 4, 0]) / guide.CODE
    assert products.argmax() == np.ravel_multi_index((4, 4, 0), products.shape)
    next_door = np.mean(
        [products[3, 4, 0], products[5, 4, 0], products[4, 3, 0], products[4, 5, 0]]
    )
    far = products[[0, 0, 8, 8], [0, 8, 0, 8]]
    assert products.max() > 1.5 * next_door > 0
    assert np.abs(far).mean() < 0.2 * products.max()


@pytest.mark.parametrize("size", SIZES)
def test_a_tour_goes_round_and_touches_nothing(size):
    """Fails where a tour gets stuck, earns something, or does not come back."""
    env, back = make(f"clew/MemoryMaze-{size}-v0"), []
    for seed in range(4):
        _, info = env.reset(seed=seed)
        env.unwrapped.retrace(150, np.random.default_rng(seed))
        poses, rewards = [], []
        for _ in range(400):
            _, reward, *_, info = env.step(env.unwrapped.explore(np.random.default_rng(0)))
            poses.append([*info["agent_pos"], *info["agent_dir"]])
            rewards.append(reward)
        poses = np.array(poses)
        near = np.linalg.norm(poses[250:, None, :2] - poses[None, :200, :2], axis=-1) < 0.25
        alike = (poses[250:, None, 2:] * poses[None, :200, 2:]).sum(-1) > np.cos(np.radians(15))
        back.append((near & alike).any(1).mean())
        assert len({(int(x), int(y)) for x, y in poses[:, :2]}) > 4
    assert np.mean(back) > 0.6
    assert not any(rewards)


def test_asking_leads_to_every_place():
    """Fails where the second of two actions leads elsewhere than the first announces."""
    env = make("clew/LedMaze-7x7-v0")
    _, info = env.reset(seed=0)
    action = env.unwrapped.explore(np.random.default_rng(0))
    asked = env.unwrapped.ask(action)
    y, x = np.argwhere(info["maze_layout"])[-1]
    first, second = asked[y, x, 1]
    assert np.array_equal(first[: guide.CODE], action[: guide.CODE])
    assert np.array_equal(first[guide.CODE :], second[: guide.CODE])
    *_, info = env.step(second)
    assert tuple(map(int, info["agent_pos"])) == (x, y)
    assert tuple(np.round(info["agent_dir"]).astype(int)) == guide.AHEAD[1]
