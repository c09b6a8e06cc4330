"""Notices about runs that have ended, by e-mail and by webhook."""
