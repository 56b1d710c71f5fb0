"""Tasks: the questions that can be asked of a volume, one file per kind."""

from fm3d_core.tasks.segmentation import HEADS, SegmentationTask, check_head

__all__ = ["HEADS", "SegmentationTask", "check_head"]
