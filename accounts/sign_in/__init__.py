"""Signing in: sessions, the throttle for wrong passwords, and audit entries."""
