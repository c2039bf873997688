"""Numbered migrations of the warehouse, ``NNNN_name.sql``; ``market.warehouse`` applies them."""
