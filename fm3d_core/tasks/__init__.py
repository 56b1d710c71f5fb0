"""Tasks: the questions that can be asked of a volume, one file per kind."""

from fm3d_core.tasks.segmentation import SegmentationTask

__all__ = ["SegmentationTask"]
