"""The files of the zoo: all numbers as CSV, and a table in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ckrm_kernels.presentation.tables import csv_text
from ckrm_kernels.storage.files import write_atomically

Row = Mapping[str, str]
OURS, THEIRS = "ours ", "torch-pruning "
SHARES = ("25%", "50%")
HEADING = """\
# A zoo of networks

Written by [`python docs/studies/shrinking/zoo`](../../index.md#is-a-shrunk-network-ever-another-one); models by the
worst that a tool made of each:
"""
WORDS = {"statistics": "norms", "wrong": "**wrong**", "output": "**wrong** (outputs' shape)"}
HEAD = (
    "model",
    "couplings: exact + norms + refused",
    "filters that may leave",
    "25 % / 50 % of them gone",
    "layers that stay, and why",
    "seconds",
    "torch-pruning's groups: exact + norms, error, **wrong**",
    "its pruner at 25 % / 50 %",
    "seconds",
)


def write(rows: Mapping[str, Row], order: Sequence[str], path: Path) -> None:
    """Writes the CSV file, and the table beside it."""
    ordered = [rows[name] for name in order if name in rows] + [row for name, row in rows.items() if name not in order]
    columns = list(dict.fromkeys(column for row in ordered for column in row))
    columns.sort(key=lambda column: (column.startswith(OURS), column.startswith(THEIRS)))
    write_atomically(path, csv_text(columns, [[row.get(column, "") for column in columns] for row in ordered]))
    write_atomically(path.with_suffix(".md"), markdown(ordered))


def summary(row: Row, tool: str) -> str:
    """A tool's columns of a row in one line."""
    prefix = f"{tool} "
    return ", ".join(f"{key.removeprefix(prefix)} {value}" for key, value in row.items() if key.startswith(prefix))


def markdown(rows: Sequence[Row]) -> str:
    """What became of all models by tool, and a line a model."""
    lines = [*HEADING.splitlines(), "", *outcomes(rows), ""]
    for family in dict.fromkeys(row["family"] for row in rows):
        lines += [f"## {family}", "", *table(HEAD, map(cells, (row for row in rows if row["family"] == family))), ""]
    return "\n".join(lines)


def outcomes(rows: Sequence[Row]) -> list[str]:
    """How many models each tool shrank, refused or broke."""
    counts = {
        "this package": Counter(map(ours, measured(rows, OURS))),
        "torch-pruning, its groups one by one": Counter(map(groups, measured(rows, THEIRS))),
        "torch-pruning, its pruner": Counter(map(pruner, measured(rows, THEIRS))),
    }
    names = ("exact", "statistics", "nothing", "no end", "error", "wrong")
    head = (
        "",
        "exact",
        "exact but for norms' statistics",
        "nothing offered",
        "no end in 240 s",
        "error",
        "silently wrong",
    )
    return table(head, ([tool, *(str(count[name]) for name in names)] for tool, count in counts.items()))


def ours(row: Row) -> str:
    """The worst that this package made of a model: wrong, error, statistics, exact or nothing."""
    if f"{OURS}failed" in row:
        return failure(row[f"{OURS}failed"])
    return worst(row.get(f"{OURS}{column}", "nothing") for column in (*SHARES, "plan"))


def groups(row: Row) -> str:
    """The worst that torch-pruning's groups made of a model."""
    if f"{THEIRS}failed" in row:
        return failure(row[f"{THEIRS}failed"])
    return worst(
        name for name in ("exact", "statistics", "error", "wrong") if row.get(f"{THEIRS}groups_{name}", "0") != "0"
    )


def pruner(row: Row) -> str:
    """The worst that torch-pruning's pruner made of a model."""
    if f"{THEIRS}failed" in row:
        return failure(row[f"{THEIRS}failed"])
    return worst(row.get(f"{THEIRS}pruner_{share}", "nothing") for share in SHARES)


def failure(cause: str) -> str:
    """What a process that gave no result is counted as."""
    return "no end" if cause.startswith("no end") else "error"


def measured(rows: Sequence[Row], prefix: str) -> list[Row]:
    """The rows that have a tool's columns."""
    return [row for row in rows if f"{prefix}seconds" in row]


def worst(verdicts: Iterable[str]) -> str:
    """The worst of verdicts; outputs of another shape are wrong."""
    order = ("nothing", "exact", "statistics", "error", "wrong")
    return max(
        ("wrong" if verdict == "output" else verdict for verdict in verdicts), key=order.index, default="nothing"
    )


def cells(row: Row) -> list[str]:
    """The cells of a model's line."""

    def own(column: str) -> str:
        return row.get(OURS + column, "")

    def theirs(column: str) -> str:
        return row.get(THEIRS + column, "")

    refused = own("refused model") or own("failed")
    found = f"{own('couplings')}: {own('exact')} + {own('statistics')} + {own('refused')}" if own("couplings") else ""
    filters = f"{own('may_leave')} of {own('filters')}" if own("filters") else ""
    reasons = "; ".join(filter(None, (own("refused_detail"), own("fixed_reasons")))) or refused
    tried = [theirs(f"groups_{name}") for name in ("exact", "statistics", "error", "wrong")]
    grouped = f"{tried[0]} + {tried[1]}, {tried[2]}, **{tried[3]}**" if tried[0] else theirs("failed")
    return [
        row["model"],
        found or ("refused" if own("refused model") else "failed" if refused else ""),
        filters,
        verdicts(row, OURS),
        reasons.replace("|", "\\|"),
        own("seconds"),
        grouped.replace("|", "\\|"),
        verdicts(row, f"{THEIRS}pruner_"),
        theirs("seconds"),
    ]


def verdicts(row: Row, prefix: str) -> str:
    """The verdicts at both shares, once where they are the same."""
    found = [row[prefix + share] for share in SHARES if prefix + share in row]
    return " / ".join(WORDS.get(name, name) for name in dict.fromkeys(found))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
