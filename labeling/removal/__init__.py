"""Withdraw, edit and erase prompts, responses and tasks."""
