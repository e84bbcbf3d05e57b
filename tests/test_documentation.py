"""What the documentation shows is run: it can't drift."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_examples_run_one_after_the_other(tmp_path):
    """The README's Python blocks work as they stand, on the embedded pipeline, and the second reads what the first wrote."""
    blocks = re.findall(r"<!-- run: example -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    environ = {**os.environ, "SKILLAUDIT_DATA": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            env=environ, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for block in blocks
    ]  # fmt: skip
    assert "support ok complete" in outputs[1]
    assert "1 step" in outputs[1]
    assert "2 tool_call" in outputs[1]
    assert "3 tool_result" in outputs[1]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"(?m)(?:^|`)make ([a-z]+)", README))))
def test_readme_names_only_commands_that_exist(command):
    """Every `make` command the README names is a target."""
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_inside_the_repository_lead_somewhere(document):
    """No link to a file that is not there."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", (ROOT / document).read_text(encoding="utf-8")):
        if "://" not in target:
            assert (ROOT / target).exists(), f"{document} links to {target}"


def test_generated_pages_are_current(tmp_path):
    """`make docs` would change nothing."""
    subprocess.run([sys.executable, "-m", "docs", "--check"], cwd=ROOT, check=True, timeout=60)
