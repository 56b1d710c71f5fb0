"""Sample data: small volumes drawn by formulas, no patients, so that the tutorial needs no download."""

from __future__ import annotations

from pathlib import Path

CATEGORY = "FM3D"
FOLDER = Path(__file__).resolve().parents[1] / "Resources" / "SampleData"
SAMPLES = tuple(f"FM3DSample{number}" for number in (1, 2, 3, 4))


def registerSampleData() -> None:
    """Offer the volumes in Slicer's module Sample Data, where there is one."""
    try:
        import SampleData
    except ImportError:  # a Slicer built without it
        return
    for name in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            uris=(FOLDER / f"{name}.nii.gz").as_uri(),
            fileNames=f"{name}.nii.gz",
            nodeNames=name,
            thumbnailFileName=str(FOLDER.parent / "Icons" / "FM3DSample.png"),
        )
