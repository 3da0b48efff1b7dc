"""A plan as text, data, a page and a figure."""
