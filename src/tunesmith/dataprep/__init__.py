"""Reading, recognising, checking and repairing files of examples. No web, no SQL; runs as a child of the server."""
