"""The kinds of objectives by name; each is a module with ``Settings`` and ``build``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from fm3d_core.pretraining.objective import Built, Place
    from fm3d_core.pretraining.settings import PretrainSettings

KINDS = {
    "self_distillation": "fm3d_core.pretraining.self_distillation_objective",
    "partial_labels": "fm3d_core.pretraining.partial_labels.objective",
    "pretext": "fm3d_core.pretraining.pretext.objective",
    "synthetic": "fm3d_core.pretraining.synthetic_anatomy.objective",
}


def settings_class(kind: str) -> type[Any]:
    """The dataclass of everything below ``settings:`` of a configuration.

    Raises:
        SettingsError: unknown kind.
    """
    chosen: type[Any] = _module(kind).Settings
    return chosen


def build_objective(settings: PretrainSettings, data: Path | None, place: Place) -> Built:
    """The objective of a configuration with its data, for one process.

    Raises:
        SettingsError: unknown kind or impossible settings.
        FM3DError: data that cannot be used.
    """
    from fm3d_core.strict_settings import validated

    module = _module(settings.objective)
    built: Built = module.build(validated(module.Settings, settings.settings, place="settings"), data, place)
    return built


def _module(kind: str) -> Any:
    if kind not in KINDS:
        raise SettingsError(f"objective: unknown kind '{kind}'", remedy=f"Choose one of: {', '.join(KINDS)}")
    return import_module(KINDS[kind])
