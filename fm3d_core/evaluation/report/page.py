"""One self-contained HTML file: everything is in it, nothing is loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fm3d_core.files import atomic_file

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; } caption { text-align: left; color: #555; padding-bottom: .3em; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } pre { background: #f5f5f5; padding: 1em; overflow-x: auto; }
figure { display: inline-block; margin: 1em 1em 1em 0; vertical-align: top; } figcaption { color: #555; }
img, svg { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class TablePart:
    """Rows of text.

    Attributes:
        head: the columns' names.
        rows: of as many cells each.
        caption: above it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def html(self) -> str:
        """As HTML."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.head)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in self.rows)
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}<tr>{head}</tr>\n{rows}</table>\n"


@dataclass(frozen=True)
class PicturePart:
    """A picture.

    Attributes:
        content: a PNG file's bytes, or SVG as text.
        caption: below it; a picture of a case names it.
    """

    content: bytes | str
    caption: str = ""

    def html(self) -> str:
        """As HTML, the picture in it."""
        if isinstance(self.content, bytes):
            data = base64.b64encode(self.content).decode("ascii")
            picture = f'<img src="data:image/png;base64,{data}" alt="{escape(self.caption)}">'
        else:
            picture = self.content[self.content.index("<svg") :]
        return f"<figure>{picture}<figcaption>{escape(self.caption)}</figcaption></figure>\n"


@dataclass(frozen=True)
class TextPart:
    """A paragraph, or lines as they are.

    Attributes:
        text: what it says.
        verbatim: whether lines and blanks stay.
    """

    text: str
    verbatim: bool = False

    def html(self) -> str:
        """As HTML."""
        tag = "pre" if self.verbatim else "p"
        return f"<{tag}>{escape(self.text)}</{tag}>\n"


Part = TablePart | PicturePart | TextPart


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]

    def html(self) -> str:
        """As HTML."""
        return f"<h2>{escape(self.title)}</h2>\n{''.join(part.html() for part in self.parts)}"


def write_report(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write a report, all or nothing.

    Args:
        path: ends in .html.
        title: of the page.
        sections: one below the other; those without parts are left out.

    Returns:
        ``path``.

    Raises:
        StorageError: disk full, no permission.
    """
    body = "".join(section.html() for section in sections if section.parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}</body></html>\n"
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)
