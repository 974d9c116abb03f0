"""The table of a problem: on the console by rich, and in a file as JSON."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def report(rows: Sequence[Row], *, title: str, name: str, out: Path, settings: Row, console: Console) -> None:
    """Print the rows, whose keys are the columns, and write them with the settings that made them to `out/name.json`.

    Numbers are rounded to four digits on the console only. Paths are written as text.
    """
    console.print(table(rows, title=title))
    (out / f"{name}.json").write_text(
        json.dumps({"settings": settings, "rows": list(rows)}, indent=1, default=os.fspath)
    )


def table(rows: Sequence[Row], *, title: str, digits: int = 4) -> Table:
    """The rows, whose keys are the columns; `None` is left empty."""
    found = Table(title=title)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        found.add_column(column, justify="left" if isinstance(rows[0].get(column), str) else "right")
    for row in rows:
        found.add_row(*(_text(row.get(column), digits) for column in columns))
    return found


def _text(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.{digits}g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
