"""How it travels: the broker, topics, agents that read whole fetches, checkpoints, replies and the registry."""
