"""What to write into the configuration of an MCP host, so that it starts this server."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

START_SECONDS = 20  # what a slow disk may need for the first start
CALL_SECONDS = 600

Snippet = Callable[[list[str]], str]


def server_command(paths: Sequence[str]) -> list[str]:
    """Return the command that starts the server over absolute paths."""
    found = shutil.which("rlm-dspy")
    start = [found] if found else [sys.executable, "-m", "rlm_dspy"]
    return [*start, "mcp", *paths]


def _claude_code(command: list[str]) -> str:
    return _as_json({"mcpServers": {"files": {"type": "stdio", "command": command[0], "args": command[1:]}}})


def _claude_desktop(command: list[str]) -> str:
    return _as_json({"mcpServers": {"files": {"command": command[0], "args": command[1:]}}})


def _vs_code(command: list[str]) -> str:
    return _as_json({"servers": {"files": {"type": "stdio", "command": command[0], "args": command[1:]}}})


def _codex(command: list[str]) -> str:
    return "\n".join(
        (
            "[mcp_servers.files]",
            f"command = {json.dumps(command[0])}",
            f"args = {json.dumps(command[1:])}",
            f"startup_timeout_sec = {START_SECONDS}",
            f"tool_timeout_sec = {CALL_SECONDS}",
        )
    )


def _as_json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2)


# The host, the file that its snippet belongs into, and the snippet.
HOSTS: dict[str, tuple[str, Snippet]] = {
    "claude-code": (".mcp.json of the project", _claude_code),
    "claude-desktop": ("claude_desktop_config.json (Settings, Developer)", _claude_desktop),
    "codex": ("~/.codex/config.toml", _codex),
    "cursor": (".cursor/mcp.json of the project, or ~/.cursor/mcp.json", _claude_desktop),
    "vs-code": (".vscode/mcp.json of the project", _vs_code),
}


def config_snippet(host: str, paths: Sequence[str]) -> str:
    """Return the configuration of a host that starts the server over these absolute paths."""
    return HOSTS[host][1](server_command(paths))
