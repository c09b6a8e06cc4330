"""The web server: its limits, its error pages, and its behaviour during an outage."""
