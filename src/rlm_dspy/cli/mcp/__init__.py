"""``rlm-dspy mcp``: files and questions about them as tools of the Model Context Protocol, for agents."""
