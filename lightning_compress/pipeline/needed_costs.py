"""The costs that a search records of each candidate: those that its budget and its objective need."""

from __future__ import annotations

from contextlib import nullcontext

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from hydra.utils import instantiate

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.settings import settings_of
from lightning_compress.search.objectives.objective import Objective

GROUP = "compress/cost"


def needed_costs(cost: Cost, objective: Objective) -> tuple[Cost, ...]:
    """Return the cost of the budget, then those of the objective; each once.

    Args:
        cost: of the budget.
        objective: its costs are costs or names of costs; a name that is not the budget's is one of the group
            ``compress/cost``.

    Raises:
        CompressError: there is no cost of such a name, or two different costs have the same name.
    """
    found = {cost.name: cost}
    for asked in objective.costs:
        if isinstance(asked, str) and asked in found:
            continue
        other = cost_named(asked) if isinstance(asked, str) else asked
        if settings_of(found.setdefault(other.name, other)) != settings_of(other):
            raise CompressError(
                f"objective: its cost and the cost of the budget are both named {other.name!r} and are not the same; "
                f"give one of them another name"
            )
    return tuple(found.values())


def cost_named(name: str) -> Cost:
    """Return the cost that ``compress/cost=NAME`` makes, also one of a third party on Hydra's search path.

    Raises:
        CompressError: there is none.
    """
    started = GlobalHydra.instance().is_initialized()
    hydra = nullcontext() if started else initialize_config_module("lightning_compress.conf", version_base="1.3")
    with hydra:
        known = GlobalHydra.instance().config_loader().get_group_options(GROUP)
        if name not in known:
            raise CompressError(f"objective: there is no cost {name!r}{did_you_mean(name, known)}; known: {known}")
        try:
            section = compose(f"{GROUP}/{name}")
        except MissingConfigException as error:
            raise CompressError(f"objective: the cost {name!r} cannot be read: {error}") from error
    for part in GROUP.split("/"):
        section = section[part]
    return instantiate(section)
