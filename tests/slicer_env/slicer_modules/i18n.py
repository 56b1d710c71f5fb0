"""Stand-in for ``slicer.i18n``: the application's translation, without the context that only lupdate needs."""

from __future__ import annotations

import slicer


def translate(context: str, text: str) -> str:
    return slicer.app.translate(context, text)


def tr(text: str) -> str:
    return translate("", text)
