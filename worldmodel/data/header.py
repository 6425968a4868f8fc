"""What a store says of itself: `store.json`, written once when it is made."""

from __future__ import annotations

import json
from pathlib import Path

from worldmodel.data.catalog import StoreDamaged
from worldmodel.data.index import sync_folder
from worldmodel.data.layout import Layout
from worldmodel.data.lock import WriterLock
from worldmodel.interface import Interface
from worldmodel.provenance import write_json

FORMAT = 1  # counts up when files of an older version can't be read any more


def make_store(folder: Path, interface: Interface, meta: dict | None, shard_bytes: int) -> None:
    """Write an empty index and `store.json`; FileExistsError where there is one already.

    The tables are written out too, so that other programs can read the rows without ours."""
    layout = Layout(interface)
    tables = {
        table: {"dtype": layout.dtypes[table].str, "row_shape": list(shape)} for table, shape in layout.shapes.items()
    }
    columns = {key: [columns.start, columns.stop] for key, columns in layout.columns.items()}
    header = {
        "format": FORMAT,
        "interface": interface.to_dict(),
        "meta": meta or {},
        "shard_bytes": int(shard_bytes),
        "tables": tables,
        "values_columns": columns,
    }
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    lock = WriterLock(folder / "writer.lock")
    try:
        if (folder / "store.json").exists():
            raise FileExistsError(
                f"{folder} holds episodes already: add to them with EpisodeStore.open({str(folder)!r}, writable=True), "
                "or name another folder"
            )
        (folder / "index.jsonl").touch()
        write_json(folder / "store.json", header)
        sync_folder(folder)
    finally:
        lock.close()


def read_header(folder: Path) -> dict:
    """The contents of `store.json`. FileNotFoundError where there is none, StoreDamaged where it can't be read."""
    path = folder / "store.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no episodes (no store.json): collect some with worldmodel collect data={folder}"
        )
    try:
        header = json.loads(path.read_bytes())
        written = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"{path} is damaged ({error}): restore it from a copy") from error
    if written != FORMAT:
        raise StoreDamaged(
            f"{path} has format {written}, this version reads {FORMAT}: read it with the version that "
            "wrote it, or collect the episodes again"
        )
    return header
