"""The shipped configuration as stages: ``+compress=NAME`` and its usual settings, for Python and for applications."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_compress.conf import resolvers
from lightning_compress.core.errors import CompressError, did_you_mean, first_line
from lightning_compress.core.overrides import check_groups
from lightning_compress.export.exporter import Exporter
from lightning_compress.export.packed import Packed
from lightning_compress.pipeline.stage import Stage

PACKED = "packed"  # the exporter whose file every run has, and on which its figures are measured
USUAL = {"budget": "planner.budget", "trials": "planner.trials", "epochs": "epochs"}  # setting -> key of a stage
MADE = ("stages", "exporters", "coder")  # of the section compress: what is made of it; all else is there to be read
SETTING = re.compile(r"\+*compress(/[^@=]*@compress\.(?P<package>\w+)|[./](?P<key>\w+))[^@]*?=")


@dataclass(frozen=True)
class Method:
    """Stages and settings behind ``+compress=NAME``.

    Attributes:
        stages: name -> stage, in order.
        exporters: name -> exporter of the finished network.
    """

    stages: Mapping[str, Stage]
    exporters: Mapping[str, Exporter]


def shipped_method(
    name: str, overrides: Sequence[str] = (), lr: float | str | None = None, **usual: float | str | None
) -> Method:
    """Compose the configuration of ``+compress=NAME``, also of a third party's on Hydra's search path.

    Args:
        name: of a file of the group ``compress``, such as ``drl_quant``.
        overrides: as on the command line.
        lr: learning rate of the fine-tuning, or ``auto``.
        usual: budget, trials and epochs, each of the one stage that has it; None leaves what the configuration says.

    Raises:
        CompressError: there is no such method, an override does not fit, or a setting is of no stage or of several.
    """
    check_groups(overrides)
    resolvers.register()
    started = GlobalHydra.instance().is_initialized()
    hydra = nullcontext() if started else initialize_config_module("lightning_compress.conf", version_base="1.3")
    with hydra:
        known = GlobalHydra.instance().config_loader().get_group_options("compress")
        if name not in known:
            raise CompressError(f"compress: there is no method {name!r}{did_you_mean(name, known)}; known: {known}")
        given = [*overrides, *([] if lr is None else [f"++finetune.lr={lr}"])]
        try:
            config = compose(overrides=[f"+compress={name}", *given])
            check_read(overrides, config)
            set_usual(config.compress, usual)
            method = method_of(config.compress)
        except (HydraException, OmegaConfBaseException) as error:
            if isinstance(error.__cause__, CompressError):
                raise error.__cause__ from None
            raise CompressError(f"compress: {name!r} with {given}: {first_line(error)}") from error
    return method


def method_of(section: DictConfig) -> Method:
    """Return what a section ``compress`` of a configuration makes."""
    coder = instantiate(section.get("coder"))
    return Method(
        instantiate(section.stages, _convert_="object"),
        # As plain objects: exporters are data classes, which omegaconf would wrap.
        {
            PACKED: Packed(coder) if coder else Packed(),
            **(instantiate(section.get("exporters"), _convert_="all") or {}),
        },
    )


def set_usual(section: DictConfig, usual: Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
    """Set the usual settings of a section ``compress``, each in the one stage that has it.

    Args:
        section: is changed in place.
        usual: budget, trials or epochs -> value; None changes nothing.
        names: what the user calls a setting, where that differs.

    Raises:
        CompressError: no stage has the setting, or more than one has.
    """
    for name, value in usual.items():
        if value is None:
            continue
        key = USUAL[name]
        found = [stage for stage, settings in section.stages.items() if _has(settings, key)]
        given = f"{(names or {}).get(name, name)}={value}"
        if not found:
            raise CompressError(
                f"{given}: no stage has {key}; {sorted(section.stages)} search nothing. Choose a method that searches, "
                f"such as drl_quant, or compress/planner@compress.stages.{next(iter(section.stages))}.planner=search"
            )
        if len(found) > 1:
            keys = ", ".join(f"compress.stages.{stage}.{key}={value}" for stage in found)
            raise CompressError(f"{given}: {len(found)} stages have it; set the ones that you mean: {keys}")
        OmegaConf.update(section, f"stages.{found[0]}.{key}", value)


def check_unplanned(budget: float | str | None, trials: int | None) -> None:
    """Raise if settings of a search are given beside a plan, which takes its place.

    Raises:
        CompressError: it is so.
    """
    for name, value in (("budget", budget), ("trials", trials)):
        if value is not None:
            raise CompressError(
                f"{name}={value}: it would have no effect, for a plan is given, which takes the place of what is "
                f"searched; leave out {name} or the plan"
            )


def check_read(overrides: Sequence[str], config: DictConfig) -> None:
    """Raise if a setting of the section ``compress`` is given that nothing of the chosen way reads.

    A setting is read where stages, exporters or the coder are others once it is something else.

    Args:
        overrides: as on the command line.
        config: that they were composed to, with the section ``compress``, before anything is made of it, which puts
            values in the place of references.

    Raises:
        CompressError: it is so.
    """
    made = _made(config)
    for override in overrides:
        found = SETTING.match(override)
        key = found and (found["package"] or found["key"])
        if not key or key in MADE or key not in config.compress or made is None:
            continue
        other = copy.deepcopy(config)
        OmegaConf.set_readonly(other, False)
        OmegaConf.update(other, f"compress.{key}", {"of": "nothing"}, merge=False, force_add=True)
        if _made(other) == made:
            known = [str(each) for each in config.compress if each != key]
            raise CompressError(
                f"{override}: it would have no effect, for no stage reads compress.{key}{did_you_mean(key, known)}; "
                f"leave it out, or where a search is meant that reads it, add "
                f"compress/planner@compress.stages.{list(config.compress.stages)[-1]}.planner=search"
            )


def _made(config: DictConfig) -> list[Any] | None:
    """Return what stages, exporters and coder are made from; None where a setting refers to what is not there."""
    sections = [config.compress.get(name) for name in MADE]
    try:
        return [OmegaConf.to_container(each, resolve=True) if OmegaConf.is_config(each) else each for each in sections]
    except OmegaConfBaseException:
        return None


def _has(settings: Any, key: str) -> bool:
    *above, last = key.split(".")
    for part in above:
        settings = settings.get(part)
        if not isinstance(settings, DictConfig):
            return False
    return last in list(settings.keys())  # `in settings` would resolve it
