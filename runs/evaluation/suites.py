"""All suites, by name."""

import difflib
from collections.abc import Sequence

from runs.evaluation import ablate, dreamed, horizon, navigation, probe, recall, returns
from runs.evaluation.suite import Subject, Suite

_ALL = (
    returns.SUITE,
    horizon.SUITE,
    navigation.SUITE,
    probe.SUITE,
    recall.RECALL,
    recall.DREAM,
    ablate.SUITE,
    dreamed.SUITE,
)
SUITES = {suite.name: suite for suite in _ALL}
ALL = "all"


def find_suites(names: Sequence[str], subject: Subject) -> list[Suite]:
    """The suites of these names; of `all`, those that can measure the subject.

    Raises:
        ValueError: where no name is given, there is no suite of a name (names the nearest), or none
            of all can measure it.
    """
    if not names:
        raise ValueError(f"--suite names nothing: give one or more of {', '.join(SUITES)}, {ALL}.")
    if ALL in names:
        return _measurable(subject)
    for name in names:
        if name not in SUITES:
            near = difflib.get_close_matches(name, SUITES, cutoff=0.4) or list(SUITES)
            raise ValueError(f"There is no suite {name!r}. Nearest: {', '.join(near)}, or {ALL}.")
    return [SUITES[name] for name in dict.fromkeys(names)]


def check_suites(subject: Subject, suites: Sequence[Suite]) -> None:
    """Refuse, before anything is played, what cannot be measured.

    Raises:
        ValueError: names every suite that cannot be and why, and those that can.
    """
    missing = {suite.name: suite.missing(subject) for suite in suites}
    reasons = [f"suite {name} cannot be measured: {why}." for name, why in missing.items() if why]
    if not reasons:
        return
    lacks = left_out(subject)
    if others := [name for name in SUITES if name not in lacks]:
        reasons.append(f"What can be: --suite {' '.join(others)}.")
    raise ValueError(f"{subject.run}: {' '.join(reasons)}")


def _measurable(subject: Subject) -> list[Suite]:
    lacks = left_out(subject)
    if found := [suite for name, suite in SUITES.items() if name not in lacks]:
        return found
    reasons = "; ".join(f"{name}: {lack}" for name, lack in lacks.items())
    raise ValueError(f"{subject.run}: no suite can measure this run. {reasons}.")


def left_out(subject: Subject) -> dict[str, str]:
    """The suites that are not among all of a subject, and why."""
    lacks = {name: suite.missing(subject) for name, suite in SUITES.items()}
    if not lacks[recall.RECALL.name]:
        lacks[recall.DREAM.name] = f"{recall.RECALL.name} measures it as well"
    return {name: lack for name, lack in lacks.items() if lack}
