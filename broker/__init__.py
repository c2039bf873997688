"""What trading costs: orders, fills, funding, and the ledger that adds them up."""
