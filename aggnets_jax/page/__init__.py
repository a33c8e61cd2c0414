"""The page of a run: one HTML file that shows all that is known of it, and needs no network."""
