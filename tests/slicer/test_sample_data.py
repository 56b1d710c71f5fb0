"""Sample data: what is registered exists, can be read, and needs no network."""

from __future__ import annotations

import sys
import types
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import slicer
from SlicerFM3DLib import sample_data


@pytest.fixture
def registered(monkeypatch):
    """What Slicer's module Sample Data, which is not there outside Slicer, is told."""
    sources = []

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(
            category="Custom",
            sampleName=None,
            uris=None,
            fileNames=None,
            nodeNames=None,
            customDownloader=None,
            thumbnailFileName=None,
            loadFileType="VolumeFile",
            loadFiles=None,
            loadFileProperties=None,
            checksums=None,
        ):
            sources.append((category, sampleName, uris, fileNames, nodeNames, thumbnailFileName))

    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    monkeypatch.setitem(sys.modules, "SampleData", module)
    return sources


def test_four_volumes_are_registered_and_can_be_loaded(registered, tmp_path):
    sample_data.registerSampleData()
    assert [(source[0], source[1]) for source in registered] == [("FM3D", f"FM3DSample{n}") for n in (1, 2, 3, 4)]
    for _category, _name, uri, fileName, nodeName, thumbnail in registered:
        path = tmp_path / fileName
        urllib.request.urlretrieve(uri, path)  # as Slicer fetches it
        volume = slicer.util.loadVolume(str(path), {"name": nodeName})
        array = slicer.util.arrayFromVolume(volume)
        assert array.shape == (36, 40, 40) and array.dtype == np.int16 and array.std() > 20
        assert Path(thumbnail).read_bytes().startswith(b"\x89PNG")


def test_without_that_module_nothing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "SampleData", None)
    sample_data.registerSampleData()
