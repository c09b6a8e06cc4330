"""Read files whose rows have columns, according to the meaning of each column.

`mapping` describes the meanings, `proposals` derives them from the first rows, and `reader` reads the
rows. A user can change the proposed meanings on the page or with `--map`.

`prompts`, `pairs`, `responses`, `attributes` and `verdicts` read the parts of a row (`source_row`), and
`drafts` builds prompts and tasks from them.
"""
