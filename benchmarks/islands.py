"""Islands: Dice and HD95 with and without the small parts that lie apart from the rest of a structure.

    python benchmarks/islands.py --data ../shared/data --sets btcv_ct --shots 3 --seeds 0 1

The volumes are those to learn from of few_shot_sets.py, some of them held out, as in optimisers.py: no volume that a
figure of the README tests on is seen. Both ways segment with the same trained network.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro
from few_shot_row import score
from few_shot_sets import development
from optimisers import WAYS, Optimisers, trained
from rich.console import Console

from fm3d_core.inference import Predictor
from fm3d_core.torchvision_guard import ensure_torchvision_importable
from fm3d_core.volumes import read_volume


@dataclass(frozen=True)
class Islands(Optimisers):
    """What is compared, by the options of optimisers.py."""

    seeds: tuple[int, ...] = (0, 1)

    def run(self) -> None:
        """Train once for each set and seed, and segment both ways."""
        import torch

        ensure_torchvision_importable()
        torch.set_num_threads(1)
        console = Console(highlight=False, soft_wrap=True)
        for name in self.sets:
            for seed in self.seeds:
                volumes = development(self.data, name, self.shots, seed)
                adapter = trained(volumes, WAYS[-1], self.seconds, seed)
                for keep in (True, False):
                    predictor = Predictor(adapter, keep_islands=keep)
                    found = score([predictor.segment(read_volume(case.image)) for case in volumes.test], volumes)
                    way = "left where they are" if keep else "taken out"
                    console.print(f"{name}, seed {seed}, {way}: Dice {found['dice']:.3f}, HD95 {found['hd95']:.1f} mm")


if __name__ == "__main__":
    tyro.cli(Islands, description=__doc__).run()
