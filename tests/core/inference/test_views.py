"""Views of a volume: what they change and that it is taken back."""

import pytest
import torch

from fm3d_core.adaptation import FinetuneSettings, untrained_adapter
from fm3d_core.errors import SettingsError
from fm3d_core.inference import Predictor
from fm3d_core.inference.views import MOST_VIEWS, views, views_for
from fm3d_core.models.zoo import BackboneSpec, create_backbone
from fm3d_core.tasks import SegmentationTask
from fm3d_core.volumes import read_volume


def _ball(size: tuple[int, int, int], centre: tuple[float, float, float]) -> torch.Tensor:
    axes = [torch.arange(each, dtype=torch.float32) for each in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij")) - torch.tensor(centre)[:, None, None, None]
    return torch.exp(-offsets.square().sum(0, keepdim=True) / 60)


def test_the_first_view_is_the_volume_itself() -> None:
    image = torch.rand(1, 5, 6, 7)
    first = views(3)[0]
    assert torch.equal(first.change(image), image)
    back, seen = first.undo(image)
    assert torch.equal(back, image) and bool((seen == 1).all())


@pytest.mark.parametrize("number", range(1, MOST_VIEWS))
def test_a_view_moves_what_is_off_centre_and_undo_brings_it_back(number: int) -> None:
    image = _ball((32, 40, 24), (20.0, 14.0, 13.0)) * 2 - 1
    view = views(MOST_VIEWS)[number]
    changed = view.change(image)
    assert (changed - image).abs().max() > 0.1
    back, seen = view.undo(changed + 1)
    inside = seen[0] > 0.99
    assert inside.float().mean() > 0.5
    assert (back[0] - 1 - image[0])[inside].abs().max() < 0.12


def test_few_windows_get_many_views_and_large_networks_one() -> None:
    unet = create_backbone(BackboneSpec("residual_unet_small"))
    assert [views_for(windows, unet) for windows in (1, 4, 6, 16, 17, 500)] == [8, 8, 5, 2, 1, 1]
    for large in ("vit_tiny", "suprem_unet"):
        assert views_for(1, create_backbone(BackboneSpec(large))) == 1


def test_averaging_reports_all_views_as_one_stage_and_refuses_an_impossible_number(synthetic_cases: list) -> None:
    adapter = untrained_adapter(SegmentationTask(("a",)), FinetuneSettings())
    events = []
    predictor = Predictor(adapter, views=2)
    predictor.segment(read_volume(synthetic_cases[0].image), progress=events.append)
    assert {event.stage for event in events} == {"segmenting"}
    assert [event.step for event in events] == sorted(event.step for event in events)
    assert events[-1].step == events[-1].total
    with pytest.raises(SettingsError, match="views is 9"):
        Predictor(adapter, views=9)
