"""From data to a chart: pure functions that pages, reports and notebooks share."""
