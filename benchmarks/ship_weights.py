"""Put the backbone of a pretraining run into the package: as float16, with its entry in shipped/index.yaml.

    python benchmarks/ship_weights.py RUN/backbone.safetensors --id fm3d_small --about "one line"

Existing entries stay: adapters name their weights by hash. The first entry of a backbone is its default, so the new one
comes first. Write the MODEL_CARD.md beside it by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

LICENCE = "Apache-2.0"
MEGABYTES = 25  # all shipped weights together


@dataclass(frozen=True)
class Ship:
    """What is shipped.

    Attributes:
        backbone: a run's backbone.safetensors.
        id: how users will call it.
        about: one line for fm3d weights list.
    """

    backbone: tyro.conf.Positional[Path]
    id: str
    about: str

    def run(self) -> None:
        """Write file and entry.

        Raises:
            SystemExit: the id is taken, the backbone is of no preset, or all together become too large.
        """
        import torch
        import yaml
        from safetensors.torch import load_file, save

        from fm3d_core.files import atomic_file, sha256_of
        from fm3d_core.models.weights.shipped_weights import FOLDER
        from fm3d_core.models.weights.store import read_header

        index = FOLDER / "index.yaml"
        entries = yaml.safe_load(index.read_text(encoding="utf-8")) or {}
        header = read_header(self.backbone)
        if self.id in entries or not header.get("preset"):
            raise SystemExit(f"{self.id} is taken, or {self.backbone} names no preset")
        tensors = {
            name: tensor.half() if tensor.dtype == torch.float32 else tensor
            for name, tensor in load_file(self.backbone).items()
        }
        about = {"preset": header["preset"], "config": header["config"], "class": header["class"]}
        path = FOLDER / f"{self.id}.safetensors"
        with atomic_file(path) as temporary:
            temporary.write_bytes(save(tensors, metadata={"fm3d": json.dumps(about, sort_keys=True)}))
            temporary.chmod(0o644)
        total = sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) / 1e6
        if total > MEGABYTES:
            path.unlink()
            raise SystemExit(f"all shipped weights together would take {total:.1f} MB, more than {MEGABYTES}")
        entry = {
            "file": path.name,
            "sha256": sha256_of(path),
            "backbone": header["preset"],
            "about": self.about,
            "licence": LICENCE,
        }
        with atomic_file(index) as temporary:
            temporary.write_text(yaml.safe_dump({self.id: entry} | entries, sort_keys=False, width=120))
        Console().print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, sha256 {entry['sha256']}", soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(Ship, description=__doc__).run()
