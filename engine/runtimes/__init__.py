"""Who computes: the runtime contract, and runtimes in this process and behind V2 servers."""
