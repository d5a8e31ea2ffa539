"""Pieces that several pages draw: each a function of plain values, some answering what was chosen."""
