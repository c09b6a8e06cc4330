"""Imports of files: received by the web, read by a worker, and stored after a preview."""
