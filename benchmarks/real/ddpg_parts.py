"""DDPG without each of its parts, on a real network: ``python benchmarks/real/ddpg_parts.py run NETS cifar10.npz``.

    learns nothing    no gradient step: what is left explores around the best plan so far
    no imitation      no steps towards the actions of the best plans
    decides all       each trial decides all choices, not two of the best plan's
    spends nothing    what a plan leaves of the budget stays unspent
    sees the place    of the features only the place of a choice among the others, and the last action
    no prior          starts from the uniform plan, with 20 random trials, in place of a start that needs no search

The best reward (accuracy less a tenth of the loss, in points, on 1,000 validation images with batch norms recalibrated)
after 24 and 60 evaluations, and its difference to the whole DDPG of the same seed; then the accuracy of these plans on
10,000 test images, recalibrated. Problems, NETS and the ``.npz`` as in search.py; nothing is fine-tuned. Journals and
rows are kept in ``FOLDER``: a run that was killed goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from bench import PROBLEMS
from curves import OBJECTIVE, add_rows, print_rows, started
from rows import asking, start

from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.problem import Problem
from lightning_compress.search.rl.features import COLUMNS
from lightning_compress.search.searchers.ddpg import DDPG
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.trial import Score

MARKS = (24, 60)  # evaluations
SEEN = [COLUMNS.index("position"), COLUMNS.index("last_action")]


@dataclass(frozen=True)
class Unspent(Objective):
    """The same reward, of which searchers think that a cheaper plan may have more."""

    def __call__(self, score: Score) -> float:
        return OBJECTIVE(score)


def unspent(problem: Problem, seed: int, _objective: Objective) -> Searcher:
    """Return DDPG that does not spend what a plan leaves."""
    return DDPG(problem, seed, Unspent())


def unseeing(problem: Problem, seed: int, objective: Objective) -> Searcher:
    """Return DDPG that sees of a choice only where it stands."""
    made = DDPG(problem, seed, objective)
    whole = made.mapping.features.at

    def at(decided: tuple[int, ...], last_action: float) -> object:
        row = whole(decided, last_action)
        hidden = row.copy()
        hidden[:] = 0
        hidden[SEEN] = row[SEEN]
        return hidden

    made.mapping.features.at = at
    return made


def unguided(problem: Problem, seed: int, objective: Objective) -> Searcher:
    """Return DDPG without the start and the closed form's errors."""
    return DDPG(replace(problem, prior=None, errors=None), seed, objective)


WAYS: dict[str, Callable[[Problem, int, Objective], Searcher]] = {
    "whole": DDPG,
    "learns nothing": partial(DDPG, updates=0, imitation=0),
    "no imitation": partial(DDPG, imitation=0),
    "decides all": partial(DDPG, redecided=inf),
    "spends nothing": unspent,
    "sees the place": unseeing,
    "no prior": unguided,
}


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing."""
    add_rows(arguments, "ddpg_parts", {way: partial(started, make) for way, make in WAYS.items()}, MARKS)


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, and their differences to the whole."""
    print_rows(arguments, "ddpg_parts", MARKS, "whole")


def main() -> None:
    """Run rows or print them."""
    asked, jobs, running = asking(__doc__, run, steps=0)
    running.add_argument("--problem", choices=list(PROBLEMS), default="resnet8-macs")
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
