"""The web server: limits, error pages, and responses during an outage."""
