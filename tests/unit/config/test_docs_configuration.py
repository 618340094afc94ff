"""docs/configuration.md and docs/modes.md say what the tables and the code say."""

import re
from pathlib import Path

from supervisor.backend.child_config import DERIVED_KEYS
from supervisor.cli.usage import COMMANDS
from supervisor.config.config import Mode
from supervisor.config.flags import MASTER_FLAGS, QUICKSTART_FLAGS, Group

DOCS = Path(__file__).parents[3] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text()
MODES = (DOCS / "modes.md").read_text()
ROW = re.compile(r"^\| `-([^`]+)` \| (?:`([^`]*)`)? ?\| (.*) \|$", re.MULTILINE)


def test_every_flag_has_its_row():
    rows = {name: (default, meaning) for name, default, meaning in ROW.findall(CONFIGURATION)}
    assert rows == {row.name: (row.default, row.meaning) for row in QUICKSTART_FLAGS.values()}


def test_every_group_and_command_is_named():
    for group in Group:
        assert f"\n### {group.value}" in CONFIGURATION
    for command in COMMANDS:
        assert f"`{command}`" in CONFIGURATION
    for name in MASTER_FLAGS:
        assert f"`-{name}`" in CONFIGURATION


def test_every_mode_has_its_row():
    for mode in Mode:
        assert re.search(rf"^\| `{mode.value}` \|", MODES, re.MULTILINE)


def test_every_derived_key_is_explained():
    for key in DERIVED_KEYS:
        section = key.rpartition(".")[0]
        last = key.rpartition(".")[2]
        named = key in CONFIGURATION or (f"`.{last}`" in CONFIGURATION and section in CONFIGURATION)
        assert named, key
