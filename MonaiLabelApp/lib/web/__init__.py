"""The server's front: who may ask (``gate``), and one module of addresses per subject."""
