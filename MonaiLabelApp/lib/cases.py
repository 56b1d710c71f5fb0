"""Submitted labels as the core's labelled cases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fm3d_core.adaptation import LabeledCase
from fm3d_core.errors import CaseError, FM3DError
from MonaiLabelApp.lib.datastore import CheckedDatastore
from MonaiLabelApp.lib.errors import Conflict
from MonaiLabelApp.lib.labels import FINAL

logger = logging.getLogger(__name__)


def chosen_cases(datastore: CheckedDatastore, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The ids of the labelled images, or those of ``wanted``, in order.

    Raises:
        UnknownImage: one that is not on the server.
        Conflict: one without a label, or no label at all.
    """
    labelled = sorted(datastore.get_labeled_images())
    for case in wanted or ():
        datastore.image_file(case)
        if case not in labelled:
            raise Conflict(f"{case} has no submitted label", remedy="Submit its label first or leave it out")
    cases = tuple(case for case in labelled if wanted is None or case in wanted)
    if not cases:
        raise Conflict("no labelled volume to learn from", remedy="Submit a labelled volume, then press Train")
    for case in cases:
        with suppress(FM3DError):  # of an archive it is fetched now; what cannot be used is left out, with the reason
            datastore.label_file(case)
    return cases


def labelled_cases(ids: Sequence[str], datastore: CheckedDatastore) -> tuple[list[LabeledCase], list[str]]:
    """The cases with the meaning of their voxel values; and those that cannot be understood, with the reason.

    Raises:
        CaseError: none is left.
    """
    cases, left_out = [], []
    for image_id in ids:
        try:
            label = Path(datastore.get_label_uri(image_id, FINAL))
            cases.append(LabeledCase(image_id, datastore.image_file(image_id), label, datastore.values_of(image_id)))
        except FM3DError as error:
            logger.warning("Case %s is left out: %s", image_id, error)
            left_out.append(str(error))
    if not cases:
        raise CaseError("none of the labelled volumes can be used", remedy=f"The first: {left_out[0]}")
    return cases, left_out
