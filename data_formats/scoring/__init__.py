"""What a model's answers are worth: the metrics of the formats, and the tool calls found in a text."""
