"""The page, the JSON interface and the metrics of a running daemon."""
