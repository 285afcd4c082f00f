"""The run of a search in the stage's folder: the searcher, its baselines, and the final choice.

Everything is written as it is found, so that a killed search goes on: the journals, the learned policy,
``front/TRIAL.yaml`` for each plan of the Pareto front, and ``search.json``, from which the report is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.budget import Budget
from lightning_compress.core.errors import AllTrialsFailedError
from lightning_compress.core.json_record import write_record
from lightning_compress.core.plan import Plan
from lightning_compress.core.settings import class_name, settings_of
from lightning_compress.pipeline.context import FOUND, RunContext
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.pipeline.hyperparameters import hyperparameters
from lightning_compress.pipeline.planners.finalists import Finalists
from lightning_compress.pipeline.planners.search_prior import Prior
from lightning_compress.pipeline.planners.search_settings import SearchSettings
from lightning_compress.pipeline.student import Student
from lightning_compress.pipeline.warm_start import keep_start, start_name, start_of
from lightning_compress.search.correlation import CORRELATION
from lightning_compress.search.executors.executor import Executor
from lightning_compress.search.final_choice import FINAL_CHOICE, ranking
from lightning_compress.search.journal import Entry, Journal, journal_name
from lightning_compress.search.loop import Best, search
from lightning_compress.search.pareto import pareto_front
from lightning_compress.search.problem import Problem
from lightning_compress.search.searchers.searcher import Searcher
from lightning_compress.search.second_scores import score_again
from lightning_compress.search.starts import CLOSED_FORM, STARTS, UNIFORM, scored_starts

FRONT = "front"  # folder of the plans of the Pareto front


class SearchRun:
    """A search in a folder.

    Args:
        settings: of the search.
        composition: the callbacks that candidates get.
        budget: over the composition's space.
        prior: what the searcher starts from, or None.
        evaluator: scores candidates.
        student: what candidates are copies of, and how they are fine-tuned.
        run: what the stages share.
        folder: of the stage.
    """

    def __init__(
        self,
        settings: SearchSettings,
        composition: Composition,
        budget: Budget,
        prior: Prior | None,
        evaluator: Evaluator,
        student: Student,
        run: RunContext,
        folder: Path,
    ) -> None:
        self.settings, self.composition, self.budget, self.evaluator = settings, composition, budget, evaluator
        self.student, self.run, self.folder, self.prior = student, run, folder, prior
        self.problem = Problem(budget, composition.profile, composition.predict)  # without the prior
        correlation = settings.correlation
        self.high_fidelity = None if correlation is None else evaluator.finetuned(correlation.finetune_steps)
        self.fingerprint = {
            "objective": settings_of(settings.objective),
            "limit": budget.limit,
            "seed": run.seed,
            "in_flight": settings.in_flight,
            "halving": settings_of(settings.halving),
            "cost": settings_of(settings.cost),
            "limits": settings_of(settings.limits),
            **self._scoring(evaluator),
            "space": budget.space.to_list(),
        }

    def best(self) -> Plan:
        """Search with the searcher and its baselines; return the best plan of the searcher."""
        starts = self._starts()
        logger = self.run.make_logger(save_dir=self.folder / "search")
        searcher, best, entries = self._search("", self.settings.searcher, list(starts.values()), [logger])
        rewards = {"this search": best.reward}
        rewards |= {
            name: self.settings.objective(entry.score) for name, entry in starts.items() if entry.score is not None
        }
        searcher.save(self.folder)
        self._write_front(entries)
        scored = [*starts.values(), *entries]
        for name, make in self.settings.used_baselines.items():
            try:
                _, other, more = self._search(name, make, scored, [])
            except AllTrialsFailedError:  # the report says so
                continue
            scored += more
            rewards[name] = other.reward
        final = self._final(entries)
        self._write(entries, rewards, final)
        return best.plan if final is None else self.budget.space.plan(final.best.indices)

    def _starts(self) -> dict[str, Entry]:
        """Score the prior and the largest uniform plan, and make the better one the prior; return their entries."""
        if self.prior is None:
            return {}
        depends = {**self.fingerprint, "prior": settings_of(self.settings.prior)}
        with Journal(self.folder / STARTS, depends) as journal:
            starts = scored_starts(
                {CLOSED_FORM: self.prior.point, UNIFORM: self.problem.start},
                self.budget.space,
                self.settings.objective,
                self.evaluator,
                journal,
                self.settings.executor,
            )
        best = ranking(starts.values(), self.settings.objective)
        if best:
            self.prior = replace(self.prior, point=best[0].indices)
        return starts

    def _final(self, entries: Sequence[Entry]) -> Finalists | None:
        """Compare the best few once more; None where none of them can be scored again."""
        settings, choice = self.settings, self.settings.final_choice
        if choice is None:
            return None
        found = choice.finalists(entries, settings.objective, start=self.prior is not None)
        own = settings.evaluation
        steps = max(own.finetune_steps, choice.finetune_steps)
        if own.validation_batches is None and steps == own.finetune_steps and settings.halving is None:
            return Finalists(found, self.evaluator, again=False)
        evaluation = replace(own, validation_batches=None, finetune_steps=steps)
        evaluator = evaluation.evaluator(self.composition, self.student, self.run, settings.costs)
        with Journal(self.folder / FINAL_CHOICE, {**self.fingerprint, **self._scoring(evaluator)}) as journal:
            score_again(
                found,
                self.budget.space,
                settings.objective,
                evaluator,
                journal,
                settings.executor,
                title="Final choice",
            )
            keys = {(entry.number, entry.key) for entry in found}
            scored = [entry for entry in journal if (entry.number, entry.key) in keys]
        ranked = ranking(scored, settings.objective)
        return Finalists(ranked, evaluator, again=True) if ranked else None

    def _search(
        self, name: str, make: Callable[..., Searcher], known: Sequence[Entry], loggers: Sequence[Logger]
    ) -> tuple[Searcher, Best, list[Entry]]:
        """Run one searcher, with a journal of that name; what is known already is not scored again."""
        settings, problem = self.settings, self.problem
        if not name and self.prior is not None:
            problem = replace(problem, prior=self.prior.point, errors=self.prior.errors)
        executor: Callable[[Any], Executor] = settings.executor
        if settings.halving is not None:
            executor = settings.halving.over(executor, settings.objective, settings.in_flight)
        with Journal(self.folder / journal_name(name), self._searching(make)) as journal:
            kept = self.folder / start_name(name)
            start = start_of(make, kept)
            searcher = make(problem=problem, seed=self.run.seed, objective=settings.objective, **start)
            keep_start(start, kept)
            best = search(
                searcher,
                self.evaluator,
                journal,
                trials=settings.trials,
                loggers=loggers,
                executor=executor,
                in_flight=settings.in_flight,
                known=known,
            )
            return searcher, best, [entry for entry in journal if entry.number < settings.trials]

    def _write_front(self, entries: Sequence[Entry]) -> None:
        """Write a plan file for each point of the Pareto front of cost and reward."""
        folder = self.folder / FRONT
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        networks = list({entry.key: entry for entry in reversed(entries) if entry.score is not None}.values())
        plans = [self.budget.space.plan(entry.indices) for entry in networks]
        points = [
            (self.budget.cost(plan), self.settings.objective(entry.score))
            for plan, entry in zip(plans, networks, strict=True)
            if entry.score is not None  # all have one
        ]
        for i in pareto_front(points):
            self.composition.resolve(plans[i]).save(folder / f"{networks[i].number:05d}.yaml")

    def _write(self, entries: Sequence[Entry], rewards: Mapping[str, float], final: Finalists | None) -> None:
        """Write what the report needs beside the journals, and score again after fine-tuning when that is asked for.

        Args:
            entries: of the search.
            rewards: the best of each.
            final: the comparison of the best few.
        """
        settings = self.settings
        written = {
            **self._searching(settings.searcher),
            "baselines": list(settings.used_baselines),
            "trials": settings.trials,
            "validation_samples": self.evaluator.samples,
            "dense": self.evaluator.before,
        }
        if final is not None:
            written["final"] = final.to_dict(settings.objective)
        written["found"] = {
            "searcher": class_name(settings.searcher),
            "objective": settings.objective.meaning,
            "best": dict(rewards),
            "trials": len(entries),
            "failed": sum(entry.score is None for entry in entries),
        }
        if self.high_fidelity is not None and settings.correlation is not None:
            with Journal(
                self.folder / CORRELATION, {**self.fingerprint, **self._scoring(self.high_fidelity)}
            ) as journal:
                chosen = settings.correlation.score(
                    entries,
                    self.budget.space,
                    settings.objective,
                    high_fidelity=self.high_fidelity,
                    journal=journal,
                    executor=settings.executor,
                )
            written["correlation"] = {"finetune_steps": self.high_fidelity.finetune_steps, "trials": chosen}
        write_record(self.folder / FOUND, written)

    def _searching(self, make: Callable[..., Searcher]) -> dict[str, Any]:
        """Return what a search depends on, with a searcher."""
        prior = {} if make is not self.settings.searcher or self.prior is None else {"prior": list(self.prior.point)}
        return {"searcher": settings_of(partial(make)), **prior, **self.fingerprint}

    def _scoring(self, evaluator: Evaluator) -> dict[str, Any]:
        """Return what the scores of an evaluator depend on, with the training where candidates are fine-tuned."""
        found = evaluator.settings()
        if not evaluator.finetune_steps:
            return found
        distillation = self.run.taught(self.student.distillation)
        attributes, made_with = settings_of(self.student.attributes), hyperparameters(self.run.dense)
        return {**found, "attributes": attributes, "distillation": distillation, "module": made_with}
