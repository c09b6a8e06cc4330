"""The readers of file formats that have a structure of their own."""
