"""From numbers to results.json, tables, a page."""
