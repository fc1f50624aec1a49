"""How fast Memory Maze is, and how true to the original: `python -m runs.bench.maze PART`.

`ours` and `original` play episodes by a policy and keep every score; `speed` times both in one run;
`picture` draws both at the same poses; `layouts` compares ours with labmaze's; `paired` plays ours
in the very mazes of an earlier `original`, which takes the luck of the draw out. The original is
played without drawing, and its test of touch is replaced by the same test without a Python loop
over contacts: scores are the same, and come several times sooner. Everything is written into
runs/results/memory-maze/.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro

from envs.memory_maze.layout import generate
from envs.memory_maze.motion import CELL, HEADING, TURN, X, Y
from envs.memory_maze.oracle import Oracle, wander
from envs.memory_maze.world import SIZES, World
from envs.mujoco_memory_maze import MuJoCoMemoryMaze, load_tasks
from runs import folder, machine
from runs.bench import timing

RESULTS = Path(__file__).parents[1] / "results" / "memory-maze"
PUBLISHED = {"9x9": 34.8, "11x11": 58.0, "13x13": 74.5, "15x15": 87.7}  # mean max, Pasukonis et al.
MAZES = 64
CONTROLS = np.array([(0, 0), (-1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1)], np.float64)

Policy = Literal["oracle", "random", "explore"]
Part = Literal["ours", "original", "speed", "picture", "layouts", "paired"]


def main(
    part: tyro.conf.Positional[Part],
    size: str = "9x9",
    policy: Policy = "oracle",
    episodes: int = 100,
    seconds: float = 20.0,
) -> None:
    """Measure one part; `size`, `policy`, `episodes` are for scores, `seconds` for the speed.

    `episodes` is also how many layouts are drawn of each kind.
    """
    if part == "speed":
        _write("speed", speed(size, seconds))
    elif part == "layouts":
        _write("layouts", {size: layouts(size, episodes) for size in SIZES})
    elif part == "paired":
        _write(f"paired-{policy}-{size}", paired(size, policy))
    elif part == "picture":
        picture(RESULTS / "side-by-side.png")
    else:
        play = ours if part == "ours" else original
        _write(f"{part}-{policy}-{size}", summary(size, policy, play(size, policy, episodes)))


def _write(name: str, report: dict[str, Any]) -> None:
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.write_json(path, report)
    shown = {key: value for key, value in report.items() if key != "scores"}
    print(f"{shown}\nwritten to {path}")


def summary(size: str, policy: Policy, scores: list[float]) -> dict[str, Any]:
    """Scores with their mean, its standard error, and what was published."""
    return {
        "size": size,
        "policy": policy,
        "episodes": len(scores),
        "steps": SIZES[size].steps,
        "mean": float(np.mean(scores)),
        "standard_error": float(np.std(scores, ddof=1) / np.sqrt(len(scores))),
        "published_mean_max": PUBLISHED.get(size),
        "scores": scores,
    }


def ours(size: str, policy: Policy, episodes: int) -> list[float]:
    """Scores of episodes in our mazes, all at once; episode i has seed i."""
    world = World(size, episodes)
    for index in range(episodes):
        world.reset(index, index)
    return _play(world, policy)


def _play(world: World, policy: Policy) -> list[float]:
    episodes = world.count
    choose = [_chooser(policy, index) for index in range(episodes)]
    layouts, everywhere = 1 - world.walls[:, 1:-1, 1:-1], np.ones(episodes, np.bool_)
    scores = np.zeros(episodes)
    for _ in range(world.size.steps):
        actions = [
            choose[i](
                layouts[i],
                world.bodies[i, [X, Y]] / CELL,
                world.bodies[i, HEADING],
                world.bodies[i, TURN],
                world.targets[i, world.asked[i]] / CELL,
            )
            for i in range(episodes)
        ]
        scores += world.step(np.array(actions), everywhere)
    return scores.tolist()


def _chooser(policy: Policy, seed: int) -> Callable[..., int]:
    """A policy as a function of layout, position, heading, turning and target."""
    rng, oracle = np.random.default_rng(seed), Oracle()
    if policy == "random":
        return lambda *_: int(rng.integers(6))
    if policy == "explore":
        return lambda layout, at, heading, turning, _: wander(layout, at, heading, turning, rng)
    return lambda layout, at, heading, _, target: oracle.act(
        layout, at, np.array((np.cos(heading), np.sin(heading))), target
    )


def original(size: str, policy: Policy, episodes: int) -> list[float]:
    """Scores of episodes in the original; episode i has seed i + 1."""
    tasks = load_tasks()
    from dm_control.locomotion.props import target_sphere  # pyright: ignore[reportMissingImports]

    setattr(target_sphere.TargetSphere, "_update_activation", _touch)  # noqa: B010
    scores = []
    for seed in range(1, episodes + 1):
        env = getattr(tasks, f"memory_maze_{size}")(seed=seed)
        while hasattr(env, "env"):
            env = env.env
        scores.append(_original_episode(env, _chooser(policy, seed)))
        env.close()
        print(
            f"{size} {policy} seed {seed}: {scores[-1]:.0f}, mean {np.mean(scores):.2f}", flush=True
        )
    return scores


def paired(size: str, policy: Policy, repeats: int = 8) -> dict[str, Any]:
    """Scores of ours in the mazes of `original`'s scores, from the same starts; objects differ."""
    theirs = json.loads((RESULTS / f"original-{policy}-{size}.json").read_text())["scores"]
    means = []
    for seed in range(1, len(theirs) + 1):
        env = getattr(load_tasks(), f"memory_maze_{size}")(seed=seed, global_observables=True)
        seen = env.reset().observation
        env.close()
        world = World(size, repeats)
        for index in range(repeats):
            world.reset(index, repeats * seed + index)
            world.walls[index, 1:-1, 1:-1] = 1 - seen["maze_layout"]
            world.targets[index] = seen["targets_pos"] * CELL
            world.bodies[index, [X, Y]] = seen["agent_pos"] * CELL
            world.bodies[index, HEADING] = np.arctan2(seen["agent_dir"][1], seen["agent_dir"][0])
        means.append(float(np.mean(_play(world, policy))))
    more = np.array(means) - theirs
    return {
        "size": size,
        "policy": policy,
        "mazes": len(theirs),
        "original_mean": float(np.mean(theirs)),
        "ours_mean": float(np.mean(means)),
        "ours_more": float(more.mean()),
        "standard_error": float(more.std(ddof=1) / np.sqrt(len(more))),
        "scores": [list(pair) for pair in zip(theirs, means, strict=True)],
    }


def _touch(sphere: Any, physics: Any) -> None:
    if not sphere._activated and (physics.data.ptr.contact.geom == sphere._geom_id).any():
        sphere._activated = True
        physics.bind(sphere._material).rgba[-1] = 0


def _original_episode(env: Any, choose: Callable[..., int]) -> float:
    task = env.task
    observed = task._walker.observables.as_dict() | task.task_observables
    for observable in observed.values():
        observable.enabled = False
    step, score = env.reset(), 0.0
    maze, physics = task._maze_arena.maze, env.physics
    middle = (maze.width - 2) / 2
    layout = np.flip(np.isin(maze.entity_layer[1:-1, 1:-1], [" ", "P", "G"]), 0).astype(np.uint8)
    targets = np.array([physics.bind(t.geom).xpos[:2] for t in task._targets]) / CELL + middle
    root, steer = physics.bind(task._walker.root_body), physics.named.data.qvel
    while not step.last():
        ahead = root.xmat.reshape(3, 3)[:2, 1]
        action = choose(
            layout,
            root.xpos[:2] / CELL + middle,
            float(np.arctan2(ahead[1], ahead[0])),
            -float(steer["walker/steer"][0]),
            targets[task._current_target_ix],
        )
        step = env.step(CONTROLS[action])
        score += step.reward
    return score


def layouts(size: str, count: int) -> dict[str, Any]:
    """What mazes of a size are like, on average, and how far single ones are from that."""
    ours, theirs = zip(*(_two_layouts(size, seed) for seed in range(count)), strict=True)
    report: dict[str, Any] = {"layouts": count}
    for kind, found in (("ours", ours), ("labmaze", theirs)):
        values = {name: [one[name] for one in found] for name in found[0]}
        report[kind] = {n: [float(np.mean(v)), float(np.std(v))] for n, v in values.items()}
    return report


def _two_layouts(size: str, seed: int) -> tuple[dict[str, int], dict[str, int]]:
    from labmaze import RandomMaze  # pyright: ignore[reportMissingImports]

    rules = SIZES[size]
    maze = RandomMaze(
        height=rules.cells + 2,
        width=rules.cells + 2,
        max_rooms=rules.max_rooms,
        room_min_size=3,
        room_max_size=rules.room_max,
        spawns_per_room=1,
        objects_per_room=1,
        simplify=True,
        random_seed=seed + 1,
    )
    state = np.array([seed], np.uint64)
    drawn = generate(state, rules.cells, rules.max_rooms, room_max=rules.room_max)
    theirs = np.isin(maze.entity_layer, ["*"])
    return _describe(drawn.walls > 0, len(drawn.spawns)), _describe(
        theirs, len(np.unique(maze.variations_layer)) - 1
    )


def _describe(walls: np.ndarray, rooms: int) -> dict[str, int]:
    free = (~walls).astype(int)
    around = free[:-2, 1:-1] + free[2:, 1:-1] + free[1:-1, :-2] + free[1:-1, 2:]
    around = around * free[1:-1, 1:-1]
    names = {"dead_ends": 1, "corridor": 2, "junctions": 3, "crossings": 4}
    counts = {name: int((around == ways).sum()) for name, ways in names.items()}
    return {"rooms": rooms, "open": int(free.sum()), **counts}


def speed(size: str, seconds: float) -> dict[str, Any]:
    """Steps a second, drawn: 64 mazes in one call, and the original, taking turns."""
    start = machine.describe()
    env_id = f"clew/MemoryMaze-{size}-v0"
    mazes = gym.make_vec(
        env_id, num_envs=MAZES, vectorization_mode="vector_entry_point", info=False
    )
    theirs = MuJoCoMemoryMaze(size, info=False)
    rng = np.random.default_rng(0)
    mazes.reset(seed=0)
    theirs.reset(seed=0)
    our_steps, their_steps, busy = 200, 40, []

    def step_ours() -> None:
        begun = time.process_time()
        for actions in rng.integers(6, size=(our_steps, MAZES)):
            mazes.step(actions)
        busy.append(time.process_time() - begun)

    def step_theirs() -> None:
        for action in rng.integers(6, size=their_steps):
            theirs.step(action)

    step_ours()
    rounds = max(3, round(seconds / sum(map(timing.seconds, (step_ours, step_theirs)))))
    taken = timing.interleave({"ours": step_ours, "original": step_theirs}, rounds)
    rates = {
        "ours": [our_steps * MAZES / t for t in taken["ours"]],
        "original": [their_steps / t for t in taken["original"]],
    }
    return {
        "size": size,
        "mazes": MAZES,
        "policy": "random",
        "ours_steps_a_second": float(np.median(rates["ours"])),
        "ours_steps_a_core_second": our_steps * MAZES / float(np.median(busy)),
        "original_steps_a_second": float(np.median(rates["original"])),
        "ratio": timing.ratio(rates["ours"], rates["original"]),
        "rounds": rounds,
        "machine": start,
    }


def picture(path: Path, columns: int = 8, times: int = 3) -> None:
    """A PNG of pairs: the original above, ours below, in the same maze at the same poses."""
    from PIL import Image

    theirs = MuJoCoMemoryMaze("9x9")
    rng = np.random.default_rng(1)
    rows = []
    for seed in (3, 5, 7):
        theirs.reset(seed=seed)
        world, above, below = _same_world(theirs), [], []
        while len(above) < columns:
            for _ in range(12):
                theirs.step(theirs.explore(rng))
            _copy_pose(theirs, world)
            above.append(theirs._image())
            below.append(world.frames()[0])
        rows += [np.concatenate(above, 1), np.concatenate(below, 1)]
    sheet = Image.fromarray(np.concatenate(rows).repeat(times, axis=0).repeat(times, axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    print(f"written to {path}")


def _same_world(theirs: MuJoCoMemoryMaze) -> World:
    """Our world with the maze, the colours and the objects of theirs."""
    arena = theirs._env.task._maze_arena
    names = ["blue", "cerise", "green_bright", "green", "purple", "red_bright", "red", "yellow"]
    colours = {c: names.index(t.name) for c, t in arena._current_wall_texture.items()}
    signs, rooms = np.flip(arena.maze.entity_layer, 0), np.flip(arena.maze.variations_layer, 0)
    world = World("9x9")
    world.walls[0] = ~np.isin(signs, [" ", "P", "G"])
    world.paint[0] = [[colours.get(sign, 0) for sign in row] for row in signs]
    world.rooms[0] = rooms != "."
    world.targets[0] = theirs._seen["targets_pos"] * CELL
    return world


def _copy_pose(theirs: MuJoCoMemoryMaze, world: World) -> None:
    world.bodies[0, [X, Y]] = theirs._seen["agent_pos"] * CELL
    world.bodies[0, HEADING] = theirs._heading()
    world.asked[0] = theirs._info()["target_index"]


if __name__ == "__main__":
    tyro.cli(main)
