"""Ways in: where the libraries call attention, and how those calls are seen."""
