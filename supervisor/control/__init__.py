"""What operators look at: the metrics port. Served by hypercorn, off the data path. No routing decisions here."""
