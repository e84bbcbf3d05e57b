"""The agents' tools: each does what its name says, on the project's own files, and can fail."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

READ_BYTES_MAX: Final = 4_096
HITS_MAX: Final = 20
ROWS_MAX: Final = 20


def project_roots() -> tuple[Path, ...]:
    """Where the parts of this project are installed; the fleet reads only below these."""
    import skillaudit

    return tuple(sorted(Path(entry) for entry in skillaudit.__path__))


@dataclass
class Workshop:
    """Tools over a fixed set of directories. Arguments and results are JSON values, as a model would see them."""

    roots: Sequence[Path]
    tables: sqlite3.Connection = field(default_factory=lambda: sqlite3.connect(":memory:"))

    def __post_init__(self) -> None:
        """Create the tables that `remember` fills and `query` reads."""
        self.tables.execute("CREATE TABLE symbols(file TEXT, kind TEXT, name TEXT, lines INTEGER)")
        self.tables.execute("CREATE TABLE files(file TEXT, bytes INTEGER, lines INTEGER)")

    @property
    def tools(self) -> Mapping[str, Callable[..., Any]]:
        """Tool name -> tool."""
        return {
            "list_files": self.list_files,
            "read_file": self.read_file,
            "search": self.search,
            "parse_module": self.parse_module,
            "remember": self.remember,
            "query": self.query,
        }

    def list_files(self, pattern: str = "*.py") -> list[str]:
        """Paths below the roots that match, relative to their root's parent, sorted."""
        return sorted(
            f"{root.parent.name}/{root.name}/{path.relative_to(root)}"
            for root in self.roots
            for path in root.rglob(pattern)
            if "__pycache__" not in path.parts
        )

    def read_file(self, file: str, start: int = 0) -> dict[str, Any]:
        """Up to 4 KiB of a file from byte `start`; raises `FileNotFoundError`."""
        data = self._path(file).read_bytes()
        text = data[start : start + READ_BYTES_MAX].decode(errors="replace")
        return {"file": file, "bytes": len(data), "lines": data.count(b"\n"), "text": text}

    def search(self, file: str, pattern: str) -> list[dict[str, Any]]:
        """Lines of a file that match a regular expression, at most 20."""
        expression = re.compile(pattern)
        lines = self._path(file).read_text(encoding="utf-8").splitlines()
        hits = [
            {"line": n, "text": text.strip()} for n, text in enumerate(lines, 1) if expression.search(text)
        ]
        return hits[:HITS_MAX]

    def parse_module(self, file: str) -> list[dict[str, Any]]:
        """The classes and functions a module defines; raises `SyntaxError` for what is no Python."""
        tree = ast.parse(self._path(file).read_text(encoding="utf-8"), filename=file)
        return [
            {
                "kind": _KINDS[type(node)],
                "name": node.name,
                "lines": (node.end_lineno or node.lineno) - node.lineno + 1,
            }
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]

    def remember(self, table: str, rows: Sequence[Sequence[Any]]) -> int:
        """Store rows for `query`; answers how many."""
        width = {"symbols": 4, "files": 3}[table]
        statement = f"INSERT INTO {table} VALUES ({', '.join('?' * width)})"  # noqa: S608  the table is one of two
        self.tables.executemany(statement, rows)
        return len(rows)

    def query(self, sql: str) -> dict[str, Any]:
        """Run SQL over what was remembered; at most 20 rows; raises `sqlite3.Error`."""
        cursor = self.tables.execute(sql)
        return {"columns": [column[0] for column in cursor.description], "rows": cursor.fetchmany(ROWS_MAX)}

    def _path(self, file: str) -> Path:
        for root in self.roots:
            prefix = f"{root.parent.name}/{root.name}/"
            if file.startswith(prefix):
                return root / file[len(prefix) :]
        raise FileNotFoundError(f"no such file in this project: {file}")


_KINDS: Final[Mapping[type, str]] = {
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "coroutine",
}
