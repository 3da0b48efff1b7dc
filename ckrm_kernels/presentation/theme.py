"""The colours of every page and figure: one meaning, one colour, on light paper and on dark.

text, soft, line, back: of type, of what matters less, of rules and of the paper
standard, searched, narrower, uniform, uniform-macs, shrunk, tuned: a candidate
redundant: a pair of filters with Psi above the threshold, a layer or a width that is not within target
below: a pair of filters with Psi up to the threshold
scale: a layer in which small weights alone are above the threshold

No two names of `LIGHT` share a colour, so that a drawing made with them can be given other colours.
"""

LIGHT = {
    "text": "#1c1e21",
    "soft": "#626a73",
    "line": "#d3d8de",
    "back": "#ffffff",
    "standard": "#3d5a80",
    "searched": "#1b8a7a",
    "narrower": "#76569b",
    "uniform": "#8a6d3b",
    "uniform-macs": "#5f7d2e",
    "shrunk": "#b0562b",
    "tuned": "#0f7fa8",
    "redundant": "#c8374d",
    "below": "#5680b3",
    "scale": "#8a5a12",
}
DARK = {
    "text": "#e6e8ea",
    "soft": "#9aa3ad",
    "line": "#3a424b",
    "back": "#15181c",
    "standard": "#8db1df",
    "searched": "#4cc3ae",
    "narrower": "#b79ada",
    "uniform": "#d3ab6a",
    "uniform-macs": "#a3c46a",
    "shrunk": "#e59a6f",
    "tuned": "#5cc0e6",
    "redundant": "#f0788a",
    "below": "#7aa6d8",
    "scale": "#d9a441",
}
NEGATIVE, POSITIVE = "#7a5cbe", "#e88624"
"""The colours of weights, which are drawn as pixels: the same on both papers."""
