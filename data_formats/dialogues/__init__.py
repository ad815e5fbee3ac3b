"""The turns, contents and tool calls of a dialogue, however a file writes them: what several formats share."""
