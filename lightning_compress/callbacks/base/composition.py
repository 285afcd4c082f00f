"""Several callbacks as one: what a search may vary, what a plan rounds to, costs, and applies to a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

from torch import nn

from lightning_compress.callbacks.base.callback import CompressionCallback, known_structure
from lightning_compress.callbacks.base.code_sizes import KNOB, MeasuredCodeSizes
from lightning_compress.callbacks.base.order import check_order
from lightning_compress.callbacks.base.plans import plan_names
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError, NoEffectError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.core.settings import settings_of
from lightning_compress.core.space import Space
from lightning_compress.surgery.replacement import describe, spread

CostT = TypeVar("CostT", bound=Cost)


class Composition:
    """The callbacks of a run, bound to the network that they will be applied to.

    Args:
        callbacks: in rising order; their own plans are not used.
        net: the network before these callbacks; it is only read.
        example: one input batch.
    """

    def __init__(self, callbacks: Sequence[CompressionCallback], net: nn.Module, example: Any) -> None:
        check_order(callbacks)
        self.callbacks, self.net, self.example = list(callbacks), net, example
        self.profile: Profile = known_structure(net, example).profile
        self._replaced = set(describe(net))

    def space(self) -> Space:
        """Return all choices of all callbacks, in the order in which layers run.

        Raises:
            NoEffectError: there is none.
        """
        found = [c for callback in self.callbacks for c in callback.choices(self.net, self.profile, self.example)]
        if not found:
            names = [type(c).__name__ for c in self.callbacks]
            raise NoEffectError(f"search: {names} leave nothing to choose; loosen 'ignore' or widen the ranges")
        place = {name: i for i, name in enumerate(self.profile.layers)}
        return Space(tuple(sorted(found, key=lambda choice: place[self.profile.inside(choice.layer)[0].name])))

    def own(self, plan: Plan) -> Plan:
        """Return the part of a plan that these callbacks understand."""
        whole = Plan({})
        for callback in self.callbacks:
            whole = whole.merge(callback.own(plan))
        return whole

    def resolve(self, plan: Plan) -> Plan:
        """Return what a plan rounds to: two plans give the same network exactly when this is equal.

        Raises:
            CompressError: the plan does not fit the network or the callbacks.
        """
        self._check_not_removed(plan)
        plan.check(plan.layers, frozenset().union(*(c.knobs for c in self.callbacks)))
        names, whole, profile = plan_names(self.net), Plan({}), self.profile
        for callback in self.callbacks:
            own = callback.own(plan)
            own.check(names | profile.layers.keys(), callback.knobs)
            part = callback.resolve(self._spread(own, profile), self.net, profile, self.example)
            profile = callback.predict(part, profile)
            whole = whole.merge(part)
        return whole

    def predict(self, plan: Plan) -> Profile:
        """Return the profile of the network with a resolved plan applied."""
        profile = self.profile
        for callback in self.callbacks:
            profile = callback.predict(self._spread(callback.own(plan), profile), profile)
        return profile

    def priced(self, cost: CostT) -> CostT:
        """Return a cost as it is for networks that are made from this one's weights."""
        return cost.for_weights(self._code_sizes)

    @cached_property
    def _code_sizes(self) -> MeasuredCodeSizes:
        choices = [c for callback in self.callbacks for c in callback.choices(self.net, self.profile, self.example)]
        widths = {
            c.layer: tuple(map(int, c.values)) for c in choices if c.knob == KNOB and c.layer in self.profile.layers
        }
        return MeasuredCodeSizes(self.net, self.profile, widths, self._quantize)

    def _quantize(self, net: nn.Module, plan: Plan) -> None:
        """Apply bits of weights alone: what other callbacks need is gathered only later."""
        for callback in self.callbacks:
            if KNOB in callback.knobs:
                callback.with_plan(callback.own(plan)).apply(net, self.example)

    def bound(self, plan: Plan) -> list[CompressionCallback]:
        """Return the callbacks, each with its part of the plan, for a Trainer."""
        return [callback.with_plan(callback.own(plan)) for callback in self.callbacks]

    def apply(self, net: nn.Module, plan: Plan) -> None:
        """Apply a plan to a copy of the network."""
        for callback in self.bound(plan):
            callback.apply(net, self.example)

    def _check_not_removed(self, plan: Plan) -> None:
        removed = [name for name in self._replaced if not self.profile.inside(name)]
        for layer, knobs in plan.layers.items():
            gone = next((name for name in removed if f"{layer}.".startswith(f"{name}.")), None)
            if gone is not None:
                raise CompressError(
                    f"plan: layer {layer!r} sets {sorted(knobs)}, but {gone!r} was removed in a stage before; take "
                    f"{layer!r} out of the plan, or keep {gone!r}"
                )

    def settings(self) -> dict[str, Any]:
        """Return the callbacks' settings as plain types, without their own plans."""
        found = {callback.kind: settings_of(callback) for callback in self.callbacks}
        return {name: {k: v for k, v in settings.items() if k != "plan"} for name, settings in found.items()}

    def _spread(self, plan: Plan, profile: Profile) -> Plan:
        return spread(plan, self._replaced | (self.profile.layers.keys() - profile.layers.keys()), profile)
