"""What a store says of itself: `store.json`, written once when it is made."""

from __future__ import annotations

import json
from pathlib import Path

from worldmodel.data.catalog import StoreDamaged
from worldmodel.data.index import write_atomically
from worldmodel.data.layout import Layout, plain_json
from worldmodel.interface import Interface

FORMAT = 1  # counts up when files of an older version can't be read any more


def write_header(folder: Path, interface: Interface, meta: dict | None, shard_bytes: int) -> None:
    """Write `store.json`. The tables are written out too, so that other programs can read the rows without ours."""
    layout = Layout(interface)
    tables = {table: {"dtype": layout.dtypes[table].str, "row_shape": list(shape)}
              for table, shape in layout.shapes.items()}
    columns = {key: [columns.start, columns.stop] for key, columns in layout.columns.items()}
    header = {"format": FORMAT, "interface": interface.to_dict(), "meta": plain_json(meta, "meta"),
              "shard_bytes": int(shard_bytes), "tables": tables, "values_columns": columns}
    write_atomically(folder / "store.json", json.dumps(header, indent=1).encode())


def read_header(folder: Path) -> dict:
    """The contents of `store.json`. FileNotFoundError where there is none, StoreDamaged where it can't be read."""
    path = folder / "store.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no episodes (no store.json): collect some with "
                                f"worldmodel collect data={folder}")
    try:
        header = json.loads(path.read_bytes())
        written = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"{path} is damaged ({error}): restore it from a copy") from error
    if written != FORMAT:
        raise StoreDamaged(f"{path} has format {written}, this version reads {FORMAT}: read it with the version that "
                           "wrote it, or collect the episodes again")
    return header
