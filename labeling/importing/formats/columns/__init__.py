"""Reading files whose rows have columns, by the meaning of the columns.

`mapping` holds the meaning of each column, `proposals` derives it from the first rows, and `reader`
reads rows by it. A user may change a proposal, on the page or with `--map`.

The parts of a row (`source_row`) are read by `prompts`, `pairs` or `responses`, `attributes` and
`verdicts`. `drafts` makes tasks of them.
"""
