"""Memory Maze as an environment: contract, seeds, rewards, oracle, and the vector of it."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode

from envs import make
from envs.memory_maze.motion import CELL, HEADING, X, Y
from envs.memory_maze.world import SIZES, World
from runs.bench import maze as bench

OURS = [f"clew/MemoryMaze-{size}-v0" for size in SIZES]
THEIRS = [f"clew/MuJoCoMemoryMaze-{size}-v0" for size in SIZES if size != "7x7"]


@pytest.fixture
def env():
    """A maze of 9x9, bare."""
    return make("clew/MemoryMaze-9x9-v0").unwrapped


def play(env, seed, actions):
    """All that a sequence of actions leads to."""
    return [env.reset(seed=seed), *(env.step(action) for action in actions)]


def test_every_maze_is_here():
    """Fails where a size is registered and in none of these tests, or the other way round."""
    assert {i for i in gym.registry if "MemoryMaze" in i} == {*OURS, *THEIRS}


@pytest.mark.parametrize("env_id", OURS)
def test_keeps_the_gymnasium_contract(env_id):
    """Fails where observations, spaces, seeding or rendering break Gymnasium's rules."""
    check_env(gym.make(env_id, render_mode="rgb_array").unwrapped)


def test_the_seed_decides_everything(env):
    """Fails where anything is drawn from elsewhere, or two seeds give one maze."""
    actions = np.random.default_rng(0).integers(6, size=40)
    assert data_equivalence(play(env, 1, actions), play(env, 1, actions), exact=True)
    (one, other), (frame, second) = zip(env.reset(seed=1), env.reset(seed=2), strict=True)
    assert (one != other).any()
    assert (frame["maze_layout"] != second["maze_layout"]).any()


def test_episodes_go_on_from_the_seed(env):
    """Fails where every episode after a seeded reset is the same maze again."""
    layouts = [env.reset(seed=5)[1]["maze_layout"], env.reset()[1]["maze_layout"]]
    assert (layouts[0] != layouts[1]).any()
    env.reset(seed=5)
    assert (env.reset()[1]["maze_layout"] == layouts[1]).all()


def test_the_end_is_a_truncation_after_a_fixed_number_of_steps():
    """Fails where an episode terminates, ends early or late, or can be gone on with."""
    env = make("clew/MemoryMaze-7x7-v0").unwrapped
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(500)]
    assert ends[:-1] == [(False, False)] * 499
    assert ends[-1] == (False, True)
    with pytest.raises(ValueError, match="call reset"):
        env.step(0)


def stand(world, index, away=0.5):
    """Put the body beside an object, at rest."""
    world.bodies[0] = 0
    world.bodies[0, [X, Y]] = world.targets[0, index] + (away, 0)


def test_touching_what_is_asked_for_earns_one_and_asks_for_another(env):
    """Fails where the wrong object pays, one pays twice, or the same one is asked for again."""
    _, info = env.reset(seed=3)
    for _ in range(20):
        asked = info["target_index"]
        stand(env._world, (asked + 1) % 3)
        _, reward, *_, info = env.step(0)
        assert (reward, info["target_index"]) == (0, asked)
        stand(env._world, asked)
        _, reward, *_, info = env.step(0)
        assert reward == 1
        assert info["target_index"] != asked
        assert env.step(0)[1] == 0


def test_the_others_are_asked_for_equally_often():
    """Fails where the next object is always the next number."""
    world = World("9x9")
    world.reset(0, 0)
    counts = np.zeros((3, 3), int)
    for _ in range(900):
        before = world.asked[0]
        stand(world, before)
        assert world.step(np.array([0]), np.array([True]))[0] == 1
        counts[before, world.asked[0]] += 1
    assert (np.diag(counts) == 0).all()
    assert (np.abs(counts[~np.eye(3, dtype=bool)] - 150) < 55).all()  # five standard deviations


def test_objects_lie_in_rooms_and_apart_from_the_start():
    """Fails where objects lie in corridors or on one another, or one is touched at the start."""
    world = World("15x15", 30)
    for index in range(30):
        world.reset(index, index)
    for index in range(30):
        distances = np.linalg.norm(world.targets[index] - world.bodies[index, [X, Y]], axis=1)
        assert distances.min() >= CELL
        cells = (world.targets[index] / CELL).astype(int)
        assert len({tuple(cell) for cell in cells}) == 6
        assert world.rooms[index][cells[:, 1] + 1, cells[:, 0] + 1].all()
    assert world.step(np.zeros(30, int), np.ones(30, bool)).sum() == 0


def test_info_tells_where_everything_is(env):
    """Fails where an axis is flipped: forward must lead along agent_dir, through open cells."""
    _, info = env.reset(seed=7)
    layout = info["maze_layout"]
    assert layout.shape == (9, 9)
    assert all(layout[int(y), int(x)] == 1 for x, y in [info["agent_pos"], *info["targets_pos"]])
    before = info
    *_, info = env.step(1)
    moved = info["agent_pos"] - before["agent_pos"]
    assert moved @ before["agent_dir"] == pytest.approx(0.11, abs=0.01)
    assert make("clew/MemoryMaze-9x9-v0", {"info": False}).reset(seed=0)[1] == {}


@pytest.mark.parametrize("size", SIZES)
def test_the_oracle_finds_one_object_after_another(size):
    """Fails where a maze cannot be solved, or the oracle gets stuck: half its usual score."""
    scores = bench.ours(size, "oracle", 6)
    steps = SIZES[size].steps
    usual = {"7x7": 17.3, "9x9": 29.9, "11x11": 50.2, "13x13": 67.1, "15x15": 78.4}[size]
    assert min(scores) > 0.4 * usual, (scores, steps)


def test_explorers_walk_and_find_something():
    """Fails where the explorer stays in a corner; a random policy finds 0.2 on average."""
    assert np.mean(bench.ours("9x9", "explore", 20)) > 0.7


def test_a_policy_of_the_environment_is_the_one_of_the_bench(env):
    """Fails where oracle() steers by other coordinates than its measured scores."""
    env.reset(seed=11)
    score = sum(env.step(env.oracle())[1] for _ in range(300))
    assert score >= 4
    rng = np.random.default_rng(0)
    assert {env.explore(rng) for _ in range(200)} == set(range(6))


def test_a_vector_is_the_single_environments(env):
    """Fails where stepping together differs from stepping alone in any byte, through two ends."""
    count, size = 3, "7x7"
    vector = gym.make_vec(
        f"clew/MemoryMaze-{size}-v0", num_envs=count, vectorization_mode="vector_entry_point"
    )
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    singles = [make(f"clew/MemoryMaze-{size}-v0").unwrapped for _ in range(count)]
    frames, infos = vector.reset(seed=4)
    alone = [single.reset(seed=4 + i) for i, single in enumerate(singles)]
    assert all((frames[i] == alone[i][0]).all() for i in range(count))
    rng, over = np.random.default_rng(0), np.zeros(count, bool)
    for _ in range(1010):
        actions = rng.choice([1, 1, 1, 2, 4, 5, 0], count)
        frames, rewards, terminated, truncated, infos = vector.step(actions)
        for i, single in enumerate(singles):
            if over[i]:
                frame, info = single.reset()
                reward, end = 0.0, False
            else:
                frame, reward, _, end, info = single.step(actions[i])
            assert (frames[i] == frame).all()
            assert (rewards[i], terminated[i], truncated[i]) == (reward, False, end)
            assert (infos["agent_pos"][i] == info["agent_pos"]).all()
            assert infos["target_index"][i] == info["target_index"]
        over = truncated


def test_frames_may_be_written_into_one_array():
    """Fails where copy=False allocates all the same, or copy=True does not."""
    for copy in (True, False):
        vector = gym.make_vec("clew/MemoryMaze-7x7-v0", num_envs=2, copy=copy)
        first, _ = vector.reset(seed=0)
        second, *_ = vector.step(np.array([1, 1]))
        assert (first is second) != copy


@pytest.mark.parametrize("view", ["first-person", "top-down"])
@pytest.mark.parametrize("frame_size", [32, 64, 96])
def test_views_and_frame_sizes(view, frame_size):
    """Fails where a frame does not have the size asked for, or shows nothing."""
    env = make("clew/MemoryMaze-9x9-v0", {"view": view, "frame_size": frame_size})
    frame, _ = env.reset(seed=0)
    assert frame.shape == (frame_size, frame_size, 3)
    assert frame.std() > 10


def test_the_map_shows_the_maze_north_up():
    """Fails where the map is flipped: each cell's middle must have the colour of what is there."""
    world = World("9x9", view="top-down", frame_size=11 * 20)
    world.reset(0, 0)
    world.bodies[0, HEADING] = 0
    picture = world.frames()[0].astype(int)
    for k, target in enumerate(world.targets[0] / CELL):
        column, row = int((target[0] + 1) * 20), int((10 - target[1]) * 20)
        assert picture[row, column].argmax() == [0, 1, 2][k]  # red, green, blue


def test_a_rendered_picture_shows_both_views():
    """Fails where render() gives something else than the view beside the map."""
    env = make("clew/MemoryMaze-9x9-v0", {"render_mode": "rgb_array"})
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (256, 512, 3)
    assert picture[:, :256].std() > 10
    assert picture[:, 256:].std() > 10


def test_a_person_can_watch(monkeypatch):
    """Fails where the window cannot be opened, shown in, closed and opened again."""
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = make("clew/MemoryMaze-7x7-v0", {"render_mode": "human"})
    for seed in range(2):
        env.reset(seed=seed)
        env.step(1)
        env.close()


def test_without_pygame_the_cure_is_named(monkeypatch):
    """Fails where a missing pygame is a bare ImportError."""
    import sys

    monkeypatch.setitem(sys.modules, "pygame", None)
    env = make("clew/MemoryMaze-7x7-v0", {"render_mode": "human"}).unwrapped
    with pytest.raises(gym.error.DependencyNotInstalled, match="pip install pygame-ce"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": "10x10"}, "choose from 7x7, 9x9"),
        ({"frame_size": 4}, "16 to 1024"),
        ({"view": "sideways"}, "choose from first-person, top-down"),
        ({"render_mode": "ansi"}, "use None, 'rgb_array' or 'human'"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    """Fails where a typo is taken for a default."""
    from envs.memory_maze.env import MemoryMaze

    with pytest.raises(ValueError, match=message):
        MemoryMaze(**kwargs)


def test_bad_steps_are_refused(env):
    """Fails where an action out of range moves something, or a step comes before the reset."""
    with pytest.raises(ValueError, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    for action in (6, -1):
        with pytest.raises(ValueError, match="give 0 to 5"):
            env.step(action)
    vector = gym.make_vec("clew/MemoryMaze-7x7-v0", num_envs=2)
    with pytest.raises(ValueError, match="call reset"):
        vector.step(np.array([0, 0]))
    vector.reset(seed=0)
    for actions in ([0, 6], [0]):
        with pytest.raises(ValueError, match="give 2 numbers from 0 to 5"):
            vector.unwrapped.step(np.array(actions))
    with pytest.raises(ValueError, match="3 seeds for 2 mazes"):
        vector.reset(seed=[1, 2, 3])
