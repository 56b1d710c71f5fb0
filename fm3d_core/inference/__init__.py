"""Inference: from an adapter and a volume to a segmentation on the volume's own grid."""

from fm3d_core.inference.predictor import Predictor

__all__ = ["Predictor"]
