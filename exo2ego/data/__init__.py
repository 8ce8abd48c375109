"""Reading data: clip tables, videos, batches."""
