"""The documents of operations name what the code has, and nothing else."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
SUPERVISOR = ROOT / "supervisor/opuspool_supervisor"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def _section(title: str) -> str:
    return OPERATIONS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _events(tree: ast.AST) -> set[str]:
    """The names in `log.info("name", ...)` and `_tell("info", "name", ...)`."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = ast.unparse(node.func.value)
        if node.func.attr in LEVELS and owner.rsplit(".", 1)[-1] in ("log", "_log", "logger"):
            name = node.args[0]
        elif node.func.attr == "_tell" and len(node.args) > 2:
            name = node.args[1]
        else:
            continue
        assert isinstance(name, ast.Constant), f"an event's name is a literal: {ast.unparse(node)}"
        found.add(str(name.value))
    return found


def test_every_event_of_the_log_is_in_the_table_and_the_other_way_round() -> None:
    """The vocabulary is fixed: what reads the log may rely on it."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SUPERVISOR.glob("*.py")]
    in_code = set().union(*map(_events, trees))
    assert len(in_code) > 15
    assert in_code == set(re.findall(r"^\| `(\w+)` \|", _section("Log"), re.MULTILINE))


def test_every_setting_is_told_with_its_default() -> None:
    """As config.toml has it."""
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    sections = tomllib.loads(text)
    told = re.findall(r"^\| `\[(\w+)\] (\w+)` \| `(.*?)` \|", _section("Configure"), re.MULTILINE)
    assert {(section, key): tomllib.loads(f"v = {value}")["v"] for section, key, value in told} == {
        (section, key): value for section, keys in sections.items() for key, value in keys.items()
    }


def test_every_alert_has_its_section_in_the_runbook() -> None:
    """And links to it."""
    rules = (ROOT / "deploy/prometheus/rules.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"- alert: (\w+)", rules)
    headings = re.findall(
        r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text("utf-8"), re.MULTILINE
    )
    assert alerts == headings
    links = re.findall(r"runbook: docs/runbook.md#(\w+)", rules)
    assert links == [alert.lower() for alert in alerts]
