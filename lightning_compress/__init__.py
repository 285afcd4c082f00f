"""Compress a trained LightningModule to a budget, and pack it into a file that is really that small.

The names below load what they need at first use, so that ``import lightning_compress`` (which Hydra does at every start
of every application, to read ``lightning_compress.conf``) imports neither torch nor lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_compress.callbacks.base.mixin import CompressibleMixin as CompressibleMixin
    from lightning_compress.callbacks.channel_pruning import ChannelPruning as ChannelPruning
    from lightning_compress.callbacks.distillation import KnowledgeDistillation as KnowledgeDistillation
    from lightning_compress.callbacks.feature_distillation import FeatureDistillation as FeatureDistillation
    from lightning_compress.callbacks.information_dropout import InformationDropout as InformationDropout
    from lightning_compress.callbacks.joint import JointSparsityQuantization as JointSparsityQuantization
    from lightning_compress.callbacks.layer_removal import LayerRemoval as LayerRemoval
    from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout as LogNormalDropout
    from lightning_compress.callbacks.low_rank import LowRank as LowRank
    from lightning_compress.callbacks.quantization import QuantizationAwareTraining as QuantizationAwareTraining
    from lightning_compress.callbacks.variational_dropout import VariationalDropout as VariationalDropout
    from lightning_compress.callbacks.weight_pruning import WeightPruning as WeightPruning
    from lightning_compress.core.errors import CompressError as CompressError
    from lightning_compress.core.plan import Plan as Plan
    from lightning_compress.export.export_network import export as export
    from lightning_compress.export.load import inspect as inspect
    from lightning_compress.export.load import load as load
    from lightning_compress.export.save import save as save
    from lightning_compress.pipeline.compress import compress as compress
    from lightning_compress.pipeline.environment import plan_env as plan_env
    from lightning_compress.pipeline.layers import inspect_layers as inspect_layers
    from lightning_compress.pipeline.layers import uniform_plan as uniform_plan
    from lightning_compress.pipeline.result import Result as Result

_HOMES = {
    "ChannelPruning": "callbacks.channel_pruning",
    "CompressError": "core.errors",
    "CompressibleMixin": "callbacks.base.mixin",
    "FeatureDistillation": "callbacks.feature_distillation",
    "InformationDropout": "callbacks.information_dropout",
    "JointSparsityQuantization": "callbacks.joint",
    "KnowledgeDistillation": "callbacks.distillation",
    "LayerRemoval": "callbacks.layer_removal",
    "LogNormalDropout": "callbacks.log_normal_dropout",
    "LowRank": "callbacks.low_rank",
    "Plan": "core.plan",
    "QuantizationAwareTraining": "callbacks.quantization",
    "Result": "pipeline.result",
    "VariationalDropout": "callbacks.variational_dropout",
    "WeightPruning": "callbacks.weight_pruning",
    "compress": "pipeline.compress",
    "export": "export.export_network",
    "inspect": "export.load",
    "inspect_layers": "pipeline.layers",
    "load": "export.load",
    "plan_env": "pipeline.environment",
    "save": "export.save",
    "uniform_plan": "pipeline.layers",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
