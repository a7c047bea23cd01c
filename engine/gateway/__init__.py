"""The door: REST and gRPC on one port."""
