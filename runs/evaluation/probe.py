"""The suite `probe`: is the maze in what the agent carries, to be read off by a small network?

Episodes are walked by the agent, or by the environment's explorer where it learned no policy. In
their second half, every few steps, probes read from the agent's frozen state which cells are walls,
where the objects are, and where the agent is, seen from where it started. Beside them stand bounds:
what is there mostly, the poses alone, the state with memory off, integrated actions, and, as the
ceiling, all that was ever in sight. What is out of sight is counted by itself: cells and objects
that were seen before and are not in view are what memory is for.

Where actions name places, the state is read by its answers: what the model expects to see at every
place (`asking`). Its own place is not asked for there, since it was told.

After the probing of Memory Maze (Pasukonis et al. 2022), whose figures for 9x9 are the share of
cells that are right and the squared error of objects. Different here: some hundred episodes instead
of 30,000, so a smaller probe; and as predicting a constant is right in 80.8 % of their cells, walls
and free cells count alike (balanced accuracy).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from matplotlib.figure import Figure

from runs.evaluation import grids
from runs.evaluation.asking import Asker
from runs.evaluation.grids import GridReader
from runs.evaluation.known import (
    POSE,
    Guess,
    Moments,
    Odometer,
    all_seen,
    constant,
    moments_of,
    vectors_in,
)
from runs.evaluation.mazes import Walk, needs_maze, walk
from runs.evaluation.play import new_streams
from runs.evaluation.probing import Reader
from runs.evaluation.remembering import Witness, features_in
from runs.evaluation.statistics import Measure, clusters_ci, written
from runs.evaluation.suite import Budget, Report, Sheet, Subject, Suite, Tell, needs_model, quiet

SHARE = 0.6  # of the episodes of the budget
FEWEST = 8  # episodes, of which some are learned from, some chosen by and some measured
EVERY, ASKED_EVERY = 10, 200  # steps between two moments
LEARN, CHOOSE = 0.6, 0.15  # shares of the episodes; the rest is what is measured
NAMES = {
    "state": "the agent's state",
    "memory_off": "its state, memory off",
    "integrator": "integrated actions",
    "poses": "the poses alone",
    "constant": "what is there mostly",
    "seen": "all that was in sight",
}
FLOORS = ("memory_off", "integrator", "poses", "constant")
COLUMNS = {
    "walls": "walls (balanced)",
    "walls_remembered": "walls out of sight",
    "objects": "objects (cells off)",
    "objects_remembered": "objects out of sight",
    "place": "place (cells off)",
    "walls_plain": "cells right",
    "objects_squared": "objects, squared",
}
ACCURACIES = ("walls", "walls_remembered", "walls_plain")
CLAIMS = {"walls": "walls", "objects": "objects", "place": "its place"}

Features = Sequence[np.ndarray]  # of each episode, (moments, features)
Inputs = dict[str, Sequence[Features]]  # who knows what, in one or more forms to choose from
Totals = np.ndarray  # (episodes, parts, 2): a sum and a count for each part of a mean
Found = dict[str, Totals]  # by measure


def measure(subject: Subject, budget: Budget, tell: Tell) -> Report:
    """Walk, read, and compare with the bounds."""
    explores, asked = subject.config.model_only, _asks(subject)
    every = min(ASKED_EVERY, max(1, budget.max_steps // 2)) if asked else EVERY
    witness = (Asker if asked else Witness)(subject.agent, explores, every)
    limits = _episodes(budget), budget.seed, budget.max_steps
    walks = walk(witness, subject.config, *limits, tell, "walks")
    times, *states = witness.known(walks)
    known = dict(zip(("state", "memory_off"), states, strict=True))
    about = {
        "walked_by": "explorer" if explores else "agent",
        "walked_episodes": len(walks),
        "asked": asked,
    }
    if asked:
        inputs = known | grids.bounds(walks, times)
        forms: Inputs = {name: (parts,) for name, parts in inputs.items()}
        return about | score(walks, times, forms, tell, GridReader)
    features = features_in(subject.agent)
    forms = {n: (parts, [part[:, :features] for part in parts]) for n, parts in known.items()}
    return about | score(walks, times, forms | bounds(walks, times), tell)


def _asks(subject: Subject) -> bool:
    """Whether its model can be asked what it expects at any place."""
    with new_streams(subject.config, 1, seed=0) as streams:
        return streams.has_ask()


def _episodes(budget: Budget) -> int:
    return max(FEWEST, round(SHARE * budget.episodes))


def bounds(walks: Sequence[Walk], times: Sequence[np.ndarray]) -> Inputs:
    """What the bounds know; the odometer learns from the episodes that probes learn from."""
    pairs = list(zip(walks, times, strict=True))
    count = 1 + int(max(one.actions.max() for one in walks))
    odometer = Odometer(walks[: _split(len(walks))[0]], count)
    added = [odometer.features(one, at) for one, at in pairs]
    seen, short = [all_seen(one, at) for one, at in pairs], vectors_in(walks[0])
    return {
        "integrator": (added, [part[:, :POSE] for part in added]),
        "poses": ([np.zeros((len(at), 1), np.float32) for at in times],),
        "seen": (seen, [part[:, -short:] for part in seen]),
    }


def _split(episodes: int) -> tuple[int, int]:
    """Where the episodes that are learned from end, and those that choices are made by."""
    return int(LEARN * episodes), int((LEARN + CHOOSE) * episodes)


def score(
    walks: Sequence[Walk],
    times: Sequence[np.ndarray],
    inputs: Inputs,
    tell: Tell = quiet,
    reader: type[Reader] = Reader,
) -> Report:
    """The report on what is known of episodes, by `state` and the bounds."""
    first, second = _split(len(walks))
    found, chosen = read(walks, times, inputs, tell, reader)
    return {
        "learned_from": first,
        "chosen_by": second - first,
        "measured": len(walks) - second,
        "moments": int(sum(len(at) for at in times[second:])),
        "chosen": chosen,
        **conclude(found),
    }


def read(
    walks: Sequence[Walk],
    times: Sequence[np.ndarray],
    inputs: Inputs,
    tell: Tell = quiet,
    reader: type[Reader] = Reader,
) -> tuple[dict[str, Found], dict[str, Any]]:
    """What each input tells of the episodes that are measured, and which probes were chosen."""
    first, second = _split(len(walks))
    parts = slice(0, first), slice(first, second), slice(second, None)
    learn, choose, test = (moments_of(walks[part], times[part]) for part in parts)
    usual = constant(learn, test)
    usual = usual if "place" in reader.tasks else usual._replace(moved=None)
    found, chosen = {"constant": totals(usual, test)}, {}
    for done, (name, forms) in enumerate(inputs.items()):
        tell("probes", done, len(inputs))
        guesses, readers = [], []
        for form in forms:
            mine, others, last = (np.concatenate(form[part]) for part in parts)
            readers.append(reader(mine, learn))
            readers[-1].fit(others, choose)
            guesses.append(readers[-1].guess(last, test))
        best = {task: int(np.argmin([one.best[task] for one in readers])) for task in reader.tasks}
        found[name] = totals(_joined(guesses, best), test)
        chosen[name] = {
            task: {"form": k} | readers[k].chosen[task][0]._asdict() for task, k in best.items()
        }
    tell("probes", len(inputs), len(inputs))
    return found, chosen


def conclude(found: dict[str, Found]) -> Report:
    """Means of every reader, and what `state` is better at than the floors."""
    return {
        "readers": {name: _means(found[name]) for name in NAMES if name in found},
        "better": better(found),
    }


def _joined(guesses: Sequence[Guess], best: dict[str, int]) -> Guess:
    """Each task's guess by the reader that is best at it."""
    walls, objects = (guesses[best[task]] for task in ("walls", "objects"))
    place = guesses[best["place"]].moved if "place" in best else None
    return Guess(walls.walls, walls.usual, objects.objects, place)


def _means(found: Found) -> dict[str, Measure | None]:
    """None where nothing counts: no object, say, was ever out of sight."""
    return {name: mean_of(one) if one[..., 1].sum(0).all() else None for name, one in found.items()}


def better(found: dict[str, Found]) -> dict[str, dict[str, Measure]]:
    """By how much the state is better than each floor: accuracy gained, cells less off."""
    return {
        floor: {
            name: difference(
                *(
                    found[one][name]
                    for one in (("state", floor) if name == "walls" else (floor, "state"))
                )
            )
            for name in CLAIMS
            if name in found["state"]
        }
        for floor in FLOORS
    }


def missing(subject: Subject) -> str:
    """What a subject lacks to be probed."""
    if lacks := needs_model(subject) or needs_maze(subject):
        return lacks
    if isinstance(subject.agent.action_space, spaces.Discrete) or _asks(subject):
        return ""
    return "its actions are no numbers that could be counted up"


def sheets(report: Report) -> list[Sheet]:
    """One table, a reader a row."""
    rows, columns = [], _columns(report)
    for name, found in report["readers"].items():
        cells = [
            written(_rated(found[key]) if key in ACCURACIES else found[key]) for key in columns
        ]
        rows.append((NAMES[name], *(cell.replace("not reported", "none") for cell in cells)))
    title = f"What can be read, walked by the {report['walked_by']}"
    return [Sheet(title, ("", *columns.values()), rows, verdict(report))]


def _columns(report: Report) -> dict[str, str]:
    """What was read; one whose actions name places is not asked for its own."""
    return {key: words for key, words in COLUMNS.items() if key in report["readers"]["state"]}


def headline(report: Report) -> dict[str, str]:
    """What a comparison shows."""
    state = report["readers"]["state"]
    cells = {
        key: _rated(state[key]) if key in ACCURACIES else state[key] for key in _columns(report)
    }
    return {f"probe: {COLUMNS[key]}": written(cell) for key, cell in cells.items() if cell}


def _rated(measure: Measure | None) -> Measure | None:
    """An accuracy as a rate, which is written in per cent."""
    return measure and {"rate": measure["mean"], "ci95": measure["ci95"]}


def verdict(report: Report) -> str:
    """In a sentence: what is in the state that is in none of the floors."""
    told, untold = [], []
    for name in report["better"]["constant"]:
        words = CLAIMS[name]
        surely = [
            part[name]["ci95"] and part[name]["ci95"][0] > 0 for part in report["better"].values()
        ]
        (told if all(surely) else untold).append(words)
    text = f"Read off in {report['measured']} mazes after learning from {report['learned_from']}."
    if told:
        text += f" The state tells of {' and '.join(told)} more than all floors do."
    if untold:
        text += f" Nothing more of {' and '.join(untold)} than the best floor tells is shown."
    if unread := [CLAIMS[name] for name in report["better"]["constant"] if _unread(report, name)]:
        text += (
            f" So few mazes do not teach a probe to read {' and '.join(unread)}, even off all that "
            "was in sight: ask for more --episodes."
        )
    return text


def _unread(report: Report, name: str) -> bool:
    """Whether its ceiling is no better than some floor, so that nothing is said by the state's."""
    readers = report["readers"]
    ceiling = readers["seen"][name]["mean"]
    floors = [readers[floor][name]["mean"] for floor in FLOORS]
    return ceiling <= max(floors) if name in ACCURACIES else ceiling >= min(floors)


def figures(report: Report) -> dict[str, Figure]:
    """Walls, objects and place, each with its bounds."""
    keys = tuple(report["better"]["constant"])
    figure = Figure(figsize=(9, 0.4 * len(report["readers"]) + 1), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), sharey=True), keys, strict=True):
        found = {name: part[key] for name, part in report["readers"].items() if part[key]}
        for place, (name, part) in enumerate(reversed(found.items())):
            low, high = part["ci95"] or (part["mean"], part["mean"])
            colour = {"state": "C0", "seen": "C2"}.get(name, "0.7")
            axes.barh(place, part["mean"], color=colour)
            axes.plot([low, high], [place, place], color="black")
        axes.set_yticks(range(len(found)), [NAMES[name] for name in reversed(found)])
        axes.set_xlabel(COLUMNS[key])
        if key in ACCURACIES:
            axes.set_xlim(0.5, 1)
    return {"readers": figure}


def totals(guess: Guess, moments: Moments) -> Found:
    """For each measure, what its mean over episodes is made of."""
    walls = moments.walls > 0
    right, plain = (guess.walls > 0) == walls, (guess.walls > -guess.usual) == walls
    away = np.linalg.norm(guess.objects - moments.centres[moments.objects], axis=-1)
    known = moments.cells_known
    add = _adder(moments.episode)
    found = {
        "walls": add((right, walls), (right, ~walls)),
        "walls_remembered": add((right, walls & known), (right, ~walls & known)),
        "walls_plain": add((plain, np.ones_like(walls))),
        "objects": add((away, np.ones_like(away))),
        "objects_remembered": add((away, moments.objects_known)),
        "objects_squared": add((away**2, np.ones_like(away))),
    }
    if guess.moved is not None:
        lost = np.linalg.norm(guess.moved - moments.moved, axis=-1)[:, None]
        found["place"] = add((lost, np.ones_like(lost)))
    return found


def _adder(episode: np.ndarray) -> Callable[..., Totals]:
    index = np.unique(episode, return_inverse=True)[1]

    def add(*parts: tuple[np.ndarray, np.ndarray]) -> Totals:
        """Sums of values where they count, and how many count, for each episode."""
        found = np.zeros((index.max() + 1, len(parts), 2))
        for k, (values, counts) in enumerate(parts):
            np.add.at(found[:, k, 0], index, (values * counts).sum(-1))
            np.add.at(found[:, k, 1], index, counts.sum(-1))
        return found

    return add


def mean_of(one: Totals) -> Measure:
    """The mean of its parts over all episodes, and its interval."""
    return clusters_ci(len(one), lambda episodes: _mean(one, episodes))


def difference(one: Totals, other: Totals) -> Measure:
    """How much more one is than the other, in the same episodes."""
    return clusters_ci(len(one), lambda i: _mean(one, i) - _mean(other, i))


def _mean(one: Totals, episodes: np.ndarray) -> np.ndarray:
    sums = one[episodes].sum(-3)
    return (sums[..., 0] / sums[..., 1]).mean(-1)


SUITE = Suite(
    name="probe",
    about="Whether walls, objects and the agent's place can be read off what it carries.",
    missing=missing,
    measure=measure,
    sheets=sheets,
    headline=headline,
    figures=figures,
)
