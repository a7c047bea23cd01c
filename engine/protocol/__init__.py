"""What travels: V2 messages, tensors, records, headers and topic names. Pure bytes and values, no I/O."""
