"""A recipe that cannot be imported."""

raise OSError("the licence file is missing")
