"""Imports of files. The web receives a file, and a worker reads it and stores its rows after a preview."""
