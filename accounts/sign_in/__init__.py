"""Signing in: sessions, limits on wrong passwords, and audit entries."""
