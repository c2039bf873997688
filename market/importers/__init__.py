"""Readers of recorded market data: each turns one kind of file into canonical Arrow tables.

They read and never write; ``market.importing`` judges the rows and stores them.
"""
