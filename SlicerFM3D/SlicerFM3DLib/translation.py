"""Slicer's translation function, or the text itself where the package is used outside Slicer (tests, scripts).

``slicer.i18n`` is not imported from here: the client must stay usable without Slicer, and inside Slicer the module
file has imported it already. The function itself is handed on, not a wrapper, because it finds the translation
context by looking at the file of its caller.
"""

from __future__ import annotations

import sys

if "slicer.i18n" in sys.modules:
    tr = sys.modules["slicer.i18n"].tr
else:

    def tr(text: str) -> str:
        """The text as it is."""
        return text
