"""The parts of the SlicerFM3D module: server client, session, scene conversion and background work."""
