"""A known bias is taken off the figure, of every case too, and said; what is measured otherwise keeps its own."""

from __future__ import annotations

import pytest

from fm3d_core.adaptation.expected_dice import expected_dice
from fm3d_core.teaching import calibration
from fm3d_core.teaching.calibration import calibrated, enough_to_measure


def test_errors_are_scaled_everywhere_alike_and_it_is_said() -> None:
    measured = expected_dice({"a": {"x": 0.8, "y": 0.6}, "b": {"x": 0.9}}, "held out")
    assert measured is not None and measured.low is not None and measured.high is not None
    found = measured.corrected(1.5)
    assert found.mean == pytest.approx(1 - 1.5 * (1 - measured.mean), abs=1e-4)
    assert found.cases == {"a": 0.55, "b": 0.85} and found.structures["y"] == pytest.approx(0.4)
    assert found.low is not None and found.low <= measured.low and "lowered by 0.10" in found.how
    assert measured.corrected(1.0) == measured
    assert measured.corrected(20.0).mean == 0 and measured.corrected(0.0).mean == 1


def test_a_single_volume_gets_the_interval_of_other_sets() -> None:
    single = expected_dice({"a": {"x": 0.8}}, "slabs")
    assert single is not None
    found = single.corrected(1.0, 0.1)
    assert found.low == pytest.approx(0.8 - 1.2816 * 0.1, abs=1e-3) and found.high == pytest.approx(0.9282, abs=1e-3)
    assert "other sets" in found.how and single.corrected(1.0) == single


def test_the_way_of_measuring_chooses_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "linear_probe": {"slabs": {"factor": 2.0}, "volumes": {"factor": 0.5}},
        "trained": {"slabs": {"factor": 1.5}, "volumes": {"factor": 1.0}},
    }
    monkeypatch.setattr(calibration, "_data", lambda: known)
    measured = expected_dice({"a": {"x": 0.8}}, "")
    figures = [calibrated(measured, *what) for what in (("linear_probe", 1), ("linear_probe", 3), ("final", 1))]
    assert [round(found.mean, 4) for found in figures if found is not None] == [0.6, 0.9, 0.7]
    assert calibrated(measured, "final", 2) == measured and calibrated(None, "final", 2) is None


def test_the_figures_that_come_with_the_package_are_complete() -> None:
    for stage in ("linear_probe", "trained"):
        for way in ("slabs", "volumes"):
            assert 0.3 < calibration._data()[stage][way]["factor"] < 3


def test_a_training_that_measures_takes_sixty_steps_or_as_many_as_the_stage() -> None:
    quick, slow = {"steps": 400, "seconds": 40.0}, {"steps": 80, "seconds": 40.0}
    assert enough_to_measure(0.25, quick, 40) == 0.25
    assert enough_to_measure(0.25, slow, 40) == pytest.approx(0.75)
    assert enough_to_measure(0.25, {"steps": 20, "seconds": 40.0}, 40) == 1
    assert enough_to_measure(0.25, {"steps": 80, "seconds": 10.0}, 40) == 0.25  # ended at a plateau
    assert enough_to_measure(0.25, {}, 40) == 0.25


def test_a_short_training_that_measures_counts_as_a_larger_error_and_volumes_alike_get_a_wider_interval() -> None:
    measured = expected_dice({"a": {"x": 0.8}, "b": {"x": 0.8}}, "held out")
    assert measured is not None and measured.low == measured.high == 0.8
    whole, quarter = calibrated(measured, "final", 2), calibrated(measured, "final", 2, 0.25)
    assert whole is not None and quarter is not None
    assert whole.mean == 0.8 and quarter.mean == pytest.approx(1 - 0.2 * 0.93**2, abs=1e-3) and quarter.measured == 0.8
    assert whole.low is not None and whole.high is not None
    assert whole.low == pytest.approx(0.8 - 1.2816 * 0.06, abs=1e-3) and whole.high == pytest.approx(0.8769, abs=1e-3)
