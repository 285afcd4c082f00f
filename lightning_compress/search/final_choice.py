"""Final choice: the best few plans of a search are scored again, and the best of these scores decides.

The highest of many noisy scores is too high: it was also the luckiest. So the best plans, and the plan that the search
started from, are scored once more on all validation data, and where that is asked for after a short fine-tuning. Where
the search's own scores are all of that already, they stand. Two stages of selection are the field's usual remedy
(Kim and Nelson 2006, Handbooks in OR & MS 13, chapter 17); how many and how long are ours. It costs ``plans`` scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from lightning_compress.core.whole_numbers import check_whole
from lightning_compress.search.journal import Entry
from lightning_compress.search.objectives.objective import Objective

FINAL_CHOICE = "final_choice.sqlite"  # journal of the second scores, beside that of the search


@final
@dataclass(frozen=True)
class FinalChoice:
    """Choice among the best plans of a finished search.

    Args:
        plans: how many of the best are compared, 1 or more; the plan that the search started from is one more.
        finetune_steps: optimizer steps before the second score, at least those of the search.

    Raises:
        CompressError: a number is too small, or not whole.
    """

    plans: int = 3
    finetune_steps: int = 0

    def __post_init__(self) -> None:
        check_whole("final_choice: plans", self.plans, 1)
        check_whole("final_choice: finetune_steps", self.finetune_steps, 0)

    def finalists(self, entries: Sequence[Entry], objective: Objective, start: bool) -> list[Entry]:
        """Return the best trials of different networks, from the highest reward down.

        Args:
            entries: of the search.
            objective: score -> reward.
            start: whether the first trial takes part whatever its reward.
        """
        ranked = ranking(entries, objective)
        chosen = ranked[: self.plans]
        return [entry for entry in ranked if entry in chosen or (start and entry.number == 0)]


def ranking(entries: Iterable[Entry], objective: Objective) -> list[Entry]:
    """Return the scored trials of different networks, from the highest reward down; of equals the earliest first."""
    earliest: dict[str, tuple[float, int, Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.number):
        if entry.score is not None:
            earliest.setdefault(entry.key, (-objective(entry.score), entry.number, entry))
    return [entry for *_, entry in sorted(earliest.values(), key=lambda found: found[:2])]
