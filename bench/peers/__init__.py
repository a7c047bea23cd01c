"""What the product is measured against: programs that read the same records and write the same topics."""
