"""Withdrawing, editing and erasing prompts, responses and tasks."""
