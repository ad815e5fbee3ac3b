"""From examples to tables of token rows on disk: encoded, proven, spilled, fitted into max_length."""
