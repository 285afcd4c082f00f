"""Costs: profile -> number, which never rises when a layer gets smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import ceil, floor, inf, log10
from typing import Any, ClassVar, Self

from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind
from lightning_compress.core.profile import LayerProfile, Profile

Write = Callable[..., Sequence[Any]]  # (codes, bits, shape, kept) -> bytes, see Coder.write
CodeSizes = Callable[[Write, LayerProfile], int]


class Cost(HasKind, ABC):
    """Cost of a network, computed from its profile alone.

    Attributes:
        name: under which scores, results and objectives know it; its file in the group ``compress/cost`` has it too.
        unit: of the values, as it stands behind a number.
        label: of its row in tables; empty takes the name.
        digits: significant digits that are shown; None where all values are whole numbers.
        additive: whether it is a sum over layers; a closed form for sums needs that, a projection does not.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    label: ClassVar[str] = ""
    digits: ClassVar[int | None] = None
    additive: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, profile: Profile) -> float:
        """Return the cost of the network with this profile, in :attr:`unit`."""

    def for_weights(self, sizes: CodeSizes) -> Self:
        """Return the cost of networks that are compressed from certain weights; by default it is the same for all.

        Args:
            sizes: ``(write, layer) -> bytes`` of the codes that the layer has, as a coder writes them.
        """
        return self

    @property
    def title(self) -> str:
        """The label with the unit, unless it says that itself."""
        label = self.label or self.name.replace("_", " ")
        return label if self.unit in label else f"{label} ({self.unit})"

    def text(self, value: float) -> str:
        """Return a value with its unit, as messages and tables show it.

        >>> from lightning_compress.core.costs.macs import MACs
        >>> MACs().text(1234567.0)
        '1,234,567 MACs'
        """
        return f"{number_text(value, self.digits)} {self.unit}"

    def round_up(self, value: float) -> float:
        """Return the smallest number that :meth:`text` shows in full and that is no smaller than ``value``."""
        if self.digits is None or not value:
            return float(ceil(value))
        step = 10.0 ** (floor(log10(abs(value))) + 1 - self.digits)
        return round(ceil(value / step - 1e-9) * step, 12)

    def check_budget(self, budget: float | str) -> None:
        """Raise if a budget can be none of any network, whatever the dense one costs.

        Raises:
            CompressError: see :meth:`limit`.
        """
        self.limit(budget, 2e5 if self.digits is None else 2.0)  # twice what the message has for an example

    def limit(self, budget: float | str, dense: float) -> float:
        """Return the limit that a budget sets.

        Args:
            budget: up to 1 a share of ``dense``; above it the limit itself; a text such as ``"0.8 ms"`` is the limit
                itself too, for limits that are not above 1.
            dense: what the dense network costs.

        Raises:
            CompressError: the budget is none of these.
        """
        wrong = CompressError(
            f"budget must be a share in (0, 1] of what the dense network costs, above 1 a number of {self.unit}, or a "
            f"text such as '{number_text(self.round_up(dense / 2), self.digits)} {self.unit}', got {budget!r}"
        )
        if isinstance(budget, str):
            number, _, unit = budget.strip().partition(" ")
            try:
                limit = float(number.replace(",", ""))
            except ValueError:
                raise wrong from None
            if unit.strip() != self.unit or not 0 < limit < inf:
                raise wrong
            return limit
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < inf:
            raise wrong
        return budget if budget > 1 else budget * dense


def number_text(value: float, digits: int | None) -> str:
    """Return a number with thousands separators: whole for None, else with that many significant digits.

    >>> number_text(1234.56, None), number_text(0.0123456, 3), number_text(1234.56, 3)
    ('1,235', '0.0123', '1,235')
    """
    if digits is None or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
