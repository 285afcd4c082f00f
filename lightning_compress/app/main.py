"""The application: configuration in; dense network, pipeline, table and report out."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from lightning_compress.app.recipe import recipe_file
from lightning_compress.app.report.summary import write_summary
from lightning_compress.app.sources import sources_digest
from lightning_compress.conf.resolvers import program
from lightning_compress.core.disk import check_writable, told_disk_errors
from lightning_compress.core.errors import CompressError, did_you_mean, first_line
from lightning_compress.core.plan import Plan
from lightning_compress.core.whole_numbers import check_seed, check_whole
from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.pipeline.compress import check_stages, compress
from lightning_compress.pipeline.configuration import check_read, check_unplanned, method_of, set_usual
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.logged_metrics import check_logged_metrics
from lightning_compress.pipeline.result import Result
from lightning_compress.pipeline.seeding import digest_of_data
from lightning_compress.pipeline.stage import Stage
from lightning_compress.pipeline.taught_outputs import check_taught_outputs
from lightning_compress.pipeline.training import FINAL, check_trainer, fit

ADDED = ("compress",)  # groups that are read, and not there before


def main(cfg: DictConfig) -> dict[str, Any]:
    """Run one configuration; bad input ends the process with one sentence and exit status 1.

    A job of a multirun returns the sentence instead, so that the jobs after it run and all stand in one table: Hydra
    writes none after a job that raised. What is no bad input is printed with its traceback there.

    Returns:
        The result as plain types, for sweeps, or ``{"error": sentence}``.
    """
    console = Console()
    try:
        with told_disk_errors():
            return run(cfg, console).to_dict()
    except Exception as error:
        sentence, in_sweep = _told(error), HydraConfig.get().mode is RunMode.MULTIRUN
        if sentence is None:
            if not in_sweep:
                raise
            traceback.print_exc()
            sentence = f"{type(error).__name__}: {str(error).strip()}"
        Console(stderr=True).print("[bold red]error:[/]", Text(sentence), soft_wrap=True)
        if in_sweep:
            return {"error": sentence}
        sys.exit(1)


def _told(error: Exception) -> str | None:
    """Return the sentence for bad input; None where the error is none of those that it raises."""
    said = error.__cause__ if isinstance(error, InstantiationException) else error  # Hydra wraps what refuses arguments
    if isinstance(said, CompressError):
        return str(said)
    if isinstance(said, TypeError) and said is not error and "unexpected keyword argument" in str(said):
        return f"configuration: {first_line(said)}; leave it out"
    return f"configuration: {first_line(said)}" if isinstance(said, OmegaConfBaseException) else None


def run(cfg: DictConfig, console: Console) -> Result:
    """Train or load the dense network, compress it, print the table, write the report."""
    if cfg.compress is None:
        raise CompressError(f"say how to compress: +compress=drl_quant ({program()} --help lists the ways), or recipe=")
    _check_added(cfg)
    check_seed(cfg.seed)
    check_whole("epochs", cfg.epochs, 0)
    if cfg.threads is not None:
        check_whole("threads", cfg.threads, 1)
        torch.set_num_threads(cfg.threads)
    folder = Path(HydraConfig.get().runtime.output_dir)
    plan = _plan(cfg)  # a damaged file is found before anything is trained
    if plan is not None:
        check_unplanned(cfg.budget, cfg.trials)
    check_read(HydraConfig.get().overrides.task, cfg)
    usual = {"budget": cfg.budget, "trials": cfg.trials, "epochs": cfg.finetune.epochs}
    set_usual(cfg.compress, usual, {"epochs": "finetune.epochs"})
    method = method_of(cfg.compress)
    asked = method.stages if plan is None else {name: stage.with_plan(plan) for name, stage in method.stages.items()}
    check_stages(asked)  # before the dense network is trained
    make_trainer = instantiate(cfg.trainer)
    check_trainer(make_trainer)
    data: LightningDataModule = instantiate(cfg.data)
    dense = dense_module(cfg, data, make_trainer, method.stages, console)
    result = compress(
        dense,
        data,
        method.stages,
        folder=folder,
        make_trainer=make_trainer,
        seed=cfg.seed,
        plan=plan,
        metric=cfg.metric,
        make_logger=instantiate(cfg.logger),
        exporters=method.exporters,
    )
    write_summary(result, cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)), console)
    return result


def _check_added(cfg: DictConfig) -> None:
    """Raise if a key that was added with + has no effect: none of ours, and no other setting refers to it."""
    text = OmegaConf.to_yaml(cfg) + OmegaConf.to_yaml(HydraConfig.get())
    for override in HydraConfig.get().overrides.task:
        name = override.partition("=")[0].lstrip("+")
        used = name in ADDED or re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b", text)
        if override.startswith("+") and name in cfg and not used:
            known = [str(key) for key in cfg if key != name]
            raise CompressError(f"{override}: there is no setting {name!r}{did_you_mean(name, known)}; known: {known}")


def _plan(cfg: DictConfig) -> Path | None:
    """Return the file of ``plan=FILE``, or else of the recipe, after a look into it; None where there is neither."""
    if cfg.plan is None and cfg.recipe is None:
        return None
    file = Path(cfg.plan) if cfg.plan is not None else recipe_file(cfg.recipe)
    Plan.load(file)
    return file


def dense_module(
    cfg: DictConfig,
    data: LightningDataModule,
    make_trainer: Callable[..., Trainer],
    stages: Mapping[str, Stage],
    console: Console,
) -> LightningModule:
    """Return the trained network before compression: ``ckpt=FILE``, or trained once and kept in ``cache_dir``.

    It is kept for the configuration of model, data and trainer, for the sources of what these name, and for the train
    data, whose file may have changed under the same name.
    """
    seed_everything(cfg.seed, workers=True, verbose=False)
    module: LightningModule = instantiate(cfg.model)
    if cfg.ckpt is not None:
        return load_checkpoint(module, Path(cfg.ckpt))
    parts = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "data", "trainer")}
    data.prepare_data()
    data.setup("fit")
    read = digest_of_data(cfg.seed, data.train_dataloader())
    depends = [parts, cfg.epochs, cfg.seed, sources_digest(parts), read]
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
    folder, make_logger = Path(cfg.cache_dir) / f"dense-{digest}", instantiate(cfg.logger)
    check_writable(folder, "cache_dir")
    if (folder / FINAL).is_file():  # the names of metrics are soon checked on what was trained
        console.print(Text(f"dense network from cache {folder / FINAL}"), soft_wrap=True)
    else:
        untrained = RunContext.begun(module, data, folder, make_trainer=make_trainer, seed=cfg.seed)
        check_logged_metrics(untrained, stages, cfg.metric)
        check_taught_outputs(untrained, stages)
    return fit(module, data, make_trainer, folder=folder, epochs=cfg.epochs, seed=cfg.seed, make_logger=make_logger)
