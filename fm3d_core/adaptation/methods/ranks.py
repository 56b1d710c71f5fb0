"""Methods with low-rank updates, at another rank or scale than their own."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.adaptation.methods.base import Method

MOST = 1024


def with_rank(method: Method, rank: int | None, alpha: float | None) -> Method:
    """The method with this rank and this alpha; None leaves its own.

    Raises:
        SettingsError: the method has none, or an impossible value.
    """
    if rank is None and alpha is None:
        return method
    if (rank is not None and not 1 <= rank <= MOST) or (alpha is not None and not 0 < alpha <= MOST):
        raise SettingsError(f"rank is {rank}, alpha is {alpha}", remedy=f"Choose values above 0, up to {MOST}")
    changed = copy(method)
    for name, value in (("rank", rank), ("alpha", alpha)):
        if value is None:
            continue
        if not hasattr(method, name):
            raise SettingsError(
                f"{name} is {value}, but method {method.name} has none",
                remedy="Leave it out, or choose method lora or another that has it",
            )
        setattr(changed, name, value)
    return changed
