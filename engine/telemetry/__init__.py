"""What a process tells of itself: figures that it counts, and how Prometheus reads them."""
