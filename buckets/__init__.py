"""Files in an object store: S3, Azure Blob Storage, Google Cloud Storage.

`TIEBREAK_STORAGE` names the root. Programs work in local folders; a finished file or folder is published
to the root as a bundle, and another machine fetches it from there:

NAME/objects/SHA256          the content of the files, in parts of at most 32 MB
NAME/manifests/TOKEN         the list of the files, with their sizes and hashes, written last

NAME is that of the local file or folder below its storage root, such as `runs/12` or
`snapshots/HASH.parquet`. A reader sees only bundles with a manifest. An upload that breaks off continues
where it ended, as objects that exist are not written again.

`addresses` reads the setting, `manifests` describes bundles, `bucket` reads and writes them, `files` has
the functions that other packages call, and `cache` limits the size of the local copies. Without
TIEBREAK_STORAGE, or with
a folder, files are used in place, and every function of `files` returns immediately.
"""
