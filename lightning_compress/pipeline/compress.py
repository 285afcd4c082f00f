"""The whole path: a trained LightningModule and a budget in, a small file, its plan and a report out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_compress.callbacks.base.plans import as_plan, plan_names
from lightning_compress.core.atomic_write import remove_stale_parts
from lightning_compress.core.digest import digest_of
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.interruption import interruptible
from lightning_compress.core.json_record import read_record, write_record
from lightning_compress.core.plan import Plan
from lightning_compress.core.settings import settings_of
from lightning_compress.core.whole_numbers import check_seed
from lightning_compress.export.exporter import Exporter
from lightning_compress.export.load import load
from lightning_compress.export.packed import Packed
from lightning_compress.pipeline.arguments import Loader, as_data_module, in_single_precision, selecting
from lightning_compress.pipeline.configuration import PACKED, check_unplanned, shipped_method
from lightning_compress.pipeline.context import FOUND, PLANNED, RunContext
from lightning_compress.pipeline.deployed_figures import deployed_figures
from lightning_compress.pipeline.figures import Figures, declare, measure_figures
from lightning_compress.pipeline.logged_metrics import check_logged_metrics
from lightning_compress.pipeline.result import Result
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.taught_outputs import check_taught_outputs
from lightning_compress.pipeline.time_spent import timed
from lightning_compress.pipeline.training import check_trainer, csv_logger
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import check_library, network, structure_of


@interruptible()
def compress(
    module: LightningModule,
    data: LightningDataModule | Loader | None,
    method: str | Mapping[str, Stage],
    *,
    budget: float | str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    lr: float | str | None = None,
    overrides: Sequence[str] = (),
    folder: str | Path | None = None,
    make_trainer: Callable[..., Trainer] = Trainer,
    seed: int = 0,
    plan: Plan | str | Path | Mapping[str, Any] | None = None,
    metric: str = "test_acc",
    make_logger: Callable[..., Logger] = csv_logger,
    exporters: Mapping[str, Exporter] | None = None,
    train: Loader | None = None,
    val: Loader | None = None,
    test: Loader | None = None,
    network: str | None = None,
) -> Result:
    """Compress a trained module; write ``model.safetensors``, ``plan.yaml``, ``result.json`` and exports.

    >>> result = compress(module, data, "drl_quant", budget=0.1, epochs=10, trials=50)  # doctest: +SKIP

    A killed run goes on where it was when it is called with the same arguments again. SIGINT and SIGTERM end the
    process with a sentence, and with the exit status 130 or 143.

    Args:
        module: trained; it is not changed.
        data: with train, validation and test loaders; the last is opened once, at the end. Or the train loader, or None
            with ``train``.
        method: what the command line has behind ``+compress=``, such as ``drl_quant``; or name -> stage, in order.
        budget: of the one stage that plans under a budget: a share of the dense network's cost, or the limit itself.
        trials: of the one stage that searches: candidates to score.
        epochs: of the fine-tuning of the one stage.
        lr: the module's attribute ``lr``, its learning rate, in the fine-tuning; ``"auto"`` tries shares of what it is
            (pipeline/lr_probe.py).
        overrides: all other settings of the method, as on the command line: ``["compress/searcher=greedy"]``.
        folder: of this run, made when missing; None takes ``runs/METHOD-DIGEST``, which is the same for the same call.
        make_trainer: ``lightning.Trainer`` with your settings, as a partial. Each training gets copies of its
            callbacks; the measurements at the end have none.
        seed: of search and training.
        plan: a plan, a YAML file, or plain dicts, in place of the planner of every stage; each takes the knobs that its
            callbacks understand. Where it says nothing of a stage, that takes its uniform numbers if its planner is
            Uniform, and else changes nothing. There is no ``budget`` and no ``trials`` beside it.
        metric: that ``test_step`` logs.
        make_logger: ``(save_dir) -> Logger``, for each training and each search.
        exporters: name -> exporter that writes the finished network. The packed file is always written, by the exporter
            named ``packed`` where there is one.
        train, val, test: loaders, in place of a data module.
        network: name of the sub-module to compress, such as ``generator``; None takes the only one with parameters, or
            the module itself.

    Raises:
        CompressError: another process works in the folder, or it cannot be written; the module or the data lacks a
            method that the run comes to need; there is no such shipped method, or a stage has a number that cannot be;
            two exporters write the same file; no stage understands a knob of the plan, or the network has no such
            layer; a metric that is named is not logged.
    """
    check_library(module)
    check_library(data)
    if not isinstance(module, LightningModule):
        given = module if isinstance(module, type) else type(module)
        raise CompressError(
            f"compress: the network is trained after compression, which takes a LightningModule with its steps and its "
            f"optimizer; got {given.__name__}, so wrap it in one"
        )
    check_seed(seed)
    module = in_single_precision(selecting(module, network))
    data = as_data_module(data, train, val, test)
    check_trainer(make_trainer)
    _check_methods(module, data)
    if plan is not None:
        check_unplanned(budget, trials)
    usual = {"budget": budget, "trials": trials, "epochs": epochs}
    if isinstance(method, str):
        made = shipped_method(method, overrides, lr, **usual)
        stages, exporters = made.stages, {**made.exporters, **(exporters or {})}
    else:
        _check_unused(lr=lr, overrides=list(overrides) or None, **usual)
        stages, exporters = method, {PACKED: Packed(), **(exporters or {})}
    folder = Path(_folder(method, stages, module, seed, plan) if folder is None else folder)
    whole = as_plan(plan)
    if plan is not None and whole is not None:
        _check_plan(whole, stages, module)
        stages = {name: stage.with_plan(plan) for name, stage in stages.items()}
    check_stages(stages)
    _check_exporters(exporters)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise CompressError(
            f"another process is working in {str(folder)!r}; wait for it, or choose another run_dir"
        ) from None
    except OSError as error:
        raise CompressError(f"cannot write to {str(folder)!r}: {error.strerror}; choose another run_dir") from error
    with lock, timed(folder) as seconds:
        remove_stale_parts(folder)
        run = RunContext.begun(module, data, folder, make_trainer=make_trainer, seed=seed, make_logger=make_logger)
        check_logged_metrics(run, stages, metric)
        check_taught_outputs(run, stages)
        student = module
        for name, stage in stages.items():
            student = stage.run(name, student, run)
        return _finish(student, run, stages, metric=metric, seconds=seconds, exporters=exporters)


def _check_unused(**settings: Any) -> None:
    """Raise if settings of a shipped method are given beside stages."""
    given = [name for name, value in settings.items() if value is not None]
    if given:
        raise CompressError(
            f"compress: {given[0]} is for the name of a method such as 'drl_quant'; set it in the stages that are given"
        )


def _folder(
    method: str | Mapping[str, Stage], stages: Mapping[str, Stage], module: LightningModule, seed: int, plan: Any
) -> Path:
    """Return the usual folder, which differs wherever anything does that the run depends on."""
    name = method if isinstance(method, str) else "-".join(stages)
    weights = digest_of(network(module).state_dict())
    told = json.dumps([settings_of(stages), weights, seed, settings_of(as_plan(plan))], sort_keys=True)
    return Path("runs") / f"{name}-{sha256(told.encode()).hexdigest()[:8]}"


def _check_methods(module: LightningModule, data: LightningDataModule) -> None:
    """Check before any search what later trainings and measurements need."""
    for name, of, use in (
        ("training_step", module, "is trained after compression"),
        ("configure_optimizers", module, "is trained after compression"),
        ("test_step", module, "is measured before and after compression, on the metric that this logs"),
        ("train_dataloader", data, "is trained after compression"),
        ("val_dataloader", data, "is scored on validation data while plans are searched"),
        ("test_dataloader", data, "is measured on test data before and after compression"),
    ):
        if not is_overridden(name, of):
            raise CompressError(f"{type(of).__name__} has no {name}; the network {use}, so give it one")


def check_stages(stages: Mapping[str, Stage]) -> None:
    """Raise before any training if a setting cannot be, or names a knob that no callback understands.

    Raises:
        CompressError: it is so.
    """
    for name, stage in stages.items():
        stage.check(name)
    known = frozenset().union(*(c.knobs for stage in stages.values() for c in stage.callbacks.values()))
    for name, stage in stages.items():
        unknown = sorted(stage.planner.knobs - known) if stage.planner is not None else []
        if unknown:
            raise CompressError(
                f"stage {name}: {type(stage.planner).__name__} sets {unknown[0]!r}, which no callback of this run "
                f"understands{did_you_mean(unknown[0], known)}; known: {sorted(known)}"
            )


def _check_exporters(exporters: Mapping[str, Exporter]) -> None:
    """Raise if two exporters would write the same file, or the packed one writes what cannot be measured."""
    if not isinstance(exporters[PACKED], Packed):
        got = type(exporters[PACKED]).__name__
        raise CompressError(
            f"exporters: {PACKED!r} must be a Packed, whose file is measured; give the {got} another name"
        )
    writers: dict[str, str] = {}
    for name, exporter in exporters.items():
        other = writers.setdefault(exporter.file_name, name)
        if other != name:
            raise CompressError(f"exporters: {other!r} and {name!r} both write {exporter.file_name}; keep one of them")


def _check_plan(plan: Plan, stages: Mapping[str, Stage], module: LightningModule) -> None:
    """Check before any training that all knobs and layers of a plan are known."""
    net = network(module)
    knobs = frozenset().union(*(c.knobs for stage in stages.values() for c in stage.callbacks.values()))
    leaves = tuple(f"{layer.name}." for layer in measure.all_layers(net) if layer.weights)
    made = {layer for layer in plan.layers if layer.startswith(leaves)}
    plan.check(plan_names(net) | made, knobs)


def _finish(
    student: LightningModule,
    run: RunContext,
    stages: Mapping[str, Stage],
    *,
    metric: str,
    seconds: Callable[[], float],
    exporters: Mapping[str, Exporter],
) -> Result:
    """Export the network, load what was packed, and measure that."""
    dense_file = Packed().export(run.dense, run.folder / "dense.safetensors", run.example).path
    exports = {
        name: exporter.export(student, run.folder / exporter.file_name, run.example)
        for name, exporter in exporters.items()
    }
    packed_file = exports[PACKED].path
    record = structure_of(network(student))
    plan = record.plan if record else Plan({})
    plan.save(run.folder / "plan.yaml")
    planned = {name: found for name in stages if (found := _read(run.folder / name / PLANNED))}
    searched = {name: found for name in stages if (found := _read(run.folder / name / FOUND))}
    unpacked = load(packed_file, copy.deepcopy(run.dense))
    profile = record.profile if record else run.dense_profile
    costs = [cost for stage in stages.values() for cost in stage.costs]
    declared = declare(metric, costs, masked=profile.macs < profile.unmasked_macs)
    dense, samples = measure_figures(
        declared, run.dense, profile=run.dense_profile, file=dense_file, run=run, metric=metric
    )
    compressed, _ = measure_figures(declared, unpacked, profile=profile, file=packed_file, run=run, metric=metric)
    deployed = deployed_figures(exporters, exports, packed_file, run)
    result = Result(
        dense=Figures({**dense, **{figure.name: before for figure, (before, _) in deployed.items()}}),
        compressed=Figures({**compressed, **{figure.name: after for figure, (_, after) in deployed.items()}}),
        plan=plan,
        seconds=round(seconds(), 1),
        folder=run.folder,
        searches={name: found["found"] for name, found in searched.items()},
        metric=metric,
        exports=exports,
        figures=(*declared, *deployed),
        samples=samples,
        origins={name: found["origin"] for name, found in planned.items()},
        limits={name: found["limit"] for name, found in planned.items() if found["limit"]},
        module=unpacked,
        example=run.example,
        layers=tuple(run.dense_profile.layers),
    )
    write_record(run.folder / "result.json", result.to_dict())
    return result


def _read(file: Path) -> dict[str, Any]:
    """Return what a stage left in a file; empty where it left none."""
    return read_record(file) if file.is_file() else {}
