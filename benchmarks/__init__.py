"""What the product is worth and what it costs, measured: figures of merit, times, memory. Not installed."""
