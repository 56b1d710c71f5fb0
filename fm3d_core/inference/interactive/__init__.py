"""Segmentation from clicks, scribbles and a box: frozen features, a classifier learned anew, a random walker."""

from fm3d_core.inference.interactive.features import FeatureCache, FeatureVolume
from fm3d_core.inference.interactive.prior import probability_of
from fm3d_core.inference.interactive.prompts import Box, Point, Prompts, Scribbles
from fm3d_core.inference.interactive.segmenting import segment_from_prompts

__all__ = [
    "Box",
    "FeatureCache",
    "FeatureVolume",
    "Point",
    "Prompts",
    "Scribbles",
    "probability_of",
    "segment_from_prompts",
]
