"""Check that a distillation loss takes the network's outputs, before anything is searched or trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from lightning_compress.callbacks.distillation import KnowledgeDistillation
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.context import RunContext
from lightning_compress.pipeline.seeding import seeded
from lightning_compress.pipeline.stage import Stage
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.modes import training
from lightning_compress.surgery.structure import network


def check_taught_outputs(run: RunContext, stages: Mapping[str, Stage]) -> None:
    """Compute the term of each stage's distillation once: the dense network teaches itself on the example.

    Args:
        run: the module, which need not be trained and is not changed.
        stages: name -> stage.

    Raises:
        CompressError: a loss does not take these outputs.
    """
    for name, stage in stages.items():
        for callback in run.teaching(stage.distillation) if stage.epochs else ():
            if isinstance(callback, KnowledgeDistillation):
                with seeded(run.seed):
                    _check(callback, clone(network(run.dense)), run.example, name)


def _check(callback: KnowledgeDistillation, net: nn.Module, example: Any, stage: str) -> None:
    refused: list[CompressError] = []

    def hook(_net: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        try:
            callback.term(args, kwargs, output)
        except CompressError as error:
            refused.append(error)

    net.register_forward_hook(hook, with_kwargs=True)
    with torch.no_grad(), suppress(Exception):  # what else training mode refuses of the example, trainings may not meet
        training(net, example)
    if refused:
        raise CompressError(f"stage {stage}: {refused[0]}") from refused[0]
