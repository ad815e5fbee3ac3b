"""Dialogues as text in the model's own chat template, and what that template can write."""
