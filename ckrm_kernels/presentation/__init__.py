"""The look of pages, figures and tables: theme, markup, drawing, pixels, tables, numbers. Knows no result."""
