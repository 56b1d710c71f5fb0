"""Volumes: reading, checking, orienting, resampling, normalising and writing 3D images. Knows nothing of models."""

from fm3d_core.volumes.annotation import COMPLETE, IGNORED, Annotation, map_label
from fm3d_core.volumes.answers_table import read_answers
from fm3d_core.volumes.cases import Case, find_cases, is_dicom_series
from fm3d_core.volumes.channels import read_channels
from fm3d_core.volumes.data_list import DataList, ListedCase, read_data_list
from fm3d_core.volumes.dicom_segmentation import dicom_segmentation, write_dicom_segmentation
from fm3d_core.volumes.header import Header
from fm3d_core.volumes.label_names import read_annotations, read_label_names
from fm3d_core.volumes.labels import check_label
from fm3d_core.volumes.names import case_name
from fm3d_core.volumes.preprocessing import PreparedVolume, Preprocessing, refuse_constant
from fm3d_core.volumes.reading import inspect_header, read_label, read_volume
from fm3d_core.volumes.synthetic import SYNTHETIC_LABELS, draw_case, write_synthetic_cases
from fm3d_core.volumes.volume import SourceGrid, Volume
from fm3d_core.volumes.writing import write_colours, write_label, write_map, write_nifti

__all__ = [
    "COMPLETE",
    "IGNORED",
    "SYNTHETIC_LABELS",
    "Annotation",
    "Case",
    "DataList",
    "Header",
    "ListedCase",
    "PreparedVolume",
    "Preprocessing",
    "SourceGrid",
    "Volume",
    "case_name",
    "check_label",
    "dicom_segmentation",
    "draw_case",
    "find_cases",
    "inspect_header",
    "is_dicom_series",
    "map_label",
    "read_annotations",
    "read_answers",
    "read_channels",
    "read_data_list",
    "read_label",
    "read_label_names",
    "read_volume",
    "refuse_constant",
    "write_colours",
    "write_dicom_segmentation",
    "write_label",
    "write_map",
    "write_nifti",
    "write_synthetic_cases",
]
