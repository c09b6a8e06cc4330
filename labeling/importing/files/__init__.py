"""Readers for every kind of file (JSON, CSV, Excel, Parquet), with limits on memory and size."""
