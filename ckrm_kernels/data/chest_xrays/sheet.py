"""Columns of CSV files, read row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row ends, and its values in the columns named; quoted values may span lines.

    Raises FileNotFoundError, or ValueError naming the path, where the file is not such a table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            missing = [name for name in columns if name not in header]
            if missing:
                raise ValueError(f"{path} must have the columns {', '.join(columns)}; without {', '.join(missing)}")
            places = [header.index(name) for name in columns]
            for row in reader:
                if len(row) != len(header):
                    raise ValueError(f"{path}, line {reader.line_num}: must have {len(header)} values, got {len(row)}")
                yield reader.line_num, [row[place] for place in places]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: not a CSV file ({error})") from error
