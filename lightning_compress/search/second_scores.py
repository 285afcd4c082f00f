"""Score some plans of a finished search again, with another evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from lightning_compress.core.space import Space
from lightning_compress.search.executors.executor import Evaluate, Executor
from lightning_compress.search.executors.scores import checked
from lightning_compress.search.executors.serial import Serial
from lightning_compress.search.journal import Entry, Journal
from lightning_compress.search.objectives.objective import Objective
from lightning_compress.search.progress_bar import progress_bar


def score_again(
    entries: Iterable[Entry],
    space: Space,
    objective: Objective,
    evaluate: Evaluate,
    journal: Journal,
    executor: Callable[[Evaluate], Executor] = Serial,
    *,
    title: str,
) -> None:
    """Score plans again; what the journal has already, of the same network, is not scored another time.

    Args:
        entries: of the search.
        space: that was searched.
        objective: score -> reward.
        evaluate: the other evaluator.
        journal: of these scores, under the numbers that the trials have in the search.
        executor: ``(evaluate) -> Executor``: where plans are scored.
        title: of the progress bar.
    """
    chosen = {entry.number: entry for entry in entries}
    finished = {(entry.number, entry.key) for entry in journal}
    missing = {n: space.plan(entry.indices) for n, entry in chosen.items() if (n, entry.key) not in finished}
    if not missing:
        return
    with executor(evaluate) as pool, progress_bar() as bar:
        task = bar.add_task(title, total=len(chosen), completed=len(chosen) - len(missing), note="")
        for number, outcome in pool.run(missing):
            found, entry = checked(outcome, objective), chosen[number]
            journal.append(replace(entry, score=found.score, failure=found.failure, seconds=found.seconds))
            bar.update(task, advance=1)
