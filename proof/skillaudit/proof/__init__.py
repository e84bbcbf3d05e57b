"""Proof: what was recorded is all there and unaltered, from the database to an anchor outside.

`docs/proof-format.md` gives the bytes. Modules are imported by name; none is loaded by this one, so that a reader of
ledger leaves needs no engine and no cryptography.
"""
