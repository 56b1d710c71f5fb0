"""``fm3d visualize``: what a network sees in a volume."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fm3d_core.cli.options import AdapterOption
from fm3d_core.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from fm3d_core.adaptation import Adapter
    from fm3d_core.inference import Predictor
    from fm3d_core.progress import ProgressCallback
    from fm3d_core.volumes import Volume

LARGEST_WINDOW = 512


@dataclass(frozen=True)
class Visualize:
    """Show what a network sees in a volume: its features as colours, and what its class token attends to.

    fm3d visualize scan.nii.gz --weights 3dino_vit; without --backbone and --weights the adapter's network is shown.

    Features: the first component of all features tells foreground from background, which stays black; the three
    components of the foreground's features are red, green and blue. What has like colours looks alike to the network.
    Attention: of the class token of a transformer's last block, of each head; 1 is what a patch gets if all get the
    same. A pyramid (U-Net, Swin UNETR) has no class token: only its features are shown.

    Writes NAME_features.nii.gz (RGB), NAME_attention.nii.gz (mean), NAME_attention_head_01.nii.gz, ... on the image's
    own grid, and NAME_features.png, NAME_attention.png in three planes.

    Attributes:
        image: an image file or a folder of one DICOM series.
        out: folder for the results.
        backbone: instead of an adapter, a plain backbone (fm3d methods, fm3d weights list).
        weights: of the backbone: a file or an id; without it those that come with FM3D, if any.
        window: edge in voxels of what the network sees at once; default: the adapter's, or what a ViT was made for.
        background: what stays black in the colours: what the first component tells from the rest, or what is empty in
            the image.
        position: R A S in mm that the planes of the pictures go through; default: the middle of what is not empty.
        frame: which frame of a 4D file, counted from 0.
        device: auto, cpu or cuda.
        adapter: which adapter is used.
    """

    image: tyro.conf.Positional[Path]
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("visualization")
    backbone: str | None = None
    weights: Path | None = None
    window: int | None = None
    background: Literal["first_component", "empty"] = "first_component"
    position: tuple[float, float, float] | None = None
    frame: int | None = None
    device: str = "auto"
    adapter: Annotated[AdapterOption, tyro.conf.arg(name="")] = field(default_factory=AdapterOption)

    def run(self) -> None:
        """Look, and write what was seen."""
        from rich.console import Console

        from fm3d_core.cli.console import progress_bar
        from fm3d_core.inference.attention import has_attention
        from fm3d_core.volumes import read_volume

        if self.window is not None and not 8 <= self.window <= LARGEST_WINDOW:
            raise SettingsError(f"window is {self.window}", remedy=f"Choose voxels between 8 and {LARGEST_WINDOW}")
        console = Console()
        volume = read_volume(self.image, frame=self.frame)
        features = self.out / f"{volume.name}_features.nii.gz"
        if features.exists():
            raise SettingsError("exists already", path=features, remedy="Choose another folder with --out")
        position = self._position(volume)
        with console.status("Loading the network"):
            predictor = self._predictor(volume)
        with progress_bar(console) as show:
            written = self._features(predictor, volume, position, features, show)
            if has_attention(predictor):
                written += self._attention(predictor, volume, position, show)
        self._tell(written, predictor, console)

    def _features(
        self, predictor: Predictor, volume: Volume, position: tuple[int, int, int], path: Path, show: ProgressCallback
    ) -> list[Path]:
        from fm3d_core.evaluation.planes import PlanesPanel, draw_planes
        from fm3d_core.inference.insight import feature_colours
        from fm3d_core.volumes import write_colours

        colours = feature_colours(predictor, volume, background=self.background, progress=show)
        panels = [PlanesPanel("image"), PlanesPanel("features", colours)]
        picture = self.out / f"{volume.name}_features.png"
        write_colours(path, colours, like=volume)
        return [path, draw_planes(picture, volume.array, volume.spacing, panels, position, volume.name)]

    def _attention(
        self, predictor: Predictor, volume: Volume, position: tuple[int, int, int], show: ProgressCallback
    ) -> list[Path]:
        from fm3d_core.evaluation.planes import PlanesPanel, draw_planes
        from fm3d_core.inference.attention import attention_of_heads
        from fm3d_core.volumes import write_map

        heads = attention_of_heads(predictor, volume, progress=show)
        maps = {"": heads.mean(axis=0), **{f"_head_{number:02d}": each for number, each in enumerate(heads, start=1)}}
        written = [self.out / f"{volume.name}_attention{ending}.nii.gz" for ending in maps]
        for path, values in zip(written, maps.values(), strict=True):
            write_map(path, values, like=volume)
        names = ["mean of heads", *(f"head {number}" for number in range(1, len(heads) + 1))]
        panels = [PlanesPanel(name, values=values) for name, values in zip(names, maps.values(), strict=True)]
        picture = self.out / f"{volume.name}_attention.png"
        return [*written, draw_planes(picture, volume.array, volume.spacing, panels, position, volume.name)]

    def _predictor(self, volume: Volume) -> Predictor:
        """Of the adapter, or of a plain backbone with a head that is not asked."""
        from fm3d_core.adaptation import Adapter
        from fm3d_core.inference import Predictor

        if self.backbone is None and self.weights is None:
            adapter = self.adapter.load()
        else:
            if self.adapter != AdapterOption():
                raise SettingsError("both a backbone and an adapter are given", remedy="Give one of them")
            adapter = self._plain(volume)
        if self.window is not None:
            adapter = Adapter(replace(adapter.card, window=(self.window,) * 3), adapter.tensors)
        return Predictor(adapter, self.device)

    def _plain(self, volume: Volume) -> Adapter:
        from fm3d_core.adaptation import Adapter, FinetuneSettings, untrained_adapter
        from fm3d_core.adaptation.building import spec_of
        from fm3d_core.adaptation.cases import plan_for_volumes
        from fm3d_core.models.zoo import create_backbone
        from fm3d_core.tasks import SegmentationTask

        settings = FinetuneSettings(
            method="linear_probe", head="linear", backbone=self.backbone, weights=self.weights, device=self.device
        )
        spec, fed = spec_of(settings, 1)
        task = SegmentationTask(("structure",), plan_for_volumes([volume], fed))
        adapter = untrained_adapter(task, settings)
        edge = create_backbone(spec).config.get("image_size")
        return Adapter(replace(adapter.card, window=(edge,) * 3), adapter.tensors) if edge else adapter

    def _position(self, volume: Volume) -> tuple[int, int, int]:
        """The voxel of --position."""
        import numpy as np

        from fm3d_core.evaluation.planes import middle_of

        if self.position is None:
            low, high = np.percentile(volume.array, (1, 99))
            return middle_of(volume.array > low + 0.1 * (high - low))
        voxel = np.rint(np.linalg.solve(volume.affine, [*self.position, 1.0])[:3]).astype(int)
        if (voxel < 0).any() or (voxel >= volume.shape).any():
            raise SettingsError(
                f"position {self.position} lies outside of the image", remedy="Give R A S in mm, as 3D Slicer shows it"
            )
        x, y, z = (int(index) for index in voxel)
        return x, y, z

    def _tell(self, written: list[Path], predictor: Predictor, console: Console) -> None:
        from fm3d_core.inference.attention import has_attention

        for path in written:
            console.print(f"{path}", soft_wrap=True)
        if not has_attention(predictor):
            preset = predictor.card.backbone.preset
            console.print(f"{preset} has no class token, and so no attention to show: its features only")
