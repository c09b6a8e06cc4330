"""Readers for file formats with a structure of their own.

To add a format, write a module here with two functions:

    recognises(first)   Return whether a file has this format, judging by its first value.
    read(path, tally)   Yield a PromptRecord for each prompt. Raises BadInput.

Read the rows with `labeling.importing.files.source.each_row`, which works for every kind of file (JSON
lines, a JSON array, CSV, Excel, Parquet) and collects the problems of all rows. Build each prompt, with
its responses and rankings, with `conversations.Draft`. Count every column in `tally.columns`, and every
unused value in `tally.left_out`, so that the report accounts for the whole file.

Then list the module in FORMATS in `labeling/importing/reading.py`, describe it in
`docs/import-formats.md`, and test it with a small file in
`tests/labeling/importing/formats/test_import_formats.py`.
"""
