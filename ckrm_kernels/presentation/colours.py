"""The colours of an experiment's figures and page: one meaning, one colour, on light paper and on dark.

Every colour of `LIGHT` is used for its one name, so that a drawing made with them can be given other colours.
"""

LIGHT = {
    "text": "#1c1e21",
    "soft": "#626a73",
    "line": "#d3d8de",
    "back": "#ffffff",
    "standard": "#3d5a80",
    "searched": "#1b8a7a",
    "uniform": "#8a6d3b",
    "redundant": "#c8374d",
}
DARK = {
    "text": "#e6e8ea",
    "soft": "#9aa3ad",
    "line": "#3a424b",
    "back": "#15181c",
    "standard": "#8db1df",
    "searched": "#4cc3ae",
    "uniform": "#d3ab6a",
    "redundant": "#f0788a",
}
