"""Multipart bodies from and to files, block by block, so that a large volume is never held in memory."""

from __future__ import annotations

import json
import mmap
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from .errors import AnswerInvalid
from .translation import tr as _

BLOCK = 1 << 18  # bytes
REPORT_SECONDS = 0.3  # each report brings the whole panel up to date
VOLUME_SUFFIXES = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".mha", ".mhd")


class Form:
    """A multipart/form-data body: text fields and at most one file, which is read while it is sent.

    :param fields: name and text of each field.
    :param fileField: name of the file's field.
    :param path: the file, or None.
    :param fileName: what the server is told the file is called.
    :param report: told the share of the file that was sent, 0 to 1, now and then.
    """

    def __init__(
        self,
        fields: Mapping[str, str],
        fileField: str = "",
        path: Path | None = None,
        fileName: str = "",
        report: Callable[[float], None] | None = None,
    ) -> None:
        self._report = report
        boundary = f"fm3d-{secrets.token_hex(16)}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        tail = f"--{boundary}--\r\n"
        if path:
            head += f'--{boundary}\r\nContent-Disposition: form-data; name="{fileField}"; filename="{fileName}"\r\n'
            head += "Content-Type: application/octet-stream\r\n\r\n"
            tail = f"\r\n{tail}"
        self._head, self._tail, self._path = head.encode(), tail.encode(), path
        self.contentType = f"multipart/form-data; boundary={boundary}"
        self.length = len(self._head) + (path.stat().st_size if path else 0) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        if self._path:
            size, sent, told = max(1, self._path.stat().st_size), 0, time.monotonic()
            with self._path.open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
                    sent += len(block)
                    if self._report and time.monotonic() - told >= REPORT_SECONDS:
                        told = time.monotonic()
                        self._report(sent / size)
        yield self._tail


def volumeSuffix(headers: Message) -> str:
    """The file kind named by a Content-Disposition header; nothing else of a name from outside is ever used.

    :raises AnswerInvalid: if it is not a volume's.
    """
    name = (headers.get_filename() or "").lower()
    for suffix in VOLUME_SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise AnswerInvalid(_("The server sent '{name}', which is not a volume this module reads.").format(name=name))


def splitAnswer(path: Path, contentType: str, stem: Path) -> tuple[Path, dict[str, Any]]:
    """Separate a saved multipart body into its volume and its parameters.

    :param path: the body as it came.
    :param contentType: the answer's Content-Type, which names the boundary.
    :param stem: where the volume goes, without suffix.
    :return: the volume's file and the parameters.
    :raises AnswerInvalid: if the body has no volume.
    """
    header = Message()
    header["Content-Type"] = contentType
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or not boundary:
        raise AnswerInvalid(_("The server's answer contains no segmentation."))
    marker = re.compile(rb"(?:^|\r\n)--" + re.escape(boundary.encode()))
    volume, parameters = None, {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
        edges = [match.span() for match in marker.finditer(body)]
        for begin, end in zip([stop for _, stop in edges], [start for start, _ in edges[1:]], strict=False):
            split = body.find(b"\r\n\r\n", begin, end)
            if split < 0:
                continue
            headers = BytesHeaderParser().parsebytes(body[begin:split].lstrip() + b"\r\n\r\n")
            if headers.get_filename():
                volume = stem.with_name(stem.name + volumeSuffix(headers))
                with volume.open("wb") as out:
                    for position in range(split + 4, end, BLOCK):
                        out.write(body[position : min(position + BLOCK, end)])
            elif headers.get_param("name", header="Content-Disposition") == "params":
                parameters = json.loads(body[split + 4 : end])
    if volume is None:
        raise AnswerInvalid(_("The server's answer contains no segmentation."))
    return volume, parameters or {}
