"""From notebooks and records to the published book."""
