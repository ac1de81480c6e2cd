"""Methods against the truth: metrics, protocols, reports."""
