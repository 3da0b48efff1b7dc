"""The look of pages, figures and tables: colours, type, drawing, markup. Knows no result."""
