"""Inference: from an adapter and a volume to a segmentation on its own grid, or to an answer about it as a whole."""

from fm3d_core.inference.image_predictor import ImagePredictor
from fm3d_core.inference.prediction import Prediction
from fm3d_core.inference.predictor import Predictor
from fm3d_core.inference.quality import CaseQuality, case_quality
from fm3d_core.inference.refinement import Refinement, RefinementSettings, refine
from fm3d_core.inference.reverse_check import References, references_of

__all__ = [
    "CaseQuality",
    "ImagePredictor",
    "Prediction",
    "Predictor",
    "References",
    "Refinement",
    "RefinementSettings",
    "case_quality",
    "references_of",
    "refine",
]
