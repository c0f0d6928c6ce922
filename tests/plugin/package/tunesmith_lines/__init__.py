"""A recipe of somebody else: it lays a straight line through two columns of a table."""
