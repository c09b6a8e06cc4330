"""Files that leads send: received by the web, read by a worker, imported once they were looked at."""
