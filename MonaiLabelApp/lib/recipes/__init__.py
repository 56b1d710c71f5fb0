"""Published recipes on the server."""
