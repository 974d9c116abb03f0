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

    Numbers are rounded to four digits on the console only; `None` is left empty. Paths are written as text.
    """
    table = Table(title=title)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, justify="left" if isinstance(rows[0].get(column), str) else "right")
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    console.print(table)
    (out / f"{name}.json").write_text(
        json.dumps({"settings": settings, "rows": list(rows)}, indent=1, default=os.fspath)
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
