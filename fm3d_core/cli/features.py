"""``fm3d features``: compute the frozen backbone's features ahead of the labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fm3d_core.cli.options import StoreOption, choose_cases


@dataclass(frozen=True)
class Features:
    """Compute what the frozen backbone says of volumes, before anybody has labelled them.

    The first answer after a label then takes no longer than solving for a linear head. Features are kept in FM3D's
    folder ($FM3D_HOME or ~/.fm3d), at most 8 GB; those not used for longest go first. They are computed as the active
    adapter of the store prepares volumes, or, before the first training, as each volume asks for.

    Attributes:
        data: folder of the images, or of images/.
        cases: names of the cases; default: all.
        backbone: as for fm3d finetune.
        weights: as for fm3d finetune.
        device: auto, cpu or cuda.
        store: whose active adapter training will go on from.
    """

    data: tyro.conf.Positional[Path]
    cases: tuple[str, ...] = ()
    backbone: str | None = None
    weights: Path | None = None
    device: str = "auto"
    store: Annotated[StoreOption, tyro.conf.arg(name="")] = field(default_factory=StoreOption)

    def run(self) -> None:
        """Compute, and say what was left out."""
        from rich.console import Console

        from fm3d_core.adaptation import FinetuneSettings
        from fm3d_core.adaptation.feature_cache import FeatureCache, cache_features
        from fm3d_core.cli.console import progress_bar
        from fm3d_core.errors import FM3DError
        from fm3d_core.volumes import find_cases, read_volume

        console, cache = Console(), FeatureCache()
        settings = FinetuneSettings(backbone=self.backbone, weights=self.weights, device=self.device)
        active = self.store.open().active()
        done = 0
        with progress_bar(console) as show:
            for case in choose_cases(find_cases(self.data), self.cases, self.data):
                try:
                    volume = read_volume(case.image)
                except FM3DError as error:
                    console.print(f"Left out: {error}", soft_wrap=True)
                    continue
                cache_features(volume, settings, card=active.card if active else None, cache=cache, progress=show)
                done += 1
        console.print(f"Features of {done} volumes are in {cache.root} ({cache.used() / 1e6:.0f} MB)", soft_wrap=True)
