"""The values in files of every kind: text, JSON, CSV, Excel and Parquet, within limits."""
