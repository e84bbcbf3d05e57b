"""The directions of import between the parts, and what an agent's process loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "contract": set(),
    "producer": {"contract"},
    "proof": {"contract"},
    "consumer": {"contract", "proof"},
    "query": {"contract", "proof"},
    "storage": {"contract", "producer", "consumer", "query", "proof"},
    "cli": {"contract", "producer", "consumer", "query", "proof", "storage"},
}
AIOKAFKA_ADAPTERS = {
    "producer/skillaudit/producer/kafka.py",
    "consumer/skillaudit/consumer/kafka_source.py",
    "consumer/skillaudit/consumer/control_kafka.py",
    "proof/skillaudit/proof/kafka.py",
    "proof/skillaudit/proof/kafka_records.py",
    "proof/skillaudit/proof/anchors/kafka.py",
}
HEAVY = ("pydantic", "aiokafka", "duckdb", "pyarrow", "click", "rich", "asyncio", "httpx")


def modules(part: str) -> list[Path]:
    return sorted((ROOT / part / "skillaudit").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


@pytest.mark.parametrize("part", [part for part in ALLOWED if (ROOT / part).exists()])
def test_parts_import_only_what_they_may(part):
    """Contract imports no other part, producer and query only contract ...; storage and cli compose."""
    for path in modules(part):
        parts = {name.split(".")[1] for name in imported(path) if name.startswith("skillaudit.")}
        assert parts <= ALLOWED[part] | {part}, f"{path.relative_to(ROOT)} imports {parts - ALLOWED[part]}"


def test_no_part_makes_the_namespace_its_own():
    """`skillaudit` is a PEP 420 namespace: an __init__.py in one root would hide all the others."""
    assert not list(ROOT.glob("*/skillaudit/__init__.py"))


def test_aiokafka_is_imported_by_adapter_modules_alone():
    """The rest of the project speaks to Protocols of its own."""
    users = {
        path.relative_to(ROOT).as_posix()
        for part in ALLOWED
        for path in modules(part)
        if any(name.split(".")[0] == "aiokafka" for name in imported(path))
    }
    assert users <= AIOKAFKA_ADAPTERS, users - AIOKAFKA_ADAPTERS


def test_an_agents_import_stays_light():
    """`import skillaudit.producer` loads none of the heavy packages."""
    code = "import sys, skillaudit.producer; print(*[m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []


def test_every_part_is_typed():
    """Type checkers see every part's annotations."""
    for part in ALLOWED:
        if (ROOT / part).exists():
            assert (ROOT / part / "skillaudit" / part / "py.typed").exists(), part
