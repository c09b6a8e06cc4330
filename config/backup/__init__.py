"""Backups of the whole installation: the database and the files of snapshots, uploads and runs.

`writing` writes an archive, and `restoring` restores one. A backup is a tar file:

manifest.json       the versions of Tiebreak, PostgreSQL and the archive, and the migrations applied
database/NNNNNN     the output of `pg_dump --format=custom`, in parts
files/ROOT/PATH     the files, below the storage roots `snapshots`, `uploads` and `runs`
SHA256SUMS          the digest of each member above, in the format of `sha256sum`; always the last member

The archive is written and read as a stream. Without its last member, it is incomplete.
"""
