"""The disk space that runs use, and the clean-up of files that nothing needs any more."""
