"""Webhooks: signed requests that tell other programs about events in a project."""
