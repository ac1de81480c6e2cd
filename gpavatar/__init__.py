"""3-D head avatars from one photo, a few, or a stream."""
