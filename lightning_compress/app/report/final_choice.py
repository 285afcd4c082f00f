"""Describe the final choice in the report, and the validation data that it was made on."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

from lightning_compress.pipeline.figures import standard_error

ERRORS = 2  # standard errors of a difference beyond which it is not put down to chance
SEEN = 3  # and beyond which two scores of one network are not of alike data


@dataclass(frozen=True)
class Finalist:
    """A plan that was compared in the end; ``accuracy`` is None where the reward is not made of one."""

    trial: int
    reward: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Final:
    """The comparison of the best few plans of a search.

    Attributes:
        finalists: from the highest reward down.
        samples: number of validation samples of each score.
        steps: of the fine-tuning before it.
        again: whether these are other scores than those of the search.
    """

    finalists: tuple[Finalist, ...]
    samples: int
    steps: int
    again: bool

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        best, *others = self.finalists
        after = f" after {self.steps:,} steps of fine-tuning" if self.steps else ""
        how = f"scored again on all {self.samples:,} validation samples{after}" if self.again else "by the same scores"
        plans = ", ".join(self._score(one) for one in self.finalists)
        told = f"Final choice, {how}: {plans}; trial {best.trial:,} is taken."
        if best.accuracy is None or not others or not self.samples:
            return told
        beyond = [one for one in others if self._is_beyond(best, one)]
        within = [one for one in others if one not in beyond]
        parts = []
        if beyond:
            parts.append(f"beyond {ERRORS} standard errors from {_trials(beyond)}")
        if within:
            parts.append(f"within {ERRORS} standard errors, which may be chance, from {_trials(within)}")
        return f"{told} It differs {', and '.join(parts)}."

    def _score(self, one: Finalist) -> str:
        if one.accuracy is None or not self.samples:
            return f"trial {one.trial:,} with {one.reward:.4f}"
        error = standard_error(one.accuracy, self.samples)
        return f"trial {one.trial:,} with {one.reward:.4f} (accuracy {one.accuracy:.4f} +- {error:.4f})"

    def _is_beyond(self, one: Finalist, other: Finalist) -> bool:
        a, b = (found.accuracy or 0.0 for found in (one, other))  # all have one
        return abs(a - b) > ERRORS * hypot(standard_error(a, self.samples), standard_error(b, self.samples))


def _trials(finalists: list[Finalist]) -> str:
    *first, last = [f"{one.trial:,}" for one in finalists]
    return f"trials {', '.join(first)} and {last}" if first else f"trial {last}"


def seen_sentence(validation: float, validation_samples: int, test: float, test_samples: int) -> str:
    """Return a warning if validation data look like data that the dense network was trained on; else nothing.

    Args:
        validation: accuracy of the dense network on the validation data.
        validation_samples: how many these are.
        test: its accuracy on the test data.
        test_samples: how many these are.
    """
    if not validation_samples or not test_samples:
        return ""
    error = hypot(standard_error(validation, validation_samples), standard_error(test, test_samples))
    if validation - test <= SEEN * error:
        return ""
    return (
        f"The dense network scores {100 * validation:.2f} % on the {validation_samples:,} validation samples and "
        f"{100 * test:.2f} % on the {test_samples:,} test samples, which is more than chance: the validation data were "
        f"probably in its training. Scores on them rank plans, and are too high for unseen data."
    )
