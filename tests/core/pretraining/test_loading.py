"""Batches do not depend on workers, no two crops are equal, and a resume goes on with the very next batch."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
import torch

from fm3d_core.errors import VolumeError
from fm3d_core.pretraining.augmentations import AugmentationSettings
from fm3d_core.pretraining.crops import CropSettings
from fm3d_core.pretraining.loading import CropDataset, CropLoader, NamedBatch, ViewSettings, crop_loader
from fm3d_core.pretraining.objective import Place
from fm3d_core.pretraining.sampling import Draw
from fm3d_core.volumes import write_synthetic_cases
from fm3d_core.volumes.crop_store import CropStore, volume_folder
from fm3d_core.volumes.crop_store_building import build_crop_store
from fm3d_core.volumes.scan import scan_folder
from fm3d_core.volumes.volume_list import ListedVolume

# more workers than processors is what is tested
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

VIEWS = ViewSettings(
    CropSettings((16, 16, 16), 2, (0.48, 1.0), (0.5, 1.0)), CropSettings((8, 8, 8), 3, (0.16, 0.48), (0.2, 0.5))
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CropStore:
    folder = tmp_path_factory.mktemp("loading")
    write_synthetic_cases(folder, 5, shape=(30, 28, 26))
    build_crop_store(scan_folder(folder).volumes, folder / "store", workers=1)
    return CropStore(folder / "store")


def loader(store: CropStore, workers: int, views: ViewSettings = VIEWS, batch_size: int = 2) -> CropLoader:
    return crop_loader(store, views, (8, 8, 8), Place(batch_size=batch_size, seed=7, workers=workers))


def take(source: CropLoader, count: int) -> list[NamedBatch]:
    return list(itertools.islice(source, count))


def same(first: NamedBatch, second: NamedBatch) -> bool:
    tensors = [
        (batch.crops.global_crops, batch.crops.local_crops, batch.crops.masks.hidden) for batch in (first, second)
    ]
    return first.names == second.names and all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))  # type: ignore[arg-type]


def test_the_batches_are_the_same_with_any_number_of_workers(store: CropStore) -> None:
    alone, four = take(loader(store, 0), 6), take(loader(store, 4), 6)
    assert all(same(a, b) for a, b in zip(alone, four, strict=True))
    batch = alone[0].crops
    assert batch.global_crops.shape == (4, 1, 16, 16, 16) and batch.batch == 2
    assert batch.local_crops is not None and batch.local_crops.shape == (6, 1, 8, 8, 8)
    assert batch.masks.hidden.shape == (4, 8) and batch.masks.hidden.any()
    assert len({tuple(batch.crops.masks.hidden.flatten().tolist()) for batch in alone}) > 1


def test_four_workers_never_cut_the_same_crop_twice(store: CropStore) -> None:
    """The published loader repeats its random stream in each worker: there, crops come in groups of four."""
    batches = take(loader(store, 4), 16)
    crops = [crop for batch in batches for crop in batch.crops.global_crops]
    assert len({crop.numpy().tobytes() for crop in crops}) == len(crops) == 64
    boxes = set()
    for epoch in range(16):  # the same volume cut 16 times
        generator = torch.Generator().manual_seed(Draw(7, epoch, 0).stream("crops 0"))
        boxes.add(float(torch.rand((), generator=generator, dtype=torch.float64)))
    assert len(boxes) == 16


def test_a_resume_in_the_middle_of_a_pass_gives_the_very_next_batch_with_other_workers(store: CropStore) -> None:
    whole = take(loader(store, 0), 7)
    first = loader(store, 2)
    taken = take(first, 4)  # two workers have prefetched further batches by now
    state = first.state_dict()
    assert state["position"] == 8
    second = loader(store, 3)
    second.load_state_dict(state)
    assert all(same(a, b) for a, b in zip(whole, taken + take(second, 3), strict=True))


def test_the_frame_of_a_4d_volume_is_drawn_anew_each_time(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "robustness" / "ok_4d_int16_anisotropic.nii.gz"
    build_crop_store([ListedVolume(path, (52, 68, 20), (3, 3, 6), 10)], tmp_path / "store", workers=1)
    plain = AugmentationSettings(global_crops=((),), local_crops=(), flip=0, rotate=0)
    views = ViewSettings(
        CropSettings((16, 16, 16), 1, (1, 1), (1, 1), (0.9, 1 / 0.9)), CropSettings((8, 8, 8), 0, (1, 1), (1, 1)), plain
    )
    dataset = CropDataset(CropStore(tmp_path / "store"), views)
    # the box is nearly the whole volume each time, so what differs is the frame
    crops = {dataset[Draw(0, epoch, 0)].global_crops[0].numpy().tobytes() for epoch in range(40)}
    assert len(crops) == 10


def test_a_crop_of_everything_is_the_volume_and_turning_keeps_its_values(store: CropStore) -> None:
    x, y, z = store.volumes[0].shape
    everything = CropSettings((x, y, z), 1, (1, 1), (1, 1), aspect=(0.5, 2.0))  # too narrow a plane: all of it
    nothing = CropSettings((8, 8, 8), 0, (1, 1), (1, 1))
    volume = torch.from_numpy(store.read(0, 0, (0, 0, 0), (x, y, z)).values)
    for flip in (0.0, 1.0):
        plain = AugmentationSettings(global_crops=((),), local_crops=(), flip=flip, rotate=0)
        crop = CropDataset(store, ViewSettings(everything, nothing, plain))[Draw(0, 0, 0)].global_crops[0]
        torch.testing.assert_close(crop[0], volume.flip(0, 1, 2) if flip else volume, atol=1e-6, rtol=0)


def test_an_unreadable_volume_is_replaced_named_and_the_same_each_time(store: CropStore, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store.root, copy)
    broken = store.volumes[2]
    for file in volume_folder(copy, broken.sha256).glob("*.b2nd"):
        file.write_bytes(b"rubbish")
    damaged = CropStore(copy)
    batches = take(loader(damaged, 0), 5)
    assert broken.name not in {name for batch in batches for name in batch.names}
    lines = [line for batch in batches for line in batch.unreadable]
    assert len(lines) >= 2 and all("level_1.b2nd" in line for line in lines)
    assert all(same(a, b) for a, b in zip(batches, take(loader(damaged, 2), 5), strict=True))
    shutil.rmtree(copy / "volumes")
    with pytest.raises(VolumeError, match="20 stored volumes in a row"):
        take(loader(CropStore(copy), 0), 1)


def test_the_type_of_the_crops_can_be_float16(store: CropStore) -> None:
    half = crop_loader(store, VIEWS, (8, 8, 8), Place(batch_size=2), dtype=torch.float16)
    assert take(half, 1)[0].crops.global_crops.dtype == torch.float16


def test_a_batch_moves_as_a_whole_and_what_is_no_tensor_stays(
    store: CropStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = take(loader(store, 0), 1)[0]
    moved = batch.to("meta", non_blocking=True)
    tensors = [moved.crops.global_crops, moved.crops.local_crops, moved.crops.global_spacing, moved.crops.masks.weights]
    assert all(tensor is not None and tensor.device.type == "meta" for tensor in tensors)
    assert (moved.names, moved.crops.batch) == (batch.names, batch.crops.batch)
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(id(tensor)) or tensor)
    batch.pin_memory()
    assert len(pinned) == 7  # crops and spacings of both sizes, three tensors of the masks


def test_worker_processes_are_started_in_one_place_alone() -> None:
    """What a worker must know (signals, pinned memory) is said once."""
    package = Path(__file__).resolve().parents[3] / "fm3d_core" / "pretraining"
    users = [path.name for path in package.rglob("*.py") if "DataLoader(" in path.read_text(encoding="utf-8")]
    assert users == ["endless_loading.py"]
