"""``ask --mcp NAME``: the tools of a server that the user's settings name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

from rlm_dspy import lms
from rlm_dspy.testing import action, scripted, texts
from test_mcp_tools import SERVER
from warm import warm_python


@pytest.fixture
def configured(home: Path) -> Path:
    script = home / "station.py"
    script.write_text(SERVER)
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "rlm-dspy"
    folder.mkdir(parents=True)
    start, *arguments = warm_python()
    command = f"command = {json.dumps(start)}\nargs = {json.dumps([*arguments, str(script)])}"
    (folder / "config.toml").write_text(f"[mcp.sky]\n{command}\nenv = {{STATION_API_KEY = 'sk-station-000000'}}\n")
    (home / "a.txt").write_text("the code is 4711\n")
    return folder / "config.toml"


def test_the_cells_of_a_question_call_them(run: Callable, configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print(weather(city='Oslo')['degrees'], sky_search(query='rain'), key())"
    lm, script = scripted(action(code), action("SUBMIT(answer='21', evidence=[])"))
    monkeypatch.setattr(lms, "lm", lambda *args, **options: lm)
    result = run("ask", "How warm is it?", "a.txt", "--mcp", "sky")
    assert (result.code, result.out.strip()) == (0, "21")
    assert "21.0 log of rain ********" in texts(script.requests[1])[-1]


def test_a_name_that_is_not_set_is_refused_before_anything_is_read(run: Callable, configured: Path) -> None:
    result = run("ask", "why?", "a.txt", "--mcp", "sea")
    assert result.code == 2
    assert "--mcp sea: no such server is set; write [mcp.sea] with a command or a url in" in result.err


def test_a_server_that_does_not_start_is_one_line(run: Callable, configured: Path) -> None:
    configured.write_text("[mcp.sky]\ncommand = 'no-such-program'\n")
    result = run("ask", "why?", "a.txt", "--mcp", "sky")
    assert result.code == 2
    assert "the MCP server sky could not be started" in result.err
    assert len([line for line in result.err.splitlines() if line.startswith("rlm-dspy:")]) == 1


def test_config_shows_the_names_and_no_credentials(run: Callable, configured: Path) -> None:
    rows: dict[str, Any] = json.loads(run("config", "--json").out)["settings"]
    assert rows["mcp"]["value"] == ["sky"]
    assert "sk-station" not in json.dumps(rows)
